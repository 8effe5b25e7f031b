"""What a shard's reader holds between reading and handing over: which (event, person) pair goes next.
Order is kept per person: behind a pair that failed the later ones of the same person wait, others' go on."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from notifier.core import keys, payload
from notifier.core.canary import is_canary, is_reserved
from notifier.core.identity import mark, relation
from notifier.core.inbox import row
from notifier.core.intake import REASONS, Intake, Rejected
from notifier.core.lanes import OFF, Rule
from notifier.core.model import Event

HOUR_MS = 3_600_000
# Why an entry, or one person's part of it, ends in the dead letters.
BURIALS: Final = (*REASONS, "no_event", "handover", "bug")
NO_EVENT: Final = "the entry has no field `event`"
HELD: Final = "held"  # handover's word for a pair that waits for an earlier one of its person

# The moves of handover.lua, and how many values each item of a batch has there.
ADD: Final = 1
RETRACT: Final = 2
BURY: Final = 3
WIDTH: Final = 11


class Entry(Struct, frozen=True, gc=False):
    """One entry of a stream: its id there, and what it holds.

    `event`: the raw bytes a producer appended, or None (`fields` then says what stood there instead).
    `source`, `to`: set by a router: the id at the front door, and the people of this chunk.
    """

    id: str
    event: bytes | None
    fields: tuple[bytes, ...] = ()
    source: str = ""
    to: tuple[str, ...] = ()

    def as_raw(self) -> bytes:
        """What a dead letter keeps of an entry that has no field `event`: its names and values, a JSON list."""
        return msgspec.json.encode([field.decode("utf-8", "backslashreplace") for field in self.fields])


# These two are made for each event: a Struct is made in a third of the time of a class with slots. eq=False: they
# are told apart by identity.
class _Held(Struct, eq=False, gc=False):
    """An entry that is not acknowledged yet; `left`: pairs not yet done, `unsent`: pairs that are in no batch."""

    id: str
    source: str
    raw: bytes
    canary: bool
    left: int = 0
    unsent: int = 0


class _Pair(Struct, eq=False, gc=False):
    """One item of handover. user: "" for a burial, which waits for nobody. `event`: of a row."""

    entry: _Held
    user: str
    item: list[Any]
    size: int
    raw: bytes | None = None
    tries: int = 0
    event: Event | None = None

    @property
    def key(self) -> str:
        """What waits behind it: its person's pairs; a burial of a whole entry holds up only itself."""
        return self.user or f" {self.entry.id}"


class Batch:
    """One call of handover: `payload` is msgpack for the script, `raws` the arguments its burials point at."""

    __slots__ = ("pairs", "payload", "raws", "whole")

    def __init__(self, pairs: list[_Pair], whole: list[_Held]) -> None:
        self.pairs, self.whole = pairs, whole
        self.raws: list[bytes] = []
        self.payload = self._encode()

    def __len__(self) -> int:
        return len(self.pairs)

    def __bool__(self) -> bool:
        return bool(self.pairs or self.whole)

    @property
    def users(self) -> set[str]:
        """Whose inboxes it is for."""
        return {pair.user for pair in self.pairs if pair.user}

    def written(self, item: int) -> tuple[str, Event, Any, Any, int]:
        """Of a row, by its number from 1: whose it is, event, group, record, and until when it may be pushed (ms)."""
        pair = self.pairs[item - 1]
        assert pair.event is not None, f"item {item} is no row"
        values = pair.item
        return pair.user, pair.event, values[5], values[9], abs(values[10])

    def _encode(self) -> bytes:
        index: dict[_Held, int] = {}
        for entry in (*(pair.entry for pair in self.pairs), *self.whole):
            index.setdefault(entry, len(index) + 1)
        items: list[object] = []
        for pair in self.pairs:
            item = pair.item
            item[1] = index[pair.entry]
            if pair.raw is not None:
                self.raws.append(pair.raw)
                item[8] = len(self.raws)
            items += item
        # An entry may be acknowledged with the batch that holds its last pair. A batch before it, still under way,
        # may fail; then this one is taken back (`undo`) before it is sent.
        unfinished = [at for entry, at in index.items() if entry.unsent]
        return _encode(([entry.id for entry in index], unfinished, items))


class Settled:
    """What a batch came to: pairs by move, entries that are done with, reasons of burials, errors worth a log line."""

    __slots__ = ("added", "buried", "entries", "errors", "retracted", "unburied")

    def __init__(self) -> None:
        self.added = self.retracted = self.entries = 0
        self.unburied = ""  # the dead letters do not take it: nothing can go on until they do
        self.buried: list[str] = []
        self.errors: list[str] = []


_encode = msgspec.msgpack.Encoder().encode
NOTHING: Final = Batch([], [])


class Backlog:
    """Entries in, batches out, results in.

    `shard`, `shards`, `buckets`: where marks live. `most`, `most_bytes`: bounds of a batch. `tries`: how often a
    pair is tried before it is buried. `pushes`: what types of events ask of phones; the others ask nothing.
    """

    def __init__(
        self,
        intake: Intake,
        tagged: str,
        buckets: int,
        most: int = 100,
        most_bytes: int = 262_144,
        tries: int = 3,
        pushes: Mapping[str, Rule] | None = None,
    ) -> None:
        self.intake = intake
        self._tag, self._buckets = tagged, buckets
        self._most, self._most_bytes, self._tries = most, most_bytes, tries
        self._pushes = pushes or {}
        self._todo: deque[_Pair] = deque()
        self._done: list[_Held] = []  # entries without pairs: only to be acknowledged
        self._failing: dict[str, _Pair] = {}  # by key: the pairs that are tried again, each alone
        self._held: dict[str, _Held] = {}  # by stream id
        self.canaries = 0  # that were added so far: they are counted nowhere else

    def __len__(self) -> int:
        """Pairs that wait."""
        return len(self._todo) + len(self._failing)

    def __contains__(self, entry_id: str) -> bool:
        return entry_id in self._held

    def __bool__(self) -> bool:
        return bool(self._todo or self._failing or self._done)

    @property
    def stuck(self) -> bool:
        """A pair has failed: what goes next depends on how it fares."""
        return bool(self._failing)

    def clear(self) -> None:
        """The stream is another's now: forget everything, it will come again."""
        self._todo.clear()
        self._done.clear()
        self._failing.clear()
        self._held.clear()

    # -- in

    def add(self, entries: Iterable[Entry]) -> None:
        """Takes entries in stream order; whatever they hold becomes rows, retractions or burials."""
        for entry in entries:
            name, raw = entry.id, entry.event
            source = entry.source or name
            if raw is None:
                held = self._held[name] = _Held(name, source, entry.as_raw(), False)
                self._bury(held, "no_event", NO_EVENT)
                continue
            held = self._held[name] = _Held(name, source, raw, is_canary(raw))
            self.canaries += held.canary
            try:
                event = self.intake.decode(raw, source)
                if isinstance(event, Rejected):
                    self._bury(held, event.reason, event.detail)
                else:
                    self._spread(held, event, entry.to or event.to)
            except Exception as error:  # a bug of ours must not stop everybody behind this entry
                self._bury(held, "bug", f"{type(error).__name__}: {error}"[:500])

    def _spread(self, held: _Held, event: Event, people: Sequence[str]) -> None:
        move = RETRACT if event.retracts else ADD
        name, time, accepted = event.id, event.time, event.accepted
        group, actor, hour = relation(event), event.actor.id, time // HOUR_MS
        # What follows from the event alone is made here: the script only writes it down.
        last: object = time
        size, push = 300, 0
        if move == ADD:
            push = 0 if held.canary else self._pushes.get(event.kind, OFF).stored(accepted)
            body = payload.body(event)
            text = body.decode()
            last = row(time, group, name, text)
            size += len(last) - len(text) + len(body)  # the bound is one of bytes; all but the body is ASCII
        for user in people:
            bucket, number = mark(name, user, self._buckets)
            # A canary has no mark: each replaces the row of the one before, and a day's would be thousands.
            unmarked = held.canary and is_reserved(user)
            item: list[Any] = [
                move, 0, user, keys.marks(self._tag, hour, bucket), "" if unmarked else str(number),
                group, actor, name, accepted, last, push,
            ]  # fmt: skip
            self._todo.append(_Pair(held, user, item, size, None, 0, event))
        held.left = held.unsent = len(people)
        if not people:
            self._done.append(held)

    def _bury(self, held: _Held, reason: str, detail: str) -> None:
        if held.canary:  # who sent it misses it, and says so
            self._done.append(held)
            return
        item: list[Any] = [BURY, 0, "", "", "", reason, detail, held.source, 0, "", 0]
        self._todo.append(_Pair(held, "", item, len(held.raw) + 300, held.raw))
        held.left = held.unsent = 1

    # -- out

    def next(self) -> Batch | None:
        """The next batch, or None. It must come back through `settle` or `undo`."""
        if self._failing:
            alone = next(iter(self._failing.values()))
            alone.entry.unsent -= 1
            return Batch([alone], [])
        pairs: list[_Pair] = []
        size = 0
        todo = self._todo
        while todo and len(pairs) < self._most:
            size += todo[0].size
            if size > self._most_bytes and pairs:
                break
            pair = todo.popleft()
            pair.entry.unsent -= 1
            pairs.append(pair)
        whole, self._done = self._done[: self._most], self._done[self._most :]
        return Batch(pairs, whole) if pairs or whole else None

    def undo(self, batch: Batch) -> None:
        """The batch was not sent after all."""
        for pair in batch.pairs:
            pair.entry.unsent += 1
        self._todo.extendleft(
            pair for pair in reversed(batch.pairs) if self._failing.get(pair.key) is not pair
        )
        self._done[:0] = batch.whole

    def settle(self, batch: Batch, failures: Sequence[tuple[int, str]]) -> "Settled":
        """What became of a batch, by the (index from 1, error) of each pair that failed."""
        wrong = dict(failures)
        back: list[_Pair] = []
        settled = Settled()
        for at, pair in enumerate(batch.pairs, 1):
            error = wrong.get(at) if wrong else None
            if error is None:
                self._pair_done(pair, settled)
            elif error == HELD:
                pair.entry.unsent += 1
                back.append(pair)
            elif pair.item[0] == BURY:
                settled.unburied = f"entry {pair.entry.id} cannot be buried: {error}"
            else:
                settled.errors.append(self._pair_failed(pair, error))
        for entry in batch.whole:
            self._entry_done(entry, settled)
        self._todo.extendleft(reversed(back))
        return settled

    def _pair_done(self, pair: _Pair, settled: "Settled") -> None:
        if self._failing and self._failing.get(pair.key) is pair:
            del self._failing[pair.key]
        move = pair.item[0]
        if pair.entry.canary:
            pass
        elif move == ADD:
            settled.added += 1
        elif move == RETRACT:
            settled.retracted += 1
        else:
            settled.buried.append(str(pair.item[5]))
        pair.entry.left -= 1
        if pair.entry.left == 0:
            self._entry_done(pair.entry, settled)

    def _entry_done(self, entry: _Held, settled: "Settled") -> None:
        self._held.pop(entry.id, None)
        settled.entries += not entry.canary

    def _pair_failed(self, pair: _Pair, error: str) -> str:
        pair.tries += 1
        if pair.entry.canary and pair.tries >= self._tries:
            return self._canary_lost(pair, error)
        pair.entry.unsent += 1
        self._failing[pair.key] = pair
        if pair.tries == self._tries:
            # Its person's later events have waited long enough. Buried alone, under the same entry.
            # The mark goes with it: should the entry be taken up once more, this pair is not applied out of order.
            detail = f"could not be applied to {pair.user}: {error}"[:500]
            mark_key, number = pair.item[3], pair.item[4]
            pair.item = [
                BURY,
                0,
                pair.user,
                mark_key,
                number,
                "handover",
                detail,
                pair.entry.source,
                0,
                "",
                0,
            ]
            pair.raw = pair.entry.raw
        return f"entry {pair.entry.id} for {pair.user or '-'}, try {pair.tries}: {error}"

    def _canary_lost(self, pair: _Pair, error: str) -> str:
        """No dead letter: who sent it misses it, and says so."""
        self._failing.pop(pair.key, None)
        pair.entry.left -= 1
        if pair.entry.left == 0:
            self._done.append(pair.entry)
        return f"entry {pair.entry.id}, a canary for {pair.user}, dropped after try {pair.tries}: {error}"
