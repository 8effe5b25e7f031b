"""Where a text may be cut, on a table of what people write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.graphemes import ELLIPSIS, cut, first, graphemes

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466"
WAVE_DARK = "\U0001f44b\U0001f3ff"
RAINBOW = "\U0001f3f3\ufe0f\u200d\U0001f308"
HEART = "\u2764\ufe0f"
SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"
DE, FR, LONE = "\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7", "\U0001f1e9"
KEYCAP = "1\ufe0f\u20e3"
HAN = "\u1112\u1161\u11ab"  # a Hangul syllable in its three parts
KSSI = "\u0915\u094d\u0937\u093f"  # Devanagari, one conjunct with its vowel
ZALGO = "a" + "\u0301\u0489" * 20

TABLE: list[tuple[str, list[str]]] = [
    ("", []),
    ("ana", ["a", "n", "a"]),
    ("e\u0301te\u0301", ["e\u0301", "t", "e\u0301"]),
    ("\r\n\n\r", ["\r\n", "\n", "\r"]),
    ("\n\u0301", ["\n", "\u0301"]),
    (FAMILY + FAMILY, [FAMILY, FAMILY]),
    (WAVE_DARK + "!", [WAVE_DARK, "!"]),
    (RAINBOW + HEART, [RAINBOW, HEART]),
    (SCOTLAND + SCOTLAND, [SCOTLAND, SCOTLAND]),
    (DE + FR + LONE, [DE, FR, LONE]),
    ("x" + DE + FR, ["x", DE, FR]),
    (LONE + "x" + DE, [LONE, "x", DE]),
    (KEYCAP + "2", [KEYCAP, "2"]),
    (HAN + HAN, [HAN, HAN]),
    ("\uac00\u11a8\uac01\u11a8", ["\uac00\u11a8", "\uac01\u11a8"]),
    ("\uac00\u1161\u11a8", ["\uac00\u1161\u11a8"]),
    ("\uac01\u1161", ["\uac01", "\u1161"]),
    ("\u1100\uac00", ["\u1100\uac00"]),
    (KSSI + "\u0915", [KSSI, "\u0915"]),
    ("\u0e01\u0e33\u0e01", ["\u0e01\u0e33", "\u0e01"]),
    ("\u0600\u0661\u0662", ["\u0600\u0661", "\u0662"]),
    (ZALGO + "b", [ZALGO, "b"]),
    ("a\u200db", ["a\u200d", "b"]),
    ("a\u200d\U0001f308", ["a\u200d", "\U0001f308"]),
    ("\u4f60\u597d", ["\u4f60", "\u597d"]),
    ("\ufeffa", ["\ufeff", "a"]),
]


@pytest.mark.parametrize(("text", "parts"), TABLE, ids=[ascii(text)[:30] for text, _ in TABLE])
def test_what_a_reader_sees_as_one(text: str, parts: list[str]) -> None:
    assert list(graphemes(text)) == parts


pieces = st.lists(
    st.sampled_from([part for _, parts in TABLE for part in parts]) | st.characters(), max_size=30
)


@given(pieces.map("".join))
def test_nothing_is_lost_or_added(text: str) -> None:
    assert "".join(graphemes(text)) == text
    assert all(graphemes(text))


@given(pieces.map("".join), st.integers(0, 60))
def test_a_cut_is_between_two_characters_and_as_late_as_it_can_be(text: str, room: int) -> None:
    def size(part: str) -> int:
        return len(part.encode("utf-8", "surrogatepass"))

    made = cut(text, room, size)
    assert size(made) <= room
    if size(text) <= room:
        assert made == text
    elif room < 3:
        assert made == ""
    else:
        ends, end = {0}, 0
        for part in graphemes(text):
            end += len(part)
            ends.add(end)
        kept = made.removesuffix(ELLIPSIS)
        assert text.startswith(kept)
        fitting = max(end for end in ends if size(text[:end]) <= room - 3)
        assert kept == text[:fitting].rstrip()


@pytest.mark.parametrize(
    ("text", "count", "made"),
    [("ana", 3, "ana"), ("anna", 3, "an…"), (FAMILY * 3, 3, FAMILY * 3), (FAMILY * 4, 2, FAMILY + "…"),
     ("a b c", 3, "a…"), ("abc", 1, "…"), ("", 0, ""), ("abc", 0, "…")],
)  # fmt: skip
def test_the_first_characters(text: str, count: int, made: str) -> None:
    assert first(text, count) == made
