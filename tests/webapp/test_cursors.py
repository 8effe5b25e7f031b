"""Cursors: they come back as they went out, and nothing else is taken for one."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.cursors import decode, encode
from webapp.problems import Problem

NUMBERS = st.integers(0, (1 << 63) - 1)


@given(st.lists(NUMBERS, min_size=1, max_size=4))
def test_a_place_comes_back(place: list[int]) -> None:
    cursor = encode("photos", *place)
    assert decode("photos", cursor, len(place)) == tuple(place)
    assert cursor.replace("-", "").replace("_", "").isalnum()


def test_none_is_the_beginning() -> None:
    assert decode("photos", None) is None


@given(st.text(max_size=200))
def test_any_text_is_a_problem(text: str) -> None:
    with pytest.raises(Problem) as caught:
        decode("photos", text)
    assert caught.value.status == 400


def plain(text: str) -> str:
    return urlsafe_b64encode(text.encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        encode("likes", 5),
        encode("photos", 5, 6),
        encode("photos", 5) + "=",
        encode("photos", 5) + "\n",
        plain("photos.05"),
        plain(f"photos.{1 << 63}"),
        plain("photos.-5"),
        plain("photos.٣"),
        plain("photos"),
        plain("photos.1;drop"),
        "a",
        "\x00",
    ],
    ids=ascii,
)
def test_a_cursor_of_elsewhere_is_a_problem(cursor: str) -> None:
    with pytest.raises(Problem) as caught:
        decode("photos", cursor)
    assert caught.value.kind == "gone-cursor"
