"""The site's words, asked of its own modules in a browser."""

from __future__ import annotations

from typing import Any

import pytest

from tests.page.chromium import Chromium, Window
from tests.webapp.page.fake import FakeApi, FakeServer

NOW = "2026-11-22T12:00:00Z"
MAHALO = {"id": "1", "name": "mahalo"}


@pytest.fixture(scope="module")
def window(started: Chromium) -> Any:
    with FakeServer(FakeApi()) as server:
        yield started.open(server.url + "/login")
    started.close()


def ask(window: Window, function: str, *given: Any) -> Any:
    """What a function of words.js gives."""
    return window.driver.execute_async_script(
        "const [name, given, done] = arguments;"
        "import('/static/words.js').then((words) => words[name](...given)).then(done)",
        function,
        given,
    )


@pytest.mark.parametrize(
    ("time", "long", "short"),
    [
        ("2026-11-22T12:00:05Z", "just now", "now"),  # clocks differ
        ("2026-11-22T11:59:01Z", "just now", "now"),
        ("2026-11-22T11:59:00Z", "1 minute ago", "1m"),
        ("2026-11-22T11:00:01Z", "59 minutes ago", "59m"),
        ("2026-11-22T09:00:00Z", "3 hours ago", "3h"),
        ("2026-11-21T12:00:00Z", "yesterday", "1d"),
        ("2026-11-15T12:00:01Z", "6 days ago", "6d"),
        ("2026-11-15T12:00:00Z", "November 15, 2026", "1w"),
        ("2025-11-22T12:00:00Z", "November 22, 2025", "52w"),
    ],
)
def test_times(window: Window, time: str, long: str, short: str) -> None:
    now = window.run("return Date.parse(arguments[0])", NOW)
    assert ask(window, "ago", time, now) == long
    assert ask(window, "briefly", time, now) == short


@pytest.mark.parametrize(
    ("text", "linked"),
    [
        ("hello", []),
        ("@Ana and @ben.k.", ["ana", "ben.k"]),
        ("mail@example.com, a.@b, (@eve_o)!", ["eve_o"]),
        ("@a@b @ @. @.x", ["a", ".x"]),
        ("é@ana", []),
        ("@" + "a" * 30 + " @" + "b" * 31, ["a" * 30]),
        ("<b>@ana</b>", ["ana"]),
    ],
)
def test_mentions_are_links_and_all_else_is_text(window: Window, text: str, linked: list[str]) -> None:
    parts = window.driver.execute_async_script(
        "const [text, done] = arguments; import('/static/words.js').then(({linked}) => {"
        "const node = document.createElement('p'); node.append(...linked(text));"
        "done([node.textContent, [...node.querySelectorAll('a')].map((link) => link.pathname.slice(3))]); })",
        text,
    )
    assert parts == [text, linked]


@pytest.mark.parametrize(
    ("actors", "count", "words"),
    [
        (["ana"], 1, "ana"),
        (["ana", "ben"], 2, "ana and ben"),
        (["ana"], 2, "ana and 1 other"),
        (["ana", "ben", "eve"], 9, "ana and 8 others"),
        ([None], 1, "0"),
    ],
)
def test_who_acted(window: Window, actors: list[str | None], count: int, words: str) -> None:
    row = {"actors": [{"id": str(at), "name": name} for at, name in enumerate(actors)], "count": count}
    assert ask(window, "who", row) == words


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"kind": "like"}, "liked your photo"),
        ({"kind": "follow"}, "started following you"),
        ({"kind": "comment", "text": "nice"}, "commented on your photo"),
        ({"kind": "comment", "text": "nice, @Ana"}, "mentioned you"),
        ({"kind": "comment", "text": "nice, @ana2 @"}, "commented on your photo"),
        ({"kind": "poke"}, "poke: you"),
    ],
)
def test_what_they_did(window: Window, row: dict[str, Any], words: str) -> None:
    assert ask(window, "did", row, "ana") == words


@pytest.mark.parametrize(
    ("url", "way"),
    [
        ("/p/1#c2", "/p/1#c2"),
        (None, "/u/mahalo"),
        ("//evil.example/", "/u/mahalo"),
        ("/\\evil.example/", "/u/mahalo"),
        ("https://evil.example/", "/u/mahalo"),
        ("javascript:alert(1)", "/u/mahalo"),
    ],
)
def test_a_row_leads_nowhere_but_into_the_site(window: Window, url: str | None, way: str) -> None:
    assert ask(window, "leads", {"object": {"url": url}, "actors": [MAHALO]}) == way


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 likes"), (1, "1 like"), (999, "999 likes"), (1234, "1.2K likes"), (3_000_000, "3M likes")],
)
def test_numbers(window: Window, number: int, words: str) -> None:
    assert ask(window, "counted", number, "like") == words
