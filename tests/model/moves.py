"""The moves: what handover, ack, sweep, join, mark and refresh do to the state in one step each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.model.nouns import (
    DOOR,
    NOWHERE,
    READ,
    ROW,
    SEEN,
    TOMB,
    Bell,
    Entry,
    Event,
    Inbox,
    Joined,
    Mark,
    Place,
    Record,
    StreamId,
)
from tests.model.rules import CAP, HOUR, MARGIN, PAGE, REGISTER, STEPS, TOMBS, WINDOW, Rules
from tests.model.state import State, move

HELD, FAILED = "held", "failed"
MARKS: Final = ("SEEN", "READ")  # ids of the two records that move


class ItemFailed(Exception):
    """Something went wrong in the middle of one pair."""


@dataclass
class Pair:
    """One (entry, person). reason: why it is to be buried, with `user` "" when the whole entry is."""

    entry: Entry
    user: str
    tries: int = 0
    reason: str = ""


class Moves(State):
    """`ring(process, bells)`: told after a move; `answer(process, bells)`: what goes back to who called it;
    `hazard(pair, stage)`: may raise ItemFailed."""

    def __init__(self, rules: Rules) -> None:
        super().__init__(rules)
        self.ring: Callable[[str, list[Bell]], None] = lambda process, bells: None
        self.answer: Callable[[str, list[Bell]], None] = lambda process, bells: None
        self.hazard: Callable[[Pair, int], None] = lambda pair, stage: None

    # -- what an entry means

    def name(self, entry: Entry) -> str:
        """The event's id, its own or made from the entry's."""
        made = entry.source if self.rules["source"] else entry.id
        return entry.event.id or f"x{made[0]:07}-{made[1]:07}"

    def stale(self, entry: Entry) -> bool:
        accepted = entry.source[0] if self.rules["accepted"] else entry.id[0]
        return self.rules["stale"] and accepted - entry.event.time > WINDOW

    # -- handover

    @move
    def handover(
        self, stream: str, who: str, pairs: Sequence[Pair], complete: Iterable[StreamId], want: int
    ) -> tuple[dict[int, str], list[Entry]]:
        """Apply pairs, acknowledge the entries that are complete with them, read more."""
        self.fence(stream, who)
        failures: dict[int, str] = {}
        bells: dict[str, list[Bell]] = {}
        for at, pair in enumerate(pairs):
            before = [pairs[failed].user for failed in failures]
            if self.rules["hold"] and pair.user and pair.user in before:
                failures[at] = HELD
                continue
            try:
                self._apply(stream, pair, bells)
            except ItemFailed:
                failures[at] = FAILED
        if who in bells:
            self.answer(who, bells.pop(who))
        self._publish(bells)
        failed = {pairs[at].entry.id for at in failures}
        for entry in complete:
            if entry not in failed:
                self.done(stream, entry)
        return failures, self.read(stream, who, want)

    def _apply(self, stream: str, pair: Pair, bells: dict[str, list[Bell]]) -> None:
        entry, user = pair.entry, pair.user
        name, marks = self.name(entry), ("marks", stream)
        mark = (entry.event.time // HOUR, name, user)
        if pair.reason:
            self.put("dead", (*self.get("dead", ()), (name, user, pair.reason)))
            if user and self.rules["burial"]:
                self.put(marks, self.get(marks, frozenset()) | {mark})
            return
        if self.rules["mark"] and mark in self.get(marks, ()):
            return
        if not self.rules["last"]:
            self.put(marks, self.get(marks, frozenset()) | {mark})
        self.hazard(pair, 1)
        if entry.event.takes_back:
            self._take_back(pair, (entry.event.time, name), bells)
        else:
            self._add(pair, (entry.event.time, name), bells)
        self.hazard(pair, 4)
        self.put(marks, self.get(marks, frozenset()) | {mark})
        times = self.get("g.times", {}).get((name, user), 0)
        self.set_in("g.times", (name, user), times + 1)

    def _register(self, user: str, relation: str) -> tuple[int, str]:
        order, expires = self.get(("register", user, relation), ((0, ""), 0))
        if expires and expires <= self.now:
            # as Redis expires it; what comes so late is beyond the promise
            self.put("g.expired", self.get("g.expired", frozenset()) | {(user, relation)})
            return 0, ""
        return order if self.rules["register"] else (0, "")

    def _add(self, pair: Pair, order: tuple[int, str], bells: dict[str, list[Bell]]) -> None:
        user, event = pair.user, pair.entry.event
        if order <= self._register(user, event.relation):
            return
        box = self.open(user)
        self._record(box, Record(ROW, order[1], event.relation, order))
        self._trim_rows(user, box)
        self._save(pair, box, bells)

    def _take_back(self, pair: Pair, order: tuple[int, str], bells: dict[str, list[Bell]]) -> None:
        user, relation = pair.user, pair.entry.event.relation
        if order < self._register(user, relation):
            return
        held: Inbox | None = self.get(("inbox", user))
        rows = held.rows() if held else {}
        for row in [each for each in rows.values() if each.relation == relation and each.order <= order]:
            box = self.open(user)
            self._record(box, Record(TOMB, row.id, relation, row.order))
            self._trim_tombs(box)
            self._save(pair, box, bells)
        self.put(("register", user, relation), (order, self.now + REGISTER))

    def _save(self, pair: Pair, box: Inbox, bells: dict[str, list[Bell]]) -> None:
        self.put(("inbox", pair.user), box)
        self.hazard(pair, 2)
        self._tell(pair.user, box, bells)
        self.hazard(pair, 3)

    def _tell(self, user: str, box: Inbox, bells: dict[str, list[Bell]]) -> None:
        bell = Bell(user, box.birth, box.run, box.seq, box.floor, box.records[box.seq])
        for process in self.get(("on", user), ()):
            bells.setdefault(process, []).append(bell)

    def _publish(self, bells: dict[str, list[Bell]]) -> None:
        for process, message in sorted(bells.items()):
            self.ring(process, message)

    @move
    def acknowledge(self, stream: str, who: str, ids: Iterable[StreamId], letters: Iterable[Any]) -> None:
        """The router's end of a batch: burials and acks."""
        self.fence(stream, who)
        self.put("dead", (*self.get("dead", ()), *letters))
        for each in ids:
            self.done(stream, each)

    @move
    def sweep(self, stream: str, who: str, before: int) -> None:
        """Marks go that nothing left can need. before: when the oldest entry at the front door was accepted."""
        self.fence(stream, who)
        left = self.entries(stream)
        accepted = [entry.source[0] for entry in (left if self.rules["behind"] else left[:1])]
        if before and self.rules["door"]:
            accepted.append(before)
        oldest = min([self.now, *(accepted if self.rules["wait"] else ())]) - MARGIN
        kept = {mark for mark in self.get(("marks", stream), ()) if (mark[0] + 1) * HOUR + WINDOW >= oldest}
        self.put(("marks", stream), frozenset(kept))

    def look_at_door(self) -> int:
        """When the oldest entry there was accepted; when there is none: now, for one may come at any moment."""
        first = self.entries(DOOR)[:1]
        return first[0].source[0] if first else self.now

    # -- inboxes

    def open(self, user: str) -> Inbox:
        """The inbox, to be changed: made when there is none, brought over to this run."""
        held: Inbox | None = self.get(("inbox", user))
        if held is None:
            return Inbox(birth=self.number(), run=self.run)
        box = held.copy()
        if box.run != self.run:
            box.before, box.run, box.agreed = box.run, self.run, box.seq
        return box

    def _record(self, box: Inbox, record: Record) -> None:
        if record.id in box.at:
            box.drop(box.at[record.id])
        box.seq += 1
        box.records[box.seq], box.at[record.id] = record, box.seq

    def _trim_rows(self, user: str, box: Inbox) -> None:
        steps = STEPS
        while box.count(ROW) > CAP and steps and box.tail < box.seq:
            record = box.records.get(box.tail)
            if record is not None:
                if record.kind == ROW:
                    self.put("g.trimmed", self.get("g.trimmed", frozenset()) | {(user, record.id)})
                box.drop(box.tail)
                box.floor, steps = box.tail, steps - 1
            box.tail += 1
        box.past = max(box.past, box.floor)

    def _trim_tombs(self, box: Inbox) -> None:
        """`past` walks on over what it drops; without a pointer of its own, all before it is dropped as well."""
        for seq in range(box.past + 1, min(box.past + STEPS, box.seq - 1) + 1):
            if box.count(TOMB) <= TOMBS:
                return
            record = box.records.get(seq)
            if record is not None and (record.kind == TOMB or not self.rules["pointers"]):
                box.drop(seq)
            box.past = seq
            if not self.rules["pointers"]:
                box.floor, box.tail = seq, max(box.tail, seq + 1)

    # -- sessions

    def _exact(self, box: Inbox, place: Place, since: int) -> bool:
        """Is every change after this place still known?"""
        rules, reach = self.rules, max(place.seq, since)
        if place == NOWHERE:
            return box.past == 0
        if rules["birth"] and place.birth != box.birth:
            return False
        if reach < (box.past if rules["past"] else box.floor):
            return False
        if place.run == box.run or not rules["run"]:
            return reach <= box.seq
        return place.run == box.before and reach <= (box.agreed if rules["from"] else box.seq)

    @move
    def join(self, process: str, user: str, mode: str, place: Place, since: int) -> Joined:
        """Presence, and the changes after a place."""
        self.put(("on", user), self.get(("on", user), frozenset()) | {process})
        if self.get(("inbox", user)) is None:
            self.put(("inbox", user), self.open(user))
        box: Inbox = self.get(("inbox", user))
        result = "resync" if mode == "resume" and not self._exact(box, place, since) else mode
        after = place.seq if result == "resume" else box.floor
        found = [
            (seq, record)
            for seq, record in sorted(box.records.items())
            if seq > after and (result == "resume" or record.kind == ROW)
        ]
        here = Place(box.birth, box.run, box.seq)
        return Joined(result, here, box.floor, box.seen, len(found) > PAGE, tuple(found[:PAGE]))

    @move
    def expire(self, user: str) -> None:
        """Nothing has changed for longer than inboxes are kept."""
        box: Inbox | None = self.get(("inbox", user))
        if box is not None:
            gone = {(user, row.id) for row in box.rows().values()}
            self.put("g.deleted", self.get("g.deleted", frozenset()) | gone)
            self.put(("inbox", user), None)

    @move
    def leave(self, process: str, user: str) -> None:
        self.put(("on", user), self.get(("on", user), frozenset()) - {process})

    @move
    def refresh(self, process: str, users: Iterable[str]) -> dict[str, Place]:
        """Renew presence; where does each inbox stand?"""
        found = {}
        for user in users:
            self.put(("on", user), self.get(("on", user), frozenset()) | {process})
            box: Inbox | None = self.get(("inbox", user))
            found[user] = Place(box.birth, box.run, box.seq) if box else NOWHERE
        return found

    # -- marks

    @move
    def mark(self, mark: Mark) -> None:
        """Seen, read or deleted."""
        if self.get(("inbox", mark.user)) is None:
            return
        box, bells = self.open(mark.user), dict[str, list[Bell]]()
        seen = box.seen
        change = {SEEN: self._seen, READ: self._read, TOMB: self._delete}[mark.kind]
        if change(box, mark, self._clamp(box, mark.place)):
            self._tell(mark.user, box, bells)
        elif box.seen == seen:
            return
        self.put(("inbox", mark.user), box)
        self._publish(bells)

    def _clamp(self, box: Inbox, place: Place) -> int:
        """A seq counts only under the run in which it was given, and up to what exists."""
        if not self.rules["place"]:
            return place.seq
        if place.birth != box.birth:
            return 0
        if place.run == box.run:
            return min(place.seq, box.seq)
        return min(place.seq, box.agreed) if place.run == box.before else 0

    def _seen(self, box: Inbox, mark: Mark, upto: int) -> bool:
        news = any(box.seen < seq <= upto for seq in box.rows())
        changed = upto > box.seen
        box.seen = max(box.seen, upto)
        if news or (changed and not self.rules["quiet"]):
            self._record(box, Record(SEEN, MARKS[0], upto=box.seen))
            return True
        return False

    def _read(self, box: Inbox, mark: Mark, upto: int) -> bool:
        fresh = []
        for seq, row in box.rows().items():
            if not row.read and (seq <= upto or row.id in mark.ids):
                box.records[seq] = row._replace(read=True)
                fresh.append(row.id)
        if not fresh:
            return False
        ids = [row.id for row in box.rows().values() if row.read] if self.rules["cumulative"] else fresh
        self._record(box, Record(READ, MARKS[1], ids=tuple(ids)))
        return True

    def _delete(self, box: Inbox, mark: Mark, upto: int) -> bool:
        rows = [row for row in box.rows().values() if row.id in mark.ids]
        for row in rows:
            self._record(box, Record(TOMB, row.id, row.relation, row.order))
            self._trim_tombs(box)
            self.put("g.deleted", self.get("g.deleted", frozenset()) | {(mark.user, row.id)})
        return bool(rows)


def event_of(entry_id: StreamId, event: Event) -> str:
    """The name under which an accepted event must stand in inboxes."""
    return event.id or f"x{entry_id[0]:07}-{entry_id[1]:07}"
