"""Header blocks of peers: the RFC's own, those of another implementation, and those that nobody should send."""

from __future__ import annotations

import hpack
import pytest
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.http2 import huffman
from notifier.core.http2.hpack_decoder import BadBlock, Decoder, ListTooLong
from notifier.core.http2.hpack_encoder import integer
from notifier.core.http2.hpack_static import STATIC

Fields = list[tuple[bytes, bytes]]


def fields(*lines: str) -> Fields:
    split = (line.encode().partition(b": ") for line in lines)
    return [(name, value) for name, _, value in split]


WWW = ":authority: www.example.com"
CUSTOM = "custom-key: custom-value"
REQUESTS = (
    (fields(":method: GET", ":scheme: http", ":path: /", WWW), 57),
    (fields(":method: GET", ":scheme: http", ":path: /", WWW, "cache-control: no-cache"), 110),
    (fields(":method: GET", ":scheme: https", ":path: /index.html", WWW, CUSTOM), 164),
)
FIRST_DATE, SECOND_DATE = "date: Mon, 21 Oct 2013 20:13:21 GMT", "date: Mon, 21 Oct 2013 20:13:22 GMT"
LOCATION = "location: https://www.example.com"
COOKIE = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"
RESPONSES = (
    (fields(":status: 302", "cache-control: private", FIRST_DATE, LOCATION), 222),
    (fields(":status: 307", "cache-control: private", FIRST_DATE, LOCATION), 222),
    (
        fields(
            ":status: 200", "cache-control: private", SECOND_DATE, LOCATION, "content-encoding: gzip", COOKIE
        ),
        215,
    ),
)
# RFC 7541 Appendix C: table size, blocks, what each holds and how large the table is then.
VECTORS = {
    "C.2.1": (
        4096,
        ["400a637573746f6d2d6b65790d637573746f6d2d686561646572"],
        [(fields("custom-key: custom-header"), 55)],
    ),
    "C.2.2": (4096, ["040c2f73616d706c652f70617468"], [(fields(":path: /sample/path"), 0)]),
    "C.2.3": (4096, ["100870617373776f726406736563726574"], [(fields("password: secret"), 0)]),
    "C.2.4": (4096, ["82"], [(fields(":method: GET"), 0)]),
    "C.3": (
        4096,
        [
            "828684410f7777772e6578616d706c652e636f6d",
            "828684be58086e6f2d6361636865",
            "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
        ],
        REQUESTS,
    ),
    "C.4": (
        4096,
        [
            "828684418cf1e3c2e5f23a6ba0ab90f4ff",
            "828684be5886a8eb10649cbf",
            "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
        ],
        REQUESTS,
    ),
    "C.5": (
        256,
        [
            "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54"
            "6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
            "4803333037c1c0bf",
            "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d"
            "4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e"
            "3d31",
        ],
        RESPONSES,
    ),
    "C.6": (
        256,
        [
            "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae"
            "82ae43d3",
            "4883640effc1c0bf",
            "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960"
            "d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
        ],
        RESPONSES,
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_appendix_c(name: str) -> None:
    table, blocks, expected = VECTORS[name]
    decoder = Decoder(16_384)
    decoder.table_max = table
    for block, (wanted, size) in zip(blocks, expected, strict=True):
        assert decoder.decode(bytes.fromhex(block)) == wanted
        assert decoder.size == size


@pytest.mark.parametrize(("value", "mask", "coded"), [(10, 31, "0a"), (1337, 31, "1f9a0a"), (42, 255, "2a")])
def test_integers_of_appendix_c(value: int, mask: int, coded: str) -> None:
    assert integer(value, mask, 0).hex() == coded


def test_the_static_table() -> None:
    assert tuple(HeaderTable.STATIC_TABLE) == STATIC


def test_every_byte_has_its_huffman_code() -> None:
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    for byte in range(256):
        assert huffman.decode(encoder.encode(bytes((byte,)))) == bytes((byte,))


@given(st.binary(max_size=300))
def test_huffman_strings(text: bytes) -> None:
    encoder = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
    assert huffman.decode(encoder.encode(text)) == text


@pytest.mark.parametrize(
    ("coded", "why"),
    [
        ("ff", "padded"),  # eight ones: a byte that is only padding
        ("1fff", "padded"),  # "a" and eleven ones
        ("00", "padded"),  # "0" and three zeros
        ("fffffffc", "EOS"),
        ("1ffffffffc", "EOS"),
    ],
)
def test_huffman_strings_that_end_wrong(coded: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        huffman.decode(bytes.fromhex(coded))


names = st.from_regex(rb"[a-z0-9-]{1,20}", fullmatch=True) | st.sampled_from([n for n, _ in STATIC])
values = st.binary(max_size=80)
lists = st.lists(st.tuples(names, values) | st.sampled_from(STATIC), max_size=8)
sizes = st.none() | st.integers(0, 4096)


@given(st.lists(st.tuples(sizes, lists, st.booleans()), max_size=8))
def test_blocks_of_another_encoder(blocks: list[tuple[int | None, Fields, bool]]) -> None:
    """Also when it changes the size of its table between blocks."""
    encoder, decoder = hpack.Encoder(), Decoder(1 << 20)
    for size, wanted, huffman_coded in blocks:
        if size is not None:
            encoder.header_table_size = size
        assert decoder.decode(encoder.encode(wanted, huffman=huffman_coded)) == wanted
        assert decoder.size <= decoder.table_max <= 4096


@given(st.binary(max_size=200))
def test_any_bytes(block: bytes) -> None:
    """Whatever comes: fields as another decoder sees them, or an error where it has one."""
    other = hpack.Decoder(max_header_list_size=16_384)
    other.max_allowed_table_size = 4096
    decoder = Decoder(16_384)
    try:
        found: Fields | None = decoder.decode(block)
    except (BadBlock, ListTooLong):
        found = None
    assert decoder.size <= 4096
    try:
        wanted = [(bytes(name), bytes(value)) for name, value in other.decode(block, raw=True)]
    except hpack.HPACKError:
        # hpack has no bound on integers, and refuses some sizes earlier; it never takes less than we do.
        assert found is None
    else:
        assert found is None or found == wanted


@pytest.mark.parametrize(
    ("block", "why"),
    [
        ("80", "entry 0"),
        ("be", "entry 62"),
        ("ff80808080808001", "proportion"),
        ("ffffffffff0f", "proportion"),
        ("40", "ends in the middle"),
        ("4003616263", "ends in the middle"),
        ("400361", "beyond"),
        ("040aff", "beyond"),
        ("8820", "middle of a header block"),
        ("3fe21f", "wants a table of 4097"),
        ("0081ff0161", "padded"),
    ],
)
def test_blocks_that_cannot_be_decoded(block: str, why: str) -> None:
    with pytest.raises(BadBlock, match=why):
        Decoder(16_384).decode(bytes.fromhex(block))


def test_the_size_we_ask_for_is_the_most_the_peer_may_use() -> None:
    decoder = Decoder(16_384, allowed=0)
    decoder.decode(b"\x20\x88")
    assert decoder.stateless
    with pytest.raises(BadBlock, match="allowed are 0"):
        decoder.decode(b"\x21\x88")


def test_a_peer_that_has_not_shrunk_its_table_yet_is_understood() -> None:
    decoder = Decoder(16_384)
    decoder.decode(bytes.fromhex("400361626303646566"))
    decoder.allowed = 0
    assert decoder.decode(b"\xbe") == [(b"abc", b"def")]
    before = decoder.stateless
    decoder.decode(b"\x20")
    assert (before, decoder.stateless, decoder.size) == (False, True, 0)


def test_a_header_bomb_is_stopped_while_it_unfolds() -> None:
    """4 000 bytes that are named 10 000 times by a byte each."""
    decoder = Decoder(16_384)
    bomb = b"\x40\x01a" + integer(4000, 0x7F, 0) + b"x" * 4000 + b"\xbe" * 10_000
    with pytest.raises(ListTooLong, match="16384"):
        decoder.decode(bomb)
