"""What we encode, read by another implementation; and what it must cost after the first time."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from notifier.core.http2 import Template, constant, secret, varying
from notifier.core.http2.hpack_encoder import Encoder, integer
from tests.core.http2.world import ID, TOKEN, apns

Fields = list[tuple[bytes, bytes]]


def read(decoder: hpack.Decoder, block: bytes) -> Fields:
    return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]


def meant(template: Template, values: tuple[bytes, ...]) -> Fields:
    given = iter(values)
    return [(f.name, f.prefix + next(given) if f.value is None else f.value) for f in template.fields]


def test_after_the_first_request_constants_take_a_byte_each() -> None:
    encoder, template = Encoder(), apns()
    first = encoder.encode(template, (TOKEN, ID))
    second = encoder.encode(template, (TOKEN, ID))
    # :path is 1 + 1 + 10 + 64, apns-id 2 + 1 + 36 (its index is over 14), five constants one byte each,
    # :method and :scheme among them.
    assert len(second) == 76 + 39 + 6
    assert len(first) > len(second) + 90
    assert encoder.encode(template, (TOKEN, ID)) == second


def test_a_private_value_is_marked_never_to_be_indexed() -> None:
    decoder = hpack.Decoder()
    found = decoder.decode(Encoder().encode(apns(indexed=False), (TOKEN, ID)), raw=True)
    never = {
        name for field in found for name in [field[0]] if isinstance(field, hpack.NeverIndexedHeaderTuple)
    }
    assert never == {b":path", b"authorization"}


def test_a_value_that_varies_is_not_remembered_but_its_name_is() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    for number in range(5):
        read(decoder, encoder.encode(apns(), (TOKEN, b"%036d" % number)))
    known = [bytes(value) for name, value in decoder.header_table.dynamic_entries if name == b"apns-id"]
    assert known == [b"%036d" % 0]
    assert not any(TOKEN in value for _, value in decoder.header_table.dynamic_entries)


def test_a_pattern_is_the_block() -> None:
    encoder, template = Encoder(), apns()
    assert encoder.pattern(template, (64, 36)) is None  # the peer knows nothing yet
    encoder.encode(template, (TOKEN, ID))
    pieces = encoder.pattern(template, (64, 36))
    assert pieces is not None
    before, between, behind = pieces
    assert before + TOKEN + between + ID + behind == encoder.encode(template, (TOKEN, ID))


def test_old_credentials_are_cleared_away_before_they_fill_the_table() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    for day in range(40):
        template = apns(b"%0200d" % day)
        sizes = []
        for number in range(200):
            block = encoder.encode(template, (TOKEN, b"%036d" % number))
            assert read(decoder, block) == meant(template, (TOKEN, b"%036d" % number))
            sizes.append(len(block))
        if day > 20:  # five or six of such tokens fill the table, and a reset comes after 1 000 blocks
            assert min(sizes) < 130


def test_more_kinds_than_the_table_holds_do_not_empty_it_all_the_time() -> None:
    encoder, decoder = Encoder(), hpack.Decoder()
    templates = [apns(topic=b"com.example.%0100d" % number) for number in range(100)]
    resets = 0
    for number in range(3000):
        template = templates[number % 100]
        block = encoder.encode(template, (TOKEN, ID))
        resets += block.startswith(b"\x20")
        assert read(decoder, block) == meant(template, (TOKEN, ID))
    assert resets <= 3


@pytest.mark.parametrize("limit", [0, 100, 4096])
@pytest.mark.parametrize("peer", [0, 64, 200, 4096, 1 << 20])
def test_the_peers_table_is_never_overrun(limit: int, peer: int) -> None:
    encoder, decoder = Encoder(limit), hpack.Decoder()
    encoder.obey(peer)
    decoder.max_allowed_table_size = peer
    for _ in range(3):
        block = encoder.encode(apns(), (TOKEN, ID))
        assert read(decoder, block) == meant(apns(), (TOKEN, ID))
    assert decoder.header_table_size <= max(limit, 0) or limit == 4096


def test_a_table_that_shrinks_and_grows_again_between_two_blocks_is_told_empty() -> None:
    encoder = Encoder()
    encoder.encode(apns(), (TOKEN, ID))
    encoder.obey(0)
    encoder.obey(4096)
    block = encoder.encode(apns(), (TOKEN, ID))
    assert block.startswith(b"\x20" + integer(4096, 0x1F, 0x20))


tokens = st.text("0123456789abcdef", min_size=2, max_size=200).map(str.encode)
visible = st.text([chr(c) for c in range(33, 127)], min_size=1, max_size=300).map(str.encode)


@st.composite
def templates(draw: st.DrawFn) -> Template:
    more = draw(
        st.lists(
            st.tuples(
                st.sampled_from((b"a", b"b-c", b"apns-topic", b"date", b"x" * 200)),
                visible,
                st.integers(0, 3),
            ),
            max_size=5,
        )
    )
    made = [
        constant(b":method", b"POST"),
        constant(b":scheme", b"https"),
        constant(b":authority", draw(visible)),
        varying(b":path", draw(st.sampled_from((b"", b"/3/device/", b"/%s%%"))), draw(st.booleans())),
    ]
    for name, value, kind in more:
        made.append(
            (constant(name, value), secret(name, value, False), secret(name, value, True), varying(name))[
                kind
            ]
        )
    return Template(made)


class Tables(RuleBasedStateMachine):
    """Any requests, any changes of the peer's settings: its decoder reads what was meant."""

    @initialize(limit=st.sampled_from((0, 50, 300, 4096)))
    def begin(self, limit: int) -> None:
        self.encoder, self.decoder = Encoder(limit), hpack.Decoder(max_header_list_size=1 << 20)
        self.templates: list[Template] = []

    @rule(template=templates())
    def know(self, template: Template) -> None:
        self.templates.append(template)

    @rule(which=st.integers(0, 100), values=st.lists(visible, min_size=6, max_size=6), twice=st.booleans())
    def request(self, which: int, values: list[bytes], twice: bool) -> None:
        if not self.templates:
            return
        template = self.templates[which % len(self.templates)]
        given = tuple(values[: template.varying])
        for _ in range(1 + twice):
            pieces = self.encoder.pattern(template, tuple(map(len, given)))
            version = self.encoder.version
            block = self.encoder.encode(template, given)
            assert read(self.decoder, block) == meant(template, given)
            if pieces is not None:
                said = b"".join(a + b for a, b in zip(pieces, (*given, b""), strict=True))
                assert said == block
                assert self.encoder.version == version

    @rule(size=st.sampled_from((0, 40, 100, 1000, 4096, 9999)))
    def settings(self, size: int) -> None:
        self.decoder.max_allowed_table_size = size
        self.encoder.obey(size)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=60, stateful_step_count=20)


@given(st.integers(0, 1 << 24), st.sampled_from((0x0F, 0x1F, 0x3F, 0x7F)))
def test_integers(value: int, mask: int) -> None:
    coded = integer(value, mask, 0)
    bits = mask.bit_length()
    assert hpack.hpack.decode_integer(coded, bits) == (value, len(coded))


# --- Templates ------------------------------------------------------------------------------------

GOOD = [
    constant(b":method", b"POST"),
    constant(b":scheme", b"https"),
    constant(b":authority", b"example.com"),
    constant(b":path", b"/"),
]


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        (GOOD[:3], "once each"),
        ([*GOOD, constant(b":path", b"/")], "once each"),
        ([*GOOD, constant(b":status", b"200")], "once each"),
        ([constant(b"a", b"b"), *GOOD], "before all other"),
        ([*GOOD, constant(b"Accept", b"b")], "lower case"),
        ([*GOOD, constant(b"connection", b"close")], "not about the connection"),
        ([*GOOD, constant(b"host", b"example.com")], "not about the connection"),
        ([*GOOD, constant(b"a", b"b\r\nc: d")], "control characters"),
        ([*GOOD, constant(b"a", b" b")], "blanks"),
        ([*GOOD, varying(b"a", b"b\0")], "control characters"),
        ([*GOOD, constant(b"", b"b")], "header name"),
    ],
)
def test_templates_that_no_server_would_take(fields: list, why: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(ValueError, match=why):
        Template(fields)
