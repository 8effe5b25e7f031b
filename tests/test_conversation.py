"""Random lives of one person's inbox and sockets, in memory: whatever is lost, reordered or restarted on the way,
each client ends with exactly what the inbox holds, having seen it in order, or having been told to load anew."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock

from notifier.core import keys
from notifier.core import session as sessions
from notifier.core.backlog import Backlog
from notifier.core.inbox import Join, Joined, Mark, Place
from notifier.core.intake import Intake
from notifier.core.session import Session, Start
from notifier.edge.hub import Hub
from notifier.edge.memory import MemoryBus, MemoryInbox, MemoryLog
from notifier.edge.memory_state import MemoryServer
from notifier.edge.store import Rules
from notifier.metrics import Metrics
from notifier.pipeline import Fanout

CAP = 3
USER = "u"


class HeldInbox(MemoryInbox):
    """Joins take effect at once; their answers come when the test says so, as over a network."""

    waiting: list[tuple[Deferred[Joined], Joined]]

    def join(  # type: ignore[override]  # the port asks for an Awaitable, the double promises a coroutine
        self, user: str, join: Join, issued: int
    ) -> Awaitable[Joined]:
        answer: Deferred[Joined] = Deferred()
        self.waiting.append((answer, now(super().join(user, join, issued))))
        return answer


class Socket:
    """One connection of an application (hub.Client)."""

    issued = 0

    def __init__(self, app: App, place: Start) -> None:
        self.app, self.session = app, Session(USER, place, 4)
        self.last: int | None = None
        self.texts: list[bytes] = []

    def push(self, text: bytes) -> bool:
        self.texts.append(text)
        return True

    def flush(self) -> None:
        texts, self.texts = self.texts, []
        for text in texts:
            if self.app.socket is self:
                self.app.apply(self, msgspec.json.decode(text))

    def calm(self) -> bool:
        return True

    def close(self, code: int, reason: str) -> None:
        if self.app.socket is self:
            self.app.drop()


class App:
    """A client application that obeys docs/websocket.md, on one socket at a time."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.socket: Socket | None = None
        self.epoch: str | None = None
        self.after = 0
        self.view: dict[str, tuple[int, bool]] = {}
        self.seen = 0

    def connect(self) -> None:
        place = sessions.start(self.epoch, self.after) if self.epoch else Start(True, Place(0, "0", 0))
        assert isinstance(place, Start)
        self.socket = Socket(self, place)
        self.world.hub.add(self.socket)

    def drop(self) -> None:
        socket, self.socket = self.socket, None
        if socket is not None:
            self.world.hub.remove(socket)

    # -- what the protocol tells a client to do

    def apply(self, socket: Socket, message: dict[str, Any]) -> None:
        kind = message["type"]
        if kind == "resync":
            self.epoch, self.after, self.view, self.seen, socket.last = None, 0, {}, 0, None
        elif kind == "upto":
            self.epoch, self.after, self.seen = message["epoch"], message["seq"], message["seen"]
            self.trim(message["floor"])
        elif kind != "ready":
            if socket.last is not None and message["seq"] <= socket.last:
                self.world.faults.append(f"{message} after seq {socket.last}")
            socket.last = self.after = message["seq"]
            self.change(kind, message)
            self.trim(message["floor"])

    def change(self, kind: str, message: dict[str, Any]) -> None:
        if kind == "notification":
            self.view[message["id"]] = (message["seq"], message["read"])
        elif kind == "seen":
            self.seen = message["upto"]
        for nid in (
            [message["id"]] if kind == "retract" else message["ids"] if kind in ("deleted", "read") else ()
        ):
            if kind != "read":
                self.view.pop(nid, None)
            elif nid in self.view:
                self.view[nid] = (self.view[nid][0], True)

    def trim(self, floor: int) -> None:
        self.view = {nid: row for nid, row in self.view.items() if row[0] > floor}

    def say(self, **message: Any) -> None:
        socket = self.socket
        if socket is None:
            return
        for effect in socket.session.received(msgspec.json.encode(message)):
            assert isinstance(effect, Mark)
            self.world.hub.mark(effect)
        if socket.session.state == sessions.BEHIND:
            self.world.hub.resume(socket)


def now(work: Awaitable[Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        work.__await__().__next__()
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


class World(RuleBasedStateMachine):
    @initialize()
    def begin(self) -> None:
        self.server, self.clock = MemoryServer(), Clock()
        self.clock.advance(self.server.now / 1000)
        rules = Rules(cap=CAP, buckets=2)
        self.bus = MemoryBus(self.server, 1, "p")
        self.inbox = HeldInbox(self.server, rules, "p")
        self.inbox.waiting = []
        self.hub = Hub(
            self.clock, self.inbox, self.bus, Metrics(), 1, page=2, refresh_seconds=5, spread_seconds=1,
            chance=random.Random(1),
        )  # fmt: skip
        intake = Intake(("like",), 86_400_000, 300_000, 16_384, 1000)
        log = MemoryLog(self.server, rules, keys.FRONT_DOOR, keys.tag(0), "p", lambda s, t: succeed(None))
        self.fanout = Fanout(
            log, Backlog(intake, keys.tag(0), 2), Metrics(), self.clock.seconds, lambda line: None, 15.0
        )
        self.bus.start()
        self.hub.start()
        self.apps = [App(self), App(self)]
        self.sent: list[bytes] = []
        self.faults: list[str] = []
        self.mute = 0
        # Bells come in on two lines, off the bus and with answers to handovers: either overtakes the other.
        self.lines: dict[str, list[Any]] = {"hear": [], "told": []}
        self.slow: set[str] = set()
        for line in self.lines:
            setattr(self.bus, line, self.heard(line, getattr(self.bus, line)))

    def heard(self, line: str, hear: Callable[[Any], None]) -> Callable[[Any], None]:
        def heard(bells: Any) -> None:
            if self.mute:
                self.mute -= 1
                if line == "told":
                    self.bus.missed({bell.user for bell in bells})
                return
            self.lines[line].append(lambda: hear(bells))
            self.flow(line)

        return heard

    def flow(self, line: str) -> None:
        while self.lines[line] and line not in self.slow:
            self.lines[line].pop(0)()

    @rule(first=st.sampled_from(["hear", "told"]), app=st.integers(0, 1))
    def overtake(self, first: str, app: int) -> None:
        """A row and a mark that follows it are told the other way round, or two rows with what lies between."""
        self.hold_up(first)
        self.event("b", "like", 0, True)
        self.read_all(app)
        self.event("b", "like", 0, True)
        self.time(0.02)
        self.let_go("hear" if first == "told" else "told")
        self.let_go(first)

    @rule(line=st.sampled_from(["hear", "told"]))
    def hold_up(self, line: str) -> None:
        self.slow.add(line)

    @rule(line=st.sampled_from(["hear", "told"]))
    def let_go(self, line: str) -> None:
        self.slow.discard(line)
        self.flow(line)

    def append(self, event: bytes) -> None:
        self.server.append(keys.FRONT_DOOR, b"event", event)

    @rule(
        actor=st.sampled_from("ab"),
        kind=st.sampled_from(["like", "like", "like", "unlike"]),
        age=st.integers(0, 2),
        soon=st.sampled_from([True, True, False]),
    )
    def event(self, actor: str, kind: str, age: int, soon: bool) -> None:
        when = self.server.now - age
        stamp = f"2027-01-15T08:00:{when // 1000 % 60:02}.{when % 1000:03}Z"
        event = {
            "id": f"e{len(self.sent)}",
            "time": stamp,
            "type": kind,
            "actor": {"id": actor},
            "to": [USER],
        }
        self.sent.append(msgspec.json.encode(event))
        self.append(self.sent[-1])
        if soon:
            self.handover()

    @rule(which=st.integers(0, 50))
    def repeat(self, which: int) -> None:
        if self.sent:
            self.append(self.sent[which % len(self.sent)])

    @rule()
    def handover(self) -> None:
        for _ in range(4):
            now(self.fanout.once())

    @rule(app=st.integers(0, 1), soon=st.booleans())
    def connect(self, app: int, soon: bool) -> None:
        self.apps[app].drop()
        self.apps[app].connect()
        while soon and self.inbox.waiting:
            self.answer(0)

    @rule(app=st.integers(0, 1))
    def disconnect(self, app: int) -> None:
        self.apps[app].drop()

    @rule(app=st.integers(0, 1), active=st.booleans())
    def ack(self, app: int, active: bool) -> None:
        self.apps[app].say(type="ack", seq=self.apps[app].after, active=active)

    @rule(app=st.integers(0, 1), which=st.integers(0, 5))
    def read(self, app: int, which: int) -> None:
        view = sorted(self.apps[app].view)
        if view:
            self.apps[app].say(type="read", ids=[view[which % len(view)]])

    @rule(app=st.integers(0, 1))
    def read_all(self, app: int) -> None:
        self.apps[app].say(type="read", seq=self.apps[app].after)

    @rule(app=st.integers(0, 1), which=st.integers(0, 5))
    def delete(self, app: int, which: int) -> None:
        view = sorted(self.apps[app].view)
        if view:
            now(self.inbox.mark([Mark(USER, "delete", "", "0", 0, (view[which % len(view)],))]))

    @rule(which=st.integers(0, 5))
    def answer(self, which: int) -> None:
        if self.inbox.waiting:
            waiting, joined = self.inbox.waiting.pop(which % len(self.inbox.waiting))
            waiting.callback(joined)

    @rule(count=st.integers(1, 2))
    def lose_bells(self, count: int) -> None:
        self.mute += count

    @rule()
    def resubscribe(self) -> None:
        self.bus.stop()
        self.lines["hear"].clear()
        self.bus.start()

    @rule(lost=st.integers(0, 6))
    def restart(self, lost: int) -> None:
        self.server.restart(lost)
        self.fanout.drop()
        self.lines["hear"].clear()
        self.bus.start()

    @rule(seconds=st.sampled_from([0.001, 0.02, 1.0, 4.0]))
    def time(self, seconds: float) -> None:
        self.server.now += max(1, int(seconds * 1000))
        self.clock.advance(seconds)

    @rule()
    def settle(self) -> None:
        """Nothing goes wrong any more: one sweep later every client shows exactly the inbox."""
        self.mute = 0
        for line in self.lines:
            self.let_go(line)
        for _ in range(12):
            for app in self.apps:
                if app.socket is None:  # also after a close 4002: resumed
                    app.connect()
            self.time(1.0)
            while self.inbox.waiting:
                self.answer(0)
            self.handover()
            for app in self.apps:
                app.say(type="ack", seq=app.after)
        box = self.server.box(USER)
        rows = {record.id: (seq, record.read) for seq, record in box.rows(1, box.seq)} if box else {}
        for app in self.apps:
            assert app.socket is not None
            assert app.socket.session.state == sessions.LIVE
            assert app.view == rows
            if box is not None:
                top = max((seq for seq, _ in rows.values() if seq <= box.seen), default=0)
                assert app.seen >= top, "what was seen elsewhere is seen here"

    @invariant()
    def each_socket_is_told_in_order_and_once(self) -> None:
        assert not getattr(self, "faults", ())

    def teardown(self) -> None:
        if hasattr(self, "apps"):
            self.settle()


World.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestConversation = World.TestCase
