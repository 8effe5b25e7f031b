"""The judge: what every inbox must hold, told from the events alone, against what Redis and the clients hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.chaos.copies import Copy, Row
from tests.stored import State


@dataclass(frozen=True)
class Sent:
    """One event as it was appended; `takes_back`: the id of the event that it retracts."""

    id: str
    to: tuple[str, ...]
    takes_back: str | None = None


@dataclass(frozen=True)
class Inbox:
    """One inbox as Redis holds it."""

    rows: tuple[Row, ...] = ()
    live: int = 0
    unread: int = 0
    seq: int = 0
    faults: tuple[str, ...] = field(default=())


def expected(stream: Iterable[Sent]) -> dict[str, list[str]]:
    """Ids per person in the order of the stream: each once, where it first stands, without what was taken back."""
    found: dict[str, dict[str, bool]] = {}
    for event in stream:
        for user in event.to:
            ids = found.setdefault(user, {})
            if event.takes_back is None:
                ids.setdefault(event.id, True)
            elif event.takes_back in ids:
                ids[event.takes_back] = False
    return {user: [nid for nid, on in ids.items() if on] for user, ids in found.items()}


def parse(flat: Sequence[bytes]) -> Inbox:
    """An inbox from the fields of its hash (docs/architecture.md)."""
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    if not fields:
        return Inbox()
    stands = State.parse(fields[b"state"])
    rows, faults, ids = [], [], set()
    for name, value in fields.items():
        if not name.isdigit() or not value or int(name) <= stands.floor:
            continue
        head, _, _, nid, _ = value.decode().split(" ", 4)
        if nid in ids:
            faults.append(f"two records of {nid}")
        ids.add(nid)
        if fields.get(b"n:" + nid.encode()) != name:
            faults.append(f"n:{nid} does not point at {int(name)}")
        if head[1] == "n":
            rows.append(Row(int(name), nid, head[2] == "1"))
    return Inbox(tuple(sorted(rows)), stands.live, stands.unread, stands.seq, tuple(faults))


def judge_inbox(user: str, wanted: Sequence[str], inbox: Inbox) -> list[str]:
    """What is wrong with an inbox that must hold exactly `wanted`, in this order."""
    have = [row.id for row in inbox.rows]
    faults = [f"{user}: {fault}" for fault in inbox.faults]
    if have != list(wanted):
        missing = [nid for nid in wanted if nid not in set(have)]
        extra = [nid for nid in have if nid not in set(wanted)]
        said = [f"misses {missing[:5]}"] * bool(missing) + [f"has {extra[:5]} too much"] * bool(extra)
        faults.append(f"{user}: inbox {' and '.join(said) or 'is in another order than the stream'}")
    if inbox.live != len(have):
        faults.append(f"{user}: counts {inbox.live} rows, has {len(have)}")
    unread = sum(not row.read for row in inbox.rows)
    if inbox.unread != unread:
        faults.append(f"{user}: counts {inbox.unread} unread, has {unread}")
    return faults


def judge_copy(user: str, inbox: Inbox, copy: Copy) -> list[str]:
    """What is wrong with a client's list, and with what it was told on the way."""
    faults = [f"{user}'s client: {fault}" for fault in copy.faults]
    if not copy.complete:
        faults.append(f"{user}'s client: still waits for `upto`")
    if copy.listed() != list(inbox.rows):
        theirs, ours = {row.id for row in copy.listed()}, {row.id for row in inbox.rows}
        faults.append(
            f"{user}'s client: misses {sorted(ours - theirs)[:5]}, has {sorted(theirs - ours)[:5]} too much"
            f" ({len(theirs)} of {len(ours)} rows, at seq {copy.seq} of {inbox.seq})"
        )
    elif copy.seq != inbox.seq:
        faults.append(f"{user}'s client: is at seq {copy.seq}, its inbox at {inbox.seq}")
    return faults


def judge(stream: Iterable[Sent], inboxes: Mapping[str, Inbox], copies: Mapping[str, Copy]) -> list[str]:
    """Every fault there is; an empty list is the promise kept."""
    wanted, faults = expected(stream), []
    for user in sorted(wanted.keys() | inboxes.keys()):
        faults += judge_inbox(user, wanted.get(user, []), inboxes.get(user, Inbox()))
    for user, copy in copies.items():
        faults += judge_copy(user, inboxes.get(user, Inbox()), copy)
    return faults
