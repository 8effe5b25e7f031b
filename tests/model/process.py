"""One notifier process: readers of streams, sessions of clients, and what it writes and hears in between."""

from __future__ import annotations

from collections import deque
from typing import Any, Final, Protocol

from tests.model.moves import HELD, Moves, Pair
from tests.model.nouns import DOOR, NOWHERE, Bell, Entry, Joined, Mark, Place, StreamId
from tests.model.rules import KEPT, MARGIN, TRIES
from tests.model.state import GroupLost, LeaseLost

FREE, NEW, OWNED = "free", "new", "owned"
BEHIND, JOINING, LIVE = "behind", "joining", "live"
BUS, ANSWER = "bus", "answer"

Message = tuple[Any, ...]


class Reader:
    """A stream under a lease: who gets it claims all that is pending, and only then reads on."""

    def __init__(self, state: Moves, stream: str, who: str) -> None:
        self.state, self.stream, self.who = state, stream, who
        self.has = FREE

    def step(self, want: int) -> None:
        """One call."""
        try:
            if self.has == FREE:
                self.forget()
                if self.state.take(self.stream, self.who):
                    self.state.make_group(self.stream)
                    self.has = NEW if self.state.rules["takeover"] else OWNED
            elif self.has == NEW:
                self.add(self.state.claim(self.stream, self.who))
                self.has = OWNED
            else:
                self.work(want)
        except LeaseLost:
            self.drop()
        except GroupLost:
            self.state.make_group(self.stream)
            self.drop()

    def claim(self) -> None:
        """What was read and never finished; pending is also what is in hand."""
        if self.has == OWNED:
            try:
                claimed = self.state.claim(self.stream, self.who)
                self.add([entry for entry in claimed if entry.id not in self.held()])
            except LeaseLost:
                self.drop()
            except GroupLost:
                self.state.make_group(self.stream)
                self.drop()

    def drop(self) -> None:
        self.has = FREE
        self.forget()

    def add(self, entries: list[Entry]) -> None:
        raise NotImplementedError

    def forget(self) -> None:
        raise NotImplementedError

    def held(self) -> set[StreamId]:
        raise NotImplementedError

    def work(self, want: int) -> None:
        raise NotImplementedError


class Fanout(Reader):
    """Entries into inboxes, pair by pair."""

    def __init__(self, state: Moves, stream: str, who: str) -> None:
        super().__init__(state, stream, who)
        self.forget()

    def forget(self) -> None:
        self.todo: deque[Pair] = deque()
        self.failing: dict[str, Pair] = {}  # by person: tried again alone
        self.left: dict[StreamId, int] = {}  # pairs of an entry that are not done
        self.done: list[StreamId] = []  # entries without pairs

    def held(self) -> set[StreamId]:
        return set(self.left)

    def add(self, entries: list[Entry]) -> None:
        for entry in entries:
            stale = self.state.stale(entry)
            people = ("",) if stale else entry.to
            self.todo.extend(Pair(entry, user, reason="stale" if stale else "") for user in people)
            self.left[entry.id] = len(people)

    def work(self, want: int) -> None:
        hold = self.state.rules["hold"]
        if self.failing and (hold or want % 2 or not self.todo):
            batch = [next(iter(self.failing.values()))]
        else:
            batch = [self.todo.popleft() for _ in range(min(1 + want, len(self.todo)))]
        complete = self._complete(batch)
        failures, fresh = self.state.handover(
            self.stream, self.who, batch, complete, 0 if self.todo else 1 + want
        )
        self._settle(batch, failures)
        self.add(fresh)

    def _complete(self, batch: list[Pair]) -> list[StreamId]:
        if not self.state.rules["whole"]:
            return [pair.entry.id for pair in batch]
        mine = [pair.entry.id for pair in batch]
        return [each for each in dict.fromkeys(mine) if self.left[each] == mine.count(each)]

    def _settle(self, batch: list[Pair], failures: dict[int, str]) -> None:
        back = []
        for at, pair in enumerate(batch):
            if at not in failures:
                self.failing = {user: each for user, each in self.failing.items() if each is not pair}
                self.left[pair.entry.id] -= 1
                if not self.left[pair.entry.id]:
                    del self.left[pair.entry.id]
            elif failures[at] == HELD:
                back.append(pair)
            else:
                pair.tries += 1
                if pair.tries == TRIES:
                    pair.reason = "handover"
                self._fails(pair)
        self.todo.extendleft(reversed(back))

    def _fails(self, pair: Pair) -> None:
        other = self.failing.setdefault(pair.user, pair)
        if other is not pair:  # only where nothing waits behind a failure
            self.todo.append(pair)


class Router(Reader):
    """From the front door to the streams of shards. Not fenced while it appends: marks absorb what it repeats."""

    def __init__(self, state: Moves, who: str, shards: dict[str, str]) -> None:
        super().__init__(state, DOOR, who)
        self.shards = shards
        self.forget()

    def forget(self) -> None:
        self.todo: list[Entry] = []
        self.chunks: list[tuple[str, Entry]] = []
        self.began = 0

    def held(self) -> set[StreamId]:
        return {entry.id for entry in self.todo}

    def add(self, entries: list[Entry]) -> None:
        fresh = not self.todo
        self.todo += entries
        if fresh:
            self._prepare()

    def _prepare(self) -> None:
        self.began = self.state.now
        self.chunks = [
            (self.shards[user], entry._replace(to=(user,)))
            for entry in self.todo
            if not self.state.stale(entry)
            for user in entry.to
        ]

    def work(self, want: int) -> None:
        if not self.todo:
            _, fresh = self.state.handover(self.stream, self.who, (), (), 1 + want)
            self.add(fresh)
            return
        if self.chunks and self.state.now - self.began > MARGIN:
            self.drop()  # stands for: between read and append lies no more than the deadline of a call
        elif self.chunks:
            if not self.state.rules["answered"]:
                self._acknowledge()
            for stream, entry in self.chunks[: 1 + want]:
                self.state.append(stream, entry)
            del self.chunks[: 1 + want]
        else:
            self._acknowledge()
            self.todo = []

    def _acknowledge(self) -> None:
        letters = [(self.state.name(each), "", "stale") for each in self.todo if self.state.stale(each)]
        self.state.acknowledge(self.stream, self.who, [each.id for each in self.todo], letters)


class Line(Protocol):
    """The client at the other end of a session."""

    user: str

    def hear(self, message: Message) -> None: ...


class Session:
    """One client's conversation: it joins, and is then sent each change whose seq follows."""

    def __init__(self, state: Moves, process: str, line: Line, place: Place | None) -> None:
        self.state, self.process, self.line, self.user = state, process, line, line.user
        self.mode, self.start = ("load", NOWHERE) if place is None else ("resume", place)
        self.began = False  # the first join has been answered
        self.greeted = self.owed = False
        self.place, self.since = NOWHERE, 0
        self.phase = BEHIND
        self.kept: list[Bell] = []
        self.answer: Joined | None = None

    def step(self) -> None:
        """Ask, or take in the answer."""
        if self.phase == BEHIND:
            self.phase, self.kept = JOINING, []
            since = self.since if self.state.rules["since"] else 0
            mode, place = ("resume", self.place) if self.began else (self.mode, self.start)
            self.answer = self.state.join(self.process, self.user, mode, place, since)
        elif self.phase == JOINING and self.answer is not None:
            answer, self.answer = self.answer, None
            self._joined(answer)

    def _joined(self, answer: Joined) -> None:
        if not self.greeted:
            self.line.hear(("ready", answer.place))
            self.greeted = True
        elif answer.result == "resume" and answer.place == self.place and not self.owed:
            self._go_live()
            return
        self.began = True
        if answer.result == "resync":
            self.line.hear(("resync",))
        if answer.result != "resume":
            self.since = answer.place.seq
        for seq, record in answer.records:
            self.line.hear(("change", seq, answer.floor, record))
        if answer.more:
            self.owed = True
            self.place, self.phase = answer.place._replace(seq=answer.records[-1][0]), BEHIND
            return
        self.place, self.since, self.owed = answer.place, 0, False
        self.line.hear(("upto", answer.place, answer.floor, answer.seen))
        self._go_live()

    def _go_live(self) -> None:
        kept, self.kept, self.phase = self.kept, [], LIVE
        for bell in kept:
            self.rang(bell)
        if len(kept) == KEPT:
            self.phase = BEHIND

    def rang(self, bell: Bell) -> None:
        """A change of this person's inbox."""
        if self.phase != LIVE:
            if self.phase == JOINING and len(self.kept) < KEPT:
                self.kept.append(bell)
            return
        rules, here = self.state.rules, self.place
        other = (rules["birth"] and bell.birth != here.birth) or (rules["run"] and bell.run != here.run)
        if other or (rules["gap"] and bell.seq > here.seq + 1):
            self.phase = BEHIND
        elif bell.seq > here.seq or not rules["old"]:
            self.line.hear(("change", bell.seq, bell.floor, bell.record))
            self.place = here._replace(seq=bell.seq)

    def stands(self, inbox: Place) -> None:
        """Where the sweep has found the inbox."""
        rules, here = self.state.rules, self.place
        if self.phase != LIVE:
            return
        differs = inbox.seq > here.seq if rules["last-bell"] else False
        differs = differs or (rules["ahead"] and inbox.seq < here.seq)
        differs = differs or (rules["birth"] and inbox.birth != here.birth)
        if differs or (rules["run"] and inbox.run != here.run):
            self.phase = BEHIND

    def again(self) -> None:
        """Bells may have been missed."""
        self.phase, self.answer, self.kept = BEHIND, None, []


SHARDS: Final = {"u": "shard 0", "v": "shard 1"}


class Process:
    """Readers of all streams, and the sessions connected here."""

    def __init__(self, state: Moves, routed: bool) -> None:
        self.state, self.name = state, f"p{state.number()}"
        streams = sorted(set(SHARDS.values())) if routed else [DOOR]
        self.readers: list[Reader] = [Fanout(state, stream, self.name) for stream in streams]
        self.shards = list(self.readers)
        if routed:
            self.readers.append(Router(state, self.name, SHARDS))
        self.routed = routed
        self.sessions: list[Session] = []
        self.bells: list[tuple[str, list[Bell]]] = []  # by which way, in the order in which they were rung
        self.marks: list[Mark] = []
        self.left: list[str] = []  # people whose last socket here has closed
        self.subscribed = False
        self.found: dict[str, Place] | None = None
        self.before: int | None = None

    def reconnect(self) -> None:
        """The server was restarted: nothing is heard until the next subscription, and nothing is in hand."""
        self.subscribed = False
        if self.state.rules["forget"]:
            for reader in self.readers:
                reader.drop()

    def subscribe(self) -> None:
        if not self.subscribed:
            self.subscribed = True
            for session in self.sessions:
                session.again()

    def session(self, nth: int) -> None:
        """A step of one session that is not live."""
        waiting = [each for each in self.sessions if each.phase == JOINING or self._may_join(each)]
        if waiting:
            waiting[nth % len(waiting)].step()

    def _may_join(self, session: Session) -> bool:
        return session.phase == BEHIND and self.subscribed

    def bell(self, how: int) -> None:
        """The next message of all, or of one way: only along that way do they keep their order."""
        if self.bells:
            ways = [way for way, _ in self.bells]
            way = (ways[0], BUS, ANSWER)[how % 3]
            for bell in self.bells.pop(ways.index(way) if way in ways else 0)[1]:
                for session in [each for each in self.sessions if each.user == bell.user]:
                    session.rang(bell)

    def look(self) -> None:
        """The sweep, in two steps: ask, and act on the answer."""
        if self.found is None:
            self.found = self.state.refresh(self.name, sorted({each.user for each in self.sessions}))
            return
        found, self.found = self.found, None
        for session in self.sessions:
            if session.user in found:
                session.stands(found[session.user])

    def write(self) -> None:
        """The next mark; else who has left."""
        if self.marks:
            self.state.mark(self.marks.pop(0))
        elif self.left:
            user = self.left.pop(0)
            if user not in {session.user for session in self.sessions}:
                self.state.leave(self.name, user)

    def forget_marks(self) -> None:
        """In two steps: look at the front door, then sweep the shards."""
        if self.before is None:
            self.before = self.state.look_at_door() if self.routed else 0
            return
        before, self.before = self.before, None
        for reader in self.shards:
            if reader.has == OWNED:
                try:
                    self.state.sweep(reader.stream, self.name, before)
                except LeaseLost:
                    reader.drop()

    @property
    def idle(self) -> bool:
        return not any(reader.held() for reader in self.readers)
