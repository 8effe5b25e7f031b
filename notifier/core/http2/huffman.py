"""Strings in the Huffman code of HPACK, decoded (RFC 7541 5.2, Appendix B). Nothing is encoded with it: our
constants are sent once, and the values that change are mostly hexadecimal, where it gains little."""

from functools import lru_cache
from typing import Final

_EOS: Final = 256

# The length in bits of the code of each byte, and of EOS. The code is canonical: lengths alone give the codes.
_LENGTHS: Final = (
    *bytes.fromhex(
        "0d171c1c1c1c1c1c1c181e1c1c1e1c1c1c1c1c1c1c1c1e1c1c1c1c1c1c1c1c1c"
        "060a0a0c0d06080b0a0a080b080606060505050606060606060607080f060c0a"
        "0d06070707070707070707070707070707070707070707070807080d130d0e06"
        "0f05060506050606060507070606060506070605050607070707070f0b0e0d1c"
        "1416141416161617161717171717181718181617181717171715161716171718"
        "1615141616171715171616181516171715151615171617171416161617161617"
        "1a1a1413161716191a1a1a1b1b1a181913151a1b1b1a1b1815151a1a1c1b1b1b"
        "14181415161515171616191918181a171a1b1a1a1b1b1b1b1b1c1b1b1b1b1b1a"
    ),
    30,
)

_Node = list[int]
"""What follows on a 0 and on a 1: the number of a node, or ~symbol; 0, the root, while that is not known."""


def _tree() -> list[_Node]:
    """The nodes of the code's tree; the first is the root."""
    nodes: list[_Node] = [[0, 0]]
    code = bits = 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(_LENGTHS)):
        code <<= length - bits
        bits = length
        node = nodes[0]
        for shift in range(length - 1, 0, -1):
            branch = code >> shift & 1
            if not node[branch]:
                node[branch] = len(nodes)
                nodes.append([0, 0])
            node = nodes[node[branch]]
        node[code & 1] = ~symbol
        code += 1
    return nodes


_Steps = list[tuple[int, bytes]]
"""By 16 times the node's number plus four bits: the node that they lead to, and the bytes met on the way."""

_DEAD: Final = -1


def _steps(nodes: list[_Node]) -> _Steps:
    return [_walk(nodes, start, four) for start in range(len(nodes)) for four in range(16)]


def _walk(nodes: list[_Node], node: int, four: int) -> tuple[int, bytes]:
    met = b""
    for shift in (3, 2, 1, 0):
        node = nodes[node][four >> shift & 1]
        if node < 0:
            if ~node == _EOS:
                return _DEAD, b""
            met += bytes((~node,))
            node = 0
    return node, met


def _ends(nodes: list[_Node]) -> frozenset[int]:
    """Where a string may end: after a whole code and at most 7 ones, the start of EOS (RFC 7541 5.2)."""
    ends = [0]
    for _ in range(7):
        ends.append(nodes[ends[-1]][1])
    return frozenset(ends)


_NODES: Final = _tree()
_STEPS: Final = _steps(_NODES)
_ENDS: Final = _ends(_NODES)


# A server says the same few strings again and again, and its date for a second.
@lru_cache(maxsize=512)
def decode(data: bytes) -> bytes:
    """The string that `data` stands for. Raises ValueError if it holds EOS or does not end as it must."""
    node = 0
    met: list[bytes] = []
    for byte in data:
        node, first = _STEPS[node << 4 | byte >> 4]
        if node >= 0:
            node, second = _STEPS[node << 4 | byte & 15]
            met += (first, second)
        if node < 0:
            raise ValueError("a Huffman string holds EOS")
    if node not in _ENDS:
        raise ValueError("a Huffman string is not padded with at most 7 ones")
    return b"".join(met)
