"""Dead letters over Redis, as their users and several retries at once see them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred, gatherResults

from notifier.core import keys
from notifier.core.identity import mark
from notifier.edge.letters import (
    MOST,
    MOST_BYTES,
    PAGE,
    REASONS,
    DeadLetter,
    Letters,
    Name,
    NotAnEvent,
    _bounded,
    event_of,
)
from notifier.edge.redis import Address, Connection, ReplyError
from notifier.metrics import Metrics
from tests.cli.program import GOOD
from tests.servers import Valkey

SOURCE = "1764000000000-5"


def _letter(
    reason: str = "handover", to: str = "", raw: bytes = GOOD, name: Name | None = None
) -> DeadLetter:
    return DeadLetter(name or Name("0", reason, "1764000000001-0"), "why", SOURCE, SOURCE, to, raw)


def bury(
    server: Valkey, key: str, raw: bytes = GOOD, to: str = "", entry: str = "*", version: str = "1"
) -> str:
    """A letter as handover.lua and ack.lua write it; its id in the stream."""
    reason = key.rpartition(":")[2]
    made = server.call(
        "XADD", key, entry, "v", version, "reason", reason, "detail", "why", "source", SOURCE, "entry", SOURCE,
        "to", to, "raw", raw,
    )  # fmt: skip
    assert isinstance(made, bytes)
    return made.decode()


# --- names and events ----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["0/schema/1-0", "63/handover/1764000000000-12", "in/not_json/1-1"])
def test_names_come_back(text: str) -> None:
    assert str(Name.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["", "schema/1-0", "{0}/schema/1-0", "0/schema/1", "0/../1-0", "0/schema/1-0\n", "x/a/1-0"]
)
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="not the name of a dead letter"):
        Name.parse(text)


def test_names_are_keys() -> None:
    assert Name.parse("3/schema/1-0").key == "dead:{3}:schema"
    assert Name.parse("in/schema/1-0").key == "dead:{notifier:events}:schema"


EVENT = b'{"type":"like","actor":{"id":"42"},"to":["7","8"],"odd":1.50}'
TIMED = EVENT[:-1] + b',"time":"2026-11-22T10:00:00Z"}'
NAMED = TIMED[:-1] + b',"id":"a"}'
TIME, MADE_TIME, MADE_ID = "2026-11-22T10:00:00Z", "2025-11-24T16:00:00.000Z", f"x:{SOURCE}"


@pytest.mark.parametrize(
    ("letter", "as_new", "changes"),
    [
        (_letter("schema", raw=EVENT), False, {}),
        (_letter("stale", raw=NAMED), True, {}),
        # for one person: the event that it was, by id and time, so that a repeat is known as one
        (_letter(to="8", raw=EVENT), False, {"to": ["8"], "id": MADE_ID, "time": MADE_TIME}),
        (
            _letter(to="8", raw=EVENT[:-1] + b',"id":null}'),
            False,
            {"to": ["8"], "id": MADE_ID, "time": MADE_TIME},
        ),
        (_letter(to="8", raw=TIMED), False, {"to": ["8"], "id": MADE_ID, "time": TIME}),
        (_letter(to="8", raw=NAMED), False, {"to": ["8"], "id": "a", "time": TIME}),
        (_letter(to="8", raw=NAMED), True, {"to": ["8"]}),
    ],
)
def test_the_event_that_is_tried_again(letter: DeadLetter, as_new: bool, changes: dict[str, Any]) -> None:
    event = event_of(letter, as_new)
    assert json.loads(event) == json.loads(EVENT) | changes
    assert b'"odd":1.50' in event  # what is not touched stays byte for byte


@pytest.mark.parametrize("raw", [b"\xff{", b"[1]", b"", b"[" * 100_000])
def test_what_is_no_object_goes_as_it_is(raw: bytes) -> None:
    assert event_of(_letter("not_json", raw=raw), as_new=True) == raw


def test_no_event_cannot_be_tried_again() -> None:
    with pytest.raises(NotAnEvent, match="0/no_event/"):
        event_of(_letter("no_event"))


def test_a_script_is_given_bounded_work() -> None:
    letters = [(_letter(), b"x" * (50_000 if at % 7 == 0 else 10)) for at in range(500)]
    parts = list(_bounded(letters))
    assert [letter for part in parts for letter in part] == letters
    assert max(map(len, parts)) <= MOST
    assert max(sum(len(raw) for _, raw in part) for part in parts) <= MOST_BYTES
    huge = [(_letter(), b"x" * (2 * MOST_BYTES))] * 2
    assert [len(part) for part in _bounded(huge)] == [1, 1]


# --- over Redis ----------------------------------------------------------------------------------------


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[Connection]:
    from twisted.internet import reactor

    connection = Connection(reactor, Address.parse(url), "test", Metrics({}), print)
    connection.start()
    try:
        await connection.ready()
        yield connection
    finally:
        await connection.stop()


async def _named(letters: AsyncIterator[DeadLetter]) -> list[str]:
    return [str(letter.name) async for letter in letters]


async def test_newest_and_oldest_across_streams_and_pages(either: Valkey, either_url: str) -> None:
    streams = ("dead:{0}:schema", "dead:{1}:schema", "dead:{notifier:events}:not_json")
    buried = []
    for at in range(1, 2 * PAGE + 20):
        key = streams[at % 3 if at > 20 else 0]
        bury(either, key, entry=f"{at // 2}-{at}")
        part = {0: "0", 1: "1", 2: "in"}[streams.index(key)]
        buried.append(f"{part}/{key.rpartition(':')[2]}/{at // 2}-{at}")
    async with _connected(either_url) as calls:
        letters = Letters(calls.call, 2, 9)
        assert await _named(letters.newest()) == buried[::-1]
        assert await _named(letters.oldest()) == buried
        assert await _named(letters.newest(["not_json"])) == [
            name for name in buried[::-1] if "not_json" in name
        ]
        counts = await letters.counts()
        assert sum(counts.values()) == len(buried)
        assert counts["not_json"] == sum("not_json" in name for name in buried)
        assert set(counts) <= set(REASONS)


async def test_what_is_buried_meanwhile_does_not_follow(valkey: Valkey, redis_url: str) -> None:
    first = [bury(valkey, "dead:{0}:schema") for _ in range(PAGE + 5)]
    async with _connected(redis_url) as calls:
        seen = []
        async for letter in Letters(calls.call, 1, 9).oldest():
            seen.append(letter.name.entry)
            bury(valkey, "dead:{0}:schema")
        assert seen == first


async def test_get_and_a_version_that_is_another_s(valkey: Valkey, redis_url: str) -> None:
    mine = bury(valkey, "dead:{0}:schema", raw=b"\xff\x00", to="")
    theirs = bury(valkey, "dead:{0}:schema", version="2")
    async with _connected(redis_url) as calls:
        letters = Letters(calls.call, 1, 9)
        found = await letters.get(Name("0", "schema", mine))
        assert found is not None
        assert (found.raw, found.source, found.to, found.at) == (
            b"\xff\x00",
            SOURCE,
            "",
            int(mine.split("-")[0]),
        )
        assert await letters.get(Name("0", "schema", theirs)) is None
        assert await letters.get(Name("0", "schema", "1-0")) is None
        assert await _named(letters.newest()) == [f"0/schema/{mine}"]


async def _contents(calls: Connection) -> list[bytes]:
    return [fields[1] for _, fields in await calls.call("XRANGE", keys.FRONT_DOOR, "-", "+")]


async def test_each_goes_back_once_though_two_try(either: Valkey, either_url: str) -> None:
    names = [Name("0", "schema", bury(either, "dead:{0}:schema", raw=b"%d" % at)) for at in range(450)]
    buried = [_letter(name=name, raw=b"%d" % at) for at, name in enumerate(names)]
    async with _connected(either_url) as one, _connected(either_url) as two:
        both = await gatherResults(
            [Deferred.fromCoroutine(Letters(calls.call, 1, 9).retry(buried)) for calls in (one, two)]
        )
        assert [sum(map(bool, made)) for made in zip(*both, strict=True)] == [1] * len(buried)
        assert sorted(await _contents(one), key=int) == [letter.raw for letter in buried]
        assert await one.call("XLEN", "dead:{0}:schema") == 0


async def test_one_call_for_several_streams_in_order(valkey: Valkey, redis_url: str) -> None:
    names = [
        Name(part, reason, bury(valkey, Name(part, reason, "").key))
        for part, reason in (("0", "schema"), ("in", "stale"), ("1", "schema"), ("0", "schema"))
    ]
    async with _connected(redis_url) as calls:
        made = await Letters(calls.call, 2, 9).retry(
            [_letter(name=n, raw=b"%d" % at) for at, n in enumerate(names)]
        )
        assert await _contents(calls) == [b"0", b"1", b"2", b"3"]
        assert [entry.encode() for entry in made] == [
            entry for entry, _ in await calls.call("XRANGE", keys.FRONT_DOOR, "-", "+")
        ]


@pytest.mark.parametrize("spoil", ["type", "memory"])
async def test_a_letter_stays_when_the_front_door_refuses(own_server: Valkey, spoil: str) -> None:
    name = Name("0", "schema", bury(own_server, "dead:{0}:schema"))
    if spoil == "type":
        own_server.call("SET", keys.FRONT_DOOR, "not a stream")
    else:
        own_server.call("CONFIG", "SET", "maxmemory", "1mb")
        own_server.call("CONFIG", "SET", "maxmemory-policy", "noeviction")
    async with _connected(own_server.url) as calls:
        letters = Letters(calls.call, 1, 9)
        with pytest.raises(ReplyError, match="WRONGTYPE" if spoil == "type" else "OOM"):
            await letters.retry([_letter(name=name)])
        assert await letters.get(name) is not None


@pytest.mark.parametrize("as_new", [False, True])
async def test_what_was_buried_for_one_person_is_not_taken_for_a_repeat(
    valkey: Valkey, redis_url: str, as_new: bool
) -> None:
    """Its idempotency mark may have been set when it was buried; that of others stays."""
    accepted = int(SOURCE.partition("-")[0])
    marks = {}
    for user in ("7", "8"):
        bucket, number = mark(f"x:{SOURCE}", user, 9)
        marks[user] = (keys.marks("{0}", accepted // 3_600_000, bucket), number)
        valkey.call("SADD", *marks[user])
    name = Name("0", "handover", bury(valkey, "dead:{0}:handover", to="8"))
    async with _connected(redis_url) as calls:
        letters = Letters(calls.call, 1, 9)
        letter = await letters.get(name)
        assert letter is not None
        assert all(await letters.retry([letter], as_new))
    assert valkey.call("SISMEMBER", *marks["7"]) == 1
    assert valkey.call("SISMEMBER", *marks["8"]) == int(as_new)  # as a new one it has another mark


async def test_drop(valkey: Valkey, redis_url: str) -> None:
    name = Name("0", "schema", bury(valkey, "dead:{0}:schema"))
    async with _connected(redis_url) as calls:
        letters = Letters(calls.call, 1, 9)
        assert await letters.drop([name, Name("0", "schema", "1-0")]) == [True, False]
        assert await letters.drop([name]) == [False]
        assert await letters.counts() == {}


async def test_an_error_is_raised_as_it_is(valkey: Valkey, redis_url: str) -> None:
    valkey.call("SET", "dead:{0}:schema", "not a stream")
    async with _connected(redis_url) as calls:
        for ask in _questions(Letters(calls.call, 1, 9)):
            with pytest.raises(ReplyError, match="WRONGTYPE"):
                await ask()


def _questions(letters: Letters) -> list[Callable[[], Awaitable[object]]]:
    return [letters.counts, lambda: _named(letters.newest()), lambda: letters.get(Name("0", "schema", "1-0"))]
