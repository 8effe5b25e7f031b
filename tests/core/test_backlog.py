"""The order in which pairs are handed over: whole batches, failures, retries, burials."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.backlog import ADD, BURY, HELD, RETRACT, WIDTH, Backlog, Batch, Entry
from notifier.core.intake import Intake

NOW = 1_795_000_000_000


def backlog(most: int = 100, most_bytes: int = 262_144, tries: int = 3) -> Backlog:
    intake = Intake(("follow", "like", "comment"), 86_400_000, 300_000, 16_384, 1000)
    return Backlog(intake, "{0}", 10, most, most_bytes, tries)


def event(*to: str, kind: str = "like", text: str = "") -> bytes:
    return msgspec.json.encode({"type": kind, "actor": {"id": "a"}, "to": list(to), "text": text})


def entry(number: int, *to: str, kind: str = "like", text: str = "") -> Entry:
    return Entry(f"{NOW}-{number}", event(*to, kind=kind, text=text))


def sent(batch: Batch | None) -> tuple[list[list[Any]], list[list[Any]]]:
    assert batch is not None
    entries, unfinished, flat = msgspec.msgpack.decode(batch.payload)
    items = [flat[at : at + WIDTH] for at in range(0, len(flat), WIDTH)]
    return [[entry, at not in unfinished] for at, entry in enumerate(entries, 1)], items


def people(batch: Batch | None) -> list[str]:
    return [item[2] for item in sent(batch)[1]]


def test_an_event_becomes_an_item_per_person() -> None:
    held = backlog()
    held.add([entry(1, "u", "v"), entry(2, "u", kind="unlike")])
    entries, items = sent(held.next())
    assert entries == [[f"{NOW}-1", True], [f"{NOW}-2", True]]
    assert [(item[0], item[1], item[2]) for item in items] == [
        (ADD, 1, "u"),
        (ADD, 1, "v"),
        (RETRACT, 2, "u"),
    ]
    group, event_id = items[0][5], f"x:{NOW}-1"
    assert items[0][6:9] == ["a", event_id, NOW]
    row = f'1n0 {NOW} {group} {event_id} "id":"{event_id}","kind":"like","actors":[{{"id":"a"}}],"count":1,'
    assert items[0][9].startswith(row)
    assert items[2][5] == group, "a like and its unlike share a group"
    assert items[2][9] == NOW
    assert items[0][3].startswith("seen:{0}:498611:")


def test_an_entry_is_complete_only_with_its_last_pair() -> None:
    held = backlog(most=2)
    held.add([entry(1, "u", "v", "w")])
    first = held.next()
    assert sent(first)[0] == [[f"{NOW}-1", False]]
    assert first is not None
    held.settle(first, ())
    assert f"{NOW}-1" in held
    second = held.next()
    assert sent(second)[0] == [[f"{NOW}-1", True]]
    assert second is not None
    assert held.settle(second, ()).entries == 1
    assert f"{NOW}-1" not in held
    assert not held


def test_batches_are_bounded_by_bytes_but_never_empty() -> None:
    held = backlog(most_bytes=5_000)
    held.add([entry(1, "u", text="x" * 4_000), entry(2, "v", text="x" * 4_000)])
    assert people(held.next()) == ["u"]
    assert people(held.next()) == ["v"]


def test_the_bound_is_one_of_bytes_not_of_characters() -> None:
    held = backlog()
    held.add([entry(n, "u", text="\u6f22" * 4_096) for n in range(100)])
    sizes = []
    while (batch := held.next()) is not None:
        sizes.append(len(batch.payload))
        held.settle(batch, ())
    assert len(sizes) >= 5
    assert max(sizes) <= 262_144


def test_what_is_no_event_is_buried_with_its_bytes() -> None:
    held = backlog()
    held.add([Entry(f"{NOW}-1", b"{"), Entry(f"{NOW}-2", None, (b"a", b"\xff"))])
    batch = held.next()
    _, items = sent(batch)
    assert [(item[0], item[5], item[8]) for item in items] == [(BURY, "not_json", 1), (BURY, "no_event", 2)]
    assert batch is not None
    assert batch.raws == [b"{", rb'["a","\\xff"]']
    assert held.settle(batch, ()).buried == ["not_json", "no_event"]


def test_an_event_for_its_actor_alone_is_only_acknowledged() -> None:
    held = backlog()
    held.add([entry(1, "a")])
    batch = held.next()
    assert sent(batch) == ([[f"{NOW}-1", True]], [])
    assert batch, "not empty, though it has no pair"
    assert held.settle(batch, ()).entries == 1
    assert not held


def test_a_failed_pair_is_retried_alone_and_later_ones_of_its_person_wait() -> None:
    held = backlog()
    held.add([entry(1, "u"), entry(2, "v"), entry(3, "u")])
    batch = held.next()
    assert batch is not None
    settled = held.settle(batch, ((1, "ERR no"), (3, HELD)))
    assert settled.added == 1
    assert settled.errors == [f"entry {NOW}-1 for u, try 1: ERR no"]
    assert held.stuck
    alone = held.next()
    assert sent(alone)[0] == [[f"{NOW}-1", True]]
    assert alone is not None
    held.settle(alone, ())
    assert people(held.next()) == ["u"]


def test_after_its_tries_a_pair_is_buried_for_that_person_alone() -> None:
    held = backlog(tries=2)
    held.add([entry(1, "u", "v"), entry(2, "u")])
    batch = held.next()
    assert batch is not None
    held.settle(batch, ((1, "ERR no"), (3, HELD)))
    alone = held.next()
    assert alone is not None
    held.settle(alone, ((1, "ERR no"),))
    burial = held.next()
    _, items = sent(burial)
    assert items[0][:3] == [BURY, 1, "u"]
    assert items[0][5:] == ["handover", "could not be applied to u: ERR no", f"{NOW}-1", 1, ""]
    assert items[0][3].startswith("seen:{0}:"), "its mark goes along: it is never applied later, out of order"
    assert burial is not None
    assert burial.raws == [event("u", "v")]
    assert held.settle(burial, ()).buried == ["handover"]
    assert people(held.next()) == ["u"], "the person's later event goes on"


def test_a_burial_that_fails_is_told() -> None:
    held = backlog()
    held.add([Entry(f"{NOW}-1", b"{"), entry(2, "u")])
    batch = held.next()
    assert batch is not None
    settled = held.settle(batch, ((1, "WRONGTYPE"),))
    assert settled.unburied == f"entry {NOW}-1 cannot be buried: WRONGTYPE"
    assert settled.added == 1, "its neighbour is done"


def test_an_entry_that_meets_a_bug_is_buried_and_its_neighbours_go_on() -> None:
    held = backlog()
    held.add([Entry("no stream id", event("u")), entry(2, "u")])
    _, items = sent(held.next())
    assert [(item[0], item[2], item[5]) for item in items] == [(BURY, "", "bug"), (ADD, "u", items[1][5])]
    assert "ValueError" in items[0][6]


def test_an_id_that_no_calendar_has_is_refused() -> None:
    held = backlog()
    held.add([Entry("9" * 15 + "-1", event("u"))])
    assert [(item[0], item[5]) for item in sent(held.next())[1]] == [(BURY, "future")]


def test_a_batch_that_was_not_sent_goes_back_in_order() -> None:
    held = backlog(most=1)
    held.add([entry(1, "u"), entry(2, "u"), entry(3, "u")])
    in_flight = held.next()
    prepared = held.next()
    assert in_flight is not None
    assert prepared is not None
    held.undo(prepared)
    held.settle(in_flight, ((1, "ERR"),))
    order = []
    while (batch := held.next()) is not None:
        order += [item[7] for item in sent(batch)[1]]
        held.settle(batch, ())
    assert order == [f"x:{NOW}-{number}" for number in (1, 2, 3)]


@given(
    st.lists(st.lists(st.sampled_from("uvw"), min_size=1, max_size=3, unique=True), max_size=12),
    st.lists(st.booleans(), max_size=40),
    st.integers(1, 5),
)
def test_whatever_fails_each_person_is_served_in_order_and_once(
    recipients: list[list[str]], fates: list[bool], most: int
) -> None:
    """A server that fails at will, and a reader that prepares the next batch while one is under way."""
    held = backlog(most=most, tries=1000)
    held.add([entry(number, *to) for number, to in enumerate(recipients)])
    fate = itertools.chain(fates, itertools.repeat(True))
    done: dict[str, list[str]] = {}
    acked: list[str] = []
    ready: Batch | None = None
    while (batch := ready or held.next()) is not None:
        ready = None if held.stuck else held.next()
        entries, items = sent(batch)
        failures: list[tuple[int, str]] = []
        blocked: set[str] = set()
        for at, item in enumerate(items, 1):
            if item[2] in blocked:
                failures.append((at, HELD))
            elif next(fate):
                done.setdefault(item[2], []).append(item[7])
            else:
                failures.append((at, "ERR"))
                blocked.add(item[2])
        bad = {items[at - 1][1] for at, _ in failures}
        acked += [one[0] for at, one in enumerate(entries, 1) if one[1] and at not in bad]
        if failures and ready is not None:
            held.undo(ready)
            ready = None
        held.settle(batch, tuple(failures))
    for user in "uvw":
        assert done.get(user, []) == [f"x:{NOW}-{n}" for n, to in enumerate(recipients) if user in to]
    assert sorted(acked) == sorted(f"{NOW}-{n}" for n in range(len(recipients)))
    assert not held


def test_an_unlikely_small_batch_is_refused_by_nobody() -> None:
    with pytest.raises(StopIteration):
        next(iter(sent(Batch([], []))[1]))
