"""Words: a template for each kind, other languages, and names that mean harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.graphemes import graphemes
from notifier.core.model import Actor, Notification, Object
from notifier.core.text import ENGLISH, LANGUAGES, NAME_LENGTH, Language, language, sentence

PHOTO = Object("photo", "99")
GERMAN = Language(
    kinds={"like": ("{object}: {actor} gefällt das",)},
    other=("Neues von {actor}",),
    hidden="Etwas Neues",
    somebody="Jemand",
    objects={"photo": "Dein Foto"},
)
SWISS = Language(kinds={}, other=(), hidden="Öppis Neus", somebody="Öpper")
THREE = {**LANGUAGES, "de": GERMAN, "de-CH": SWISS}


def row(
    kind: str, name: str | None = "ana", thing: Object | None = PHOTO, text: str | None = None
) -> Notification:
    return Notification("e1", kind, (Actor("42", name),), 1, 0, thing, text, "g", "1.a", 3)


SAID = [
    (row("follow", thing=None), "ana started following you"),
    (row("like"), "ana liked your photo"),
    (row("like", thing=None), "ana liked what you shared"),
    (row("comment", text="how nice!"), "ana commented: how nice!"),
    (row("comment"), "ana commented on your photo"),
    (row("comment", thing=None, text="  "), "ana commented"),
    (row("like", name=None), "Somebody liked your photo"),
    (row("like", name=" \t "), "Somebody liked your photo"),
    (row("like", name="  ana \n maria "), "ana maria liked your photo"),
    (row("mention", text="hi"), "ana: hi"),
    (row("mention"), "New notification from ana"),
    (Notification("e1", "like", (), 0, 0, PHOTO, None, "", "1.a", 3), "Somebody liked your photo"),
]


@pytest.mark.parametrize(("one", "said"), SAID, ids=[said for _, said in SAID])
def test_what_is_said(one: Notification, said: str) -> None:
    assert sentence(one, ENGLISH) == said


LOCALES = [
    ("", ENGLISH), ("en", ENGLISH), ("en-GB", ENGLISH), ("fr", ENGLISH), ("de", GERMAN), ("de_AT", GERMAN),
    ("de-AT-1996", GERMAN), ("de-CH", SWISS), ("de-CH-x", SWISS), ("d", ENGLISH), ("-", ENGLISH),
]  # fmt: skip


@pytest.mark.parametrize(("locale", "found"), LOCALES)
def test_the_nearest_language(locale: str, found: Language) -> None:
    assert language(locale, THREE) is found


def test_another_language_says_what_it_can_and_english_the_rest() -> None:
    assert sentence(row("like"), GERMAN) == "Dein Foto: ana gefällt das"
    assert sentence(row("comment", text="toll"), GERMAN) == "ana commented: toll"
    assert sentence(row("mention"), GERMAN) == "Neues von ana"
    assert sentence(row("like", name=None), SWISS) == "Öpper liked your photo"


def test_a_name_cannot_turn_the_words_around_nor_fill_a_place() -> None:
    assert sentence(row("like", name="\u202eana\u2066"), ENGLISH) == "ana liked your photo"
    assert sentence(row("like", name="{text}{object}{0.__class__}"), ENGLISH) == (
        "{text}{object}{0.__class__} liked your photo"
    )
    assert sentence(row("comment", text="{actor}\u202e%s"), ENGLISH) == "ana commented: {actor}%s"


@given(st.text(max_size=300))
def test_a_name_leaves_room_for_what_happened(name: str) -> None:
    said = sentence(row("like", name=name), ENGLISH)
    assert said.endswith(" liked your photo")
    assert len(list(graphemes(said.removesuffix(" liked your photo")))) <= NAME_LENGTH
