"""Producers, processes, clients and one server; what may happen to them, and what must be true in the end."""

from __future__ import annotations

from typing import Final

from tests.model.client import Client
from tests.model.moves import ItemFailed, Moves, Pair, event_of
from tests.model.nouns import DOOR, Bell, Entry, Event, Inbox, StreamId
from tests.model.process import ANSWER, BUS, LIVE, SHARDS, Process
from tests.model.rules import HOUR, TRIES, WINDOW, Broken, Rules

USERS: Final = tuple(sorted(SHARDS))
AUDIENCES: Final = (("u",), ("u",), ("u", "v"), ("v",))
PAUSES: Final = (1, 1, 2, 4, HOUR, WINDOW // 2)
MOST_PROCESSES: Final = 3
PATIENCE: Final = 400  # rounds in which everything has to come to rest

Step = tuple[str, int, int]


class World:
    """Steps are (what, who, how): any numbers mean something, so that a trace can be made shorter."""

    def __init__(self, rules: Rules, routed: bool) -> None:
        self.state, self.routed = Moves(rules), routed
        self.state.ring, self.state.answer, self.state.hazard = self._ring, self._answer, self._hazard
        self.processes = [Process(self.state, routed) for _ in range(2)]
        self.shown: set[tuple[str, str]] = set()
        self.clients = [
            Client(self.state, user, active, self.shown)
            for user, active in (("u", True), ("u", False), ("v", True))
        ]
        self.sent: list[Event] = []
        self.fault = (0, 0)  # the stage at which the next pair fails, and how often
        self.failing: tuple[StreamId, str] | None = None

    # -- what the state asks of the world

    def _ring(self, name: str, bells: list[Bell]) -> None:
        for process in self.processes:
            if process.name == name and process.subscribed:
                process.bells.append((BUS, bells))

    def _answer(self, name: str, bells: list[Bell]) -> None:
        """Heard in a step of its own, before or after what the bus brings, whether or not that is heard."""
        for process in self.processes:
            if process.name == name:
                process.bells.append((ANSWER, bells))

    def _hazard(self, pair: Pair, stage: int) -> None:
        at, times = self.fault
        if stage == at and times and self.failing in (None, (pair.entry.id, pair.user)):
            self.failing, self.fault = (pair.entry.id, pair.user), (at, times - 1)
            raise ItemFailed

    # -- steps

    def step(self, what: str, who: int, how: int) -> None:
        """One thing happens."""
        getattr(self, f"do_{what}")(who, how)

    def _process(self, who: int) -> Process:
        if not self.processes:
            self.processes.append(Process(self.state, self.routed))
        return self.processes[who % len(self.processes)]

    def do_event(self, who: int, how: int) -> None:
        """A like, an unlike, or something without an id; its own time may lie back, up to the whole window."""
        number, to = self.state.number(), AUDIENCES[how // 4 % 4]
        back = (0, 0, 1, WINDOW - 1, WINDOW + 1)[how // 16 % 5]
        relation = f"r{how // 80 % 2}" if how % 4 else f"r{number}"
        name = None if how % 4 == 3 else f"e{number:06}"
        event = Event(name, self.state.now - (back if name else 0), how % 4 == 2, relation, to)
        self.sent.append(event)
        self._append(event)

    def do_repeat(self, who: int, how: int) -> None:
        named = [event for event in self.sent if event.id]
        if named:
            self._append(named[how % len(named)])

    def _append(self, event: Event) -> None:
        self.state.append(DOOR, Entry((0, 0), event, (0, 0), event.to))

    def do_time(self, who: int, how: int) -> None:
        self.state.now += PAUSES[how % len(PAUSES)]

    def do_outage(self, who: int, how: int) -> None:
        self.state.now += WINDOW + HOUR

    def do_fault(self, who: int, how: int) -> None:
        self.fault, self.failing = (1 + how % 4, 1 + how // 4 % TRIES), None

    def do_restart(self, who: int, how: int) -> None:
        self.state.restart(how % 8)
        for process in self.processes:
            process.reconnect()

    def do_expire(self, who: int, how: int) -> None:
        self.state.expire(USERS[how % len(USERS)])

    def do_lose_group(self, who: int, how: int) -> None:
        streams = [reader.stream for reader in self._process(who).readers]
        self.state.lose_group(streams[how % len(streams)])

    def do_start(self, who: int, how: int) -> None:
        if len(self.processes) < MOST_PROCESSES:
            self.processes.append(Process(self.state, self.routed))

    def do_kill(self, who: int, how: int) -> None:
        process = self._process(who)
        for client in self.clients:
            if client.process is process:
                client.drop()
        self.processes.remove(process)

    def do_read(self, who: int, how: int) -> None:
        readers = self._process(who).readers
        readers[how // 3 % len(readers)].step(how % 3)

    def do_flow(self, who: int, how: int) -> None:
        """A stretch in which nothing goes wrong."""
        for process in self.processes:
            for reader in reversed(process.readers):
                for _ in range(4):
                    reader.step(how % 3)

    def do_claim(self, who: int, how: int) -> None:
        for reader in self._process(who).readers:
            reader.claim()

    def do_forget_marks(self, who: int, how: int) -> None:
        self._process(who).forget_marks()

    def do_subscribe(self, who: int, how: int) -> None:
        self._process(who).subscribe()

    def do_session(self, who: int, how: int) -> None:
        self._process(who).session(how)

    def do_bell(self, who: int, how: int) -> None:
        self._process(who).bell(how)

    def do_lose_bell(self, who: int, how: int) -> None:
        """Off the bus, or with an answer."""
        bells = self._process(who).bells
        if bells:
            bells.pop(how % len(bells))

    def do_look(self, who: int, how: int) -> None:
        self._process(who).look()

    def do_write(self, who: int, how: int) -> None:
        self._write(self._process(who))

    def _write(self, process: Process) -> None:
        process.write()
        for user in USERS:
            box: Inbox | None = self.state.get(("inbox", user))
            rows, seen = (box.rows(), box.seen) if box else ({}, 0)
            for seq, row in rows.items():
                if (row.read or seq <= seen) and (user, row.id) not in self.shown:
                    raise Broken("unseen", f"{user}: {row.id} is marked, and nobody was shown it")

    def do_connect(self, who: int, how: int) -> None:
        self.clients[how % 3].connect(self._process(who))

    def do_flap(self, who: int, how: int) -> None:
        """A client comes, hears a little, and its line is cut."""
        client, process = self.clients[who % 3], self._process(how // 4)
        client.connect(process)
        self.do_rejoin(how // 4, how)
        for _ in range(how % 4):
            client.receive()
        client.drop()

    def do_rejoin(self, who: int, how: int) -> None:
        """A process subscribes, and its sessions join: no bell is heard meanwhile."""
        process = self._process(who)
        process.subscribe()
        for session in process.sessions:
            session.step()
            session.step()

    def do_drop(self, who: int, how: int) -> None:
        self.clients[who % 3].drop()

    def do_receive(self, who: int, how: int) -> None:
        for _ in range(1 + how % 3):
            self.clients[who % 3].receive()

    def do_mark(self, who: int, how: int) -> None:
        """What a person does; in every other case it is written at once."""
        client = self.clients[who % 3]
        client.mark(how)
        while how // 64 % 2 and client.process is not None and client.process.marks:
            self._write(client.process)

    def do_rest(self, who: int, how: int) -> None:
        self._rest()

    # -- the end: nothing goes wrong any more

    def quiesce(self) -> None:
        """Streams drain, one sweep, and all comes to rest. Raises Broken."""
        self.fault = (0, 0)
        self._process(0)
        self._drain()
        self._rest()
        for process in self.processes:
            process.found = None
            process.look()
            process.look()
        self._rest()

    def _drain(self) -> None:
        for turn in range(PATIENCE):
            if not any(self._left().values()) and all(process.idle for process in self.processes):
                return
            for process in self.processes:
                for reader in process.readers:
                    reader.step(1)
                    reader.claim()
            self.state.now += turn % 4 == 3
        raise Broken("drains", f"entries stay: {self._left()}")

    def _left(self) -> dict[str, int]:
        streams = {reader.stream for reader in self.processes[0].readers}
        return {stream: len(self.state.entries(stream)) for stream in sorted(streams)}

    def _rest(self) -> None:
        for _ in range(PATIENCE):
            busy = self._settle_processes()
            for client in self.clients:
                busy |= self._settle_client(client)
            if not busy:
                return
        raise Broken("rests", "sockets never come to rest")

    def _settle_processes(self) -> bool:
        busy = False
        for process in self.processes:
            process.subscribe()
            waiting = any(session.phase != LIVE for session in process.sessions)
            if process.bells or process.marks or process.left or waiting:
                busy = True
                process.bell(0)
                self._write(process)
                process.session(0)
        return busy

    def _settle_client(self, client: Client) -> bool:
        if client.process is None:
            client.connect(self._process(0))
            return True
        busy = bool(client.queue)
        while client.queue:
            client.receive()
        return (client.active and client.look()) or busy

    # -- the judgement

    def judge(self) -> None:
        """Every promise kept? Raises Broken."""
        for (name, user), times in self.state.get("g.times", {}).items():
            if times > 1:
                raise Broken("once", f"{name} was applied {times} times to {user}")
            if any(name == dead and user == who for dead, who, _ in self.state.get("dead", ())):
                raise Broken("once", f"{name} was buried for {user} and applied as well")
        for user in USERS:
            box: Inbox | None = self.state.get(("inbox", user))
            rows = box.rows() if box else {}
            self._judge_rows(user, [row.id for row in rows.values()])
            for client in self.clients:
                if client.user == user:
                    self._judge_client(client, {row.id: (seq, row.read) for seq, row in rows.items()}, box)

    def _judge_rows(self, user: str, have: list[str]) -> None:
        doubtful = self._doubtful(user)
        wanted = [each for each in self._wanted(user) if each not in doubtful]
        have = [each for each in have if each not in doubtful]
        gone = {
            each for key in ("g.trimmed", "g.deleted") for who, each in self.state.get(key, ()) if who == user
        }
        if extra := [each for each in have if each not in wanted]:
            raise Broken("inbox", f"{user} has {extra} too much")
        if missing := [each for each in wanted if each not in have and each not in gone]:
            raise Broken("inbox", f"{user} misses {missing}")
        if have != [each for each in wanted if each in have]:
            raise Broken("order", f"{user} has {have}, the stream {wanted}")

    def _doubtful(self, user: str) -> set[str]:
        """What nothing is promised about: pairs that failed half-way and were buried, what buried retractions or
        expired registers were about."""
        names = {name for name, who, _ in self.state.get("dead", ()) if who == user}
        accepted = [(event_of(at, event), event) for at, event in self.state.get("g.accepted", ())]
        about = {event.relation for name, event in accepted if name in names and event.takes_back}
        about |= {relation for who, relation in self.state.get("g.expired", ()) if who == user}
        return names | {name for name, event in accepted if event.relation in about}

    def _wanted(self, user: str) -> list[str]:
        """What the producers' events come to, by themselves: no marks, no leases, no batches."""
        rows: dict[str, Event] = {}
        off: dict[str, tuple[int, str]] = {}
        for at, event in self.state.get("g.accepted", ()):
            name = event_of(at, event)
            if user not in event.to or at[0] - event.time > WINDOW:
                continue
            if event.takes_back:
                off[event.relation] = max(off.get(event.relation, (0, "")), (event.time, name))
            else:
                rows.setdefault(name, event)
        return [name for name, event in rows.items() if (event.time, name) > off.get(event.relation, (0, ""))]

    def _judge_client(self, client: Client, rows: dict[str, tuple[int, bool]], box: Inbox | None) -> None:
        if client.view != rows:
            raise Broken("client", f"a client of {client.user} shows {client.view}, its inbox has {rows}")
        if box is not None and (client.place is None or client.place.seq != box.seq):
            raise Broken("client", f"a client of {client.user} is at {client.place}, its inbox at {box.seq}")
