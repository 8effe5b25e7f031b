"""Where a text may be cut: extended grapheme clusters (UAX 29), from what unicodedata knows.
Where it knows too little, two clusters are taken for one: a cut never tears what a reader sees as one character."""

import unicodedata
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal[
    "other", "cr", "lf", "control", "extend", "zwj", "flag", "picture", "prepend", "L", "V", "T", "LV", "LVT",
    "linker", "letter",
]  # fmt: skip

ELLIPSIS: Final = "…"

_ZWJ, _ZWNJ = "\u200d", "\u200c"
# GB9c: conjuncts are written consonant, linker (virama), consonant, and read as one.
_LINKERS: Final = frozenset(
    map(chr, (
        0x094D, 0x09CD, 0x0ACD, 0x0B4D, 0x0C4D, 0x0D4D, 0x1039, 0x17D2, 0x1A60, 0x1B44, 0x1BAB, 0xA9C0, 0xAAF6,
        0x10A3F, 0x11133, 0x113D0, 0x1193E, 0x11A47, 0x11A99, 0x11F42,
    ))
)  # fmt: skip
# Kinds that follow from the code point, in order; the first that fits.
_RANGES: Final[tuple[tuple[int, int, Kind], ...]] = (
    (0x0600, 0x0605, "prepend"), (0x06DD, 0x06DD, "prepend"), (0x070F, 0x070F, "prepend"),
    (0x0890, 0x0891, "prepend"), (0x08E2, 0x08E2, "prepend"), (0x0D4E, 0x0D4E, "prepend"),
    (0x110BD, 0x110BD, "prepend"), (0x110CD, 0x110CD, "prepend"), (0x111C2, 0x111C3, "prepend"),
    (0x1193F, 0x1193F, "prepend"), (0x11941, 0x11941, "prepend"), (0x11A3A, 0x11A3A, "prepend"),
    (0x11A84, 0x11A89, "prepend"), (0x11D46, 0x11D46, "prepend"), (0x11F02, 0x11F02, "prepend"),
    (0x0E33, 0x0E33, "extend"), (0x0EB3, 0x0EB3, "extend"), (0xFF9E, 0xFF9F, "extend"),
    (0x1F3FB, 0x1F3FF, "extend"), (0xE0020, 0xE007F, "extend"),  # skin tones; tags
    (0xE01F0, 0xE0FFF, "control"), (0xE0080, 0xE00FF, "control"),
    (0x1100, 0x115F, "L"), (0xA960, 0xA97C, "L"), (0x1160, 0x11A7, "V"), (0xD7B0, 0xD7C6, "V"),
    (0x11A8, 0x11FF, "T"), (0xD7CB, 0xD7FB, "T"), (0xAC00, 0xD7A3, "LVT"),
    (0x1F1E6, 0x1F1FF, "flag"),
    (0xA9, 0xA9, "picture"), (0xAE, 0xAE, "picture"), (0x203C, 0x203C, "picture"), (0x2049, 0x2049, "picture"),
    (0x2122, 0x2122, "picture"), (0x2139, 0x2139, "picture"), (0x2190, 0x21FF, "picture"),
    (0x2300, 0x23FF, "picture"), (0x24C2, 0x24C2, "picture"), (0x25A0, 0x27BF, "picture"),
    (0x2900, 0x297F, "picture"), (0x2B00, 0x2BFF, "picture"), (0x3030, 0x3030, "picture"),
    (0x303D, 0x303D, "picture"), (0x3297, 0x3297, "picture"), (0x3299, 0x3299, "picture"),
    (0x1F000, 0x1FAFF, "picture"), (0x1FC00, 0x1FFFD, "picture"),
)  # fmt: skip
_CATEGORIES: Final[dict[str, Kind]] = {
    "Mn": "extend", "Me": "extend", "Mc": "extend", "Lo": "letter",
    "Cc": "control", "Cf": "control", "Zl": "control", "Zp": "control",
}  # fmt: skip
_SINGLE: Final[dict[str, Kind]] = {
    "\r": "cr", "\n": "lf", _ZWJ: "zwj", _ZWNJ: "extend", **dict.fromkeys(_LINKERS, "linker"),
}  # fmt: skip
# GB6 to GB8: what may follow within a Hangul syllable.
_HANGUL: Final[dict[Kind, frozenset[Kind]]] = {
    "L": frozenset({"L", "V", "LV", "LVT"}),
    "LV": frozenset({"V", "T"}), "V": frozenset({"V", "T"}),
    "LVT": frozenset({"T"}), "T": frozenset({"T"}),
}  # fmt: skip
_ALONE: Final = frozenset({"cr", "lf", "control"})
_AFTER: Final = frozenset({"extend", "zwj", "linker"})


@lru_cache(maxsize=4096)
def _kind(char: str) -> Kind:
    single = _SINGLE.get(char)
    if single is not None:
        return single
    point = ord(char)
    for first, last, kind in _RANGES:
        if first <= point <= last:
            return "LV" if kind == "LVT" and (point - 0xAC00) % 28 == 0 else kind
    return _CATEGORIES.get(unicodedata.category(char), "other")


def graphemes(text: str) -> Iterator[str]:
    """The grapheme clusters of `text`, in order; joined they are `text`."""
    start, before = 0, "cr"
    flags, picture, linked = 0, False, False
    for place, char in enumerate(text):
        kind = _kind(char)
        joined = place > 0 and (
            _sticks(before, kind)
            or (kind == "flag" and flags % 2 == 1)  # GB12, GB13: flags are pairs
            or (kind == "picture" and before == "zwj" and picture)  # GB11
            or (kind == "letter" and linked)  # GB9c
        )
        if place > 0 and not joined:
            yield text[start:place]
            start = place
        flags = flags + 1 if kind == "flag" else 0
        picture = kind == "picture" or (kind in _AFTER and joined and picture)
        linked = kind == "linker" or (kind in _AFTER and linked)
        before = kind
    if text:
        yield text[start:]


def _sticks(before: str, kind: Kind) -> bool:
    """Whether no boundary lies between two characters of these kinds, as far as the two alone decide."""
    if before in _ALONE or kind in _ALONE:
        return before == "cr" and kind == "lf"  # GB3 to GB5
    if kind in _AFTER or before == "prepend":
        return True  # GB9, GB9a, GB9b
    return kind in _HANGUL.get(before, ())  # type: ignore[call-overload]  # most kinds are no key


def first(text: str, count: int) -> str:
    """At most `count` clusters of `text`, the last an ellipsis where something was cut off."""
    if len(text) <= count:
        return text
    kept: list[str] = []
    for cluster in graphemes(text):
        kept.append(cluster)
        if len(kept) > count:
            return "".join(kept[: max(0, count - 1)]).rstrip() + ELLIPSIS
    return text


def cut(text: str, room: int, size: Callable[[str], int]) -> str:
    """The longest beginning of `text` that ends between clusters, with an ellipsis, and has `size` at most `room`.

    `size` must be additive over the parts. All of `text` if it fits; "" if not even the ellipsis does.
    """
    if size(text) <= room:
        return text
    room -= size(ELLIPSIS)
    if room < 0:
        return ""
    end = 0
    for cluster in graphemes(text):
        room -= size(cluster)
        if room < 0:
            break
        end += len(cluster)
    return text[:end].rstrip() + ELLIPSIS
