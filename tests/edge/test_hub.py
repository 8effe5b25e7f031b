"""The hub on a clock that the tests move: everybody is swept in time, presence is true, history and rejoins are paced,
and a bell that cannot be read takes no other with it."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock

from notifier.core import keys
from notifier.core.backlog import Backlog
from notifier.core.inbox import Bell, Join, Joined, Mark, Standing, salvage_bells
from notifier.core.intake import Intake
from notifier.core.session import JOINING, LIVE, REVOKED, Session
from notifier.edge.hub import CALM_LOOK, MARK_DELAY, REJOINS, Hub
from notifier.edge.memory import MemoryBus, MemoryInbox, MemoryLog
from notifier.edge.memory_state import ItemError, Lasting, MemoryServer
from notifier.edge.redis import ReplyError
from notifier.edge.store import Rules
from notifier.metrics import Metrics
from notifier.pipeline import Fanout
from notifier.ports import Unavailable
from tests.client import Socket
from tests.daemon import Daemon
from tests.servers import Valkey


class Client:
    """One connection (hub.Client)."""

    issued = 2_000_000_000

    def __init__(self, user: str) -> None:
        self.session = Session(user, None, 256)
        self.texts: list[dict[str, Any]] = []
        self.at_rest = True
        self.looks = 0
        self._queue: list[bytes] = []

    def push(self, text: bytes) -> bool:
        self._queue.append(text)
        return len(self._queue) == 1

    def flush(self) -> None:
        self.texts += map(msgspec.json.decode, self._queue)
        self._queue.clear()

    def calm(self) -> bool:
        self.looks += 1
        return self.at_rest

    def close(self, code: int, reason: str) -> None:
        raise AssertionError(f"{self.session.user} was closed: {code} {reason}")

    def seqs(self) -> list[int]:
        """Of the notifications that were sent."""
        return [text["seq"] for text in self.texts if text["type"] == "notification"]


class Inbox(MemoryInbox):
    """Notes when it is asked; calls of a kind in `slow` are done, and answered, only by `answer`."""

    def __init__(self, server: MemoryServer, clock: Clock) -> None:
        super().__init__(server, Rules(), "p")
        self.clock = clock
        self.joins: list[tuple[float, str]] = []
        self.swept: list[tuple[float, str]] = []
        self.slow: set[str] = set()
        self.delay = 0.0
        self.failing: dict[str, Exception] = {}  # by person: what a call comes to that asks for them
        self._waiting: list[tuple[str, Deferred[Any], Callable[[], Any]]] = []

    def _ask(self, kind: str, do: Callable[[], Any]) -> Awaitable[Any]:
        answer: Deferred[Any] = Deferred()
        if kind in self.slow:
            self._waiting.append((kind, answer, do))
        else:
            result = do()
            self.clock.callLater(self.delay, lambda: answer.callback(result))
        return answer

    def answer(self, kind: str) -> None:
        """Now the server does what it was asked first of this kind, and says so."""
        found = next(waiting for waiting in self._waiting if waiting[0] == kind)
        self._waiting.remove(found)
        _, answer, do = found
        answer.callback(do())

    def join(self, user: str, join: Join, issued: int) -> Awaitable[Joined]:  # type: ignore[override]
        self.joins.append((self.clock.seconds(), user))
        return self._ask("join", lambda: now(super(Inbox, self).join(user, join, issued)))

    def leave(self, users: Sequence[str]) -> Awaitable[None]:  # type: ignore[override]
        return self._ask("leave", lambda: now(super(Inbox, self).leave(users)))

    def refresh(self, users: Sequence[str]) -> Awaitable[dict[str, Standing]]:  # type: ignore[override]
        for user in users:
            if user in self.failing:
                return fail(self.failing[user])
        self.swept += [(self.clock.seconds(), user) for user in users]
        return self._ask("refresh", lambda: now(super(Inbox, self).refresh(users)))


def now(work: Awaitable[Any]) -> Any:
    """The result of a coroutine that waits for nothing."""
    try:
        work.__await__().__next__()
    except StopIteration as done:
        return done.value
    raise AssertionError("it waited")


class House:
    """A hub over a server in memory."""

    def __init__(self, sweep: bool = True, **settings: float) -> None:
        self.clock = Clock()
        self.server = MemoryServer()
        self.inbox = Inbox(self.server, self.clock)
        self.bus = MemoryBus(self.server, 1, "p")
        self.metrics = Metrics()
        self.hub = Hub(self.clock, self.inbox, self.bus, self.metrics, 1, **settings)  # type: ignore[arg-type]
        self.bus.start()
        if sweep:
            self.hub.start()

    def enter(self, *users: str) -> list[Client]:
        clients = [Client(user) for user in users]
        for client in clients:
            self.hub.add(client)
        self.pass_by(0.1)
        return clients

    def pass_by(self, seconds: float) -> None:
        """Let time pass, from one call that is due to the next."""
        until = self.clock.seconds() + seconds
        while (due := min((call.time for call in self.clock.calls), default=until)) < until:
            self.clock.advance(max(0.0, due - self.clock.seconds()))
        self.clock.advance(max(0.0, until - self.clock.seconds()))

    def present(self, user: str) -> bool:
        found = self.server.get(self.server.present, user)
        return found is not None and len(found) > 0


# --- the sweep ---------------------------------------------------------------------------------------------

PERIOD = 6

Coming = st.tuples(st.just("come"), st.integers(1, 40))
Going = st.tuples(
    st.just("go"), st.integers(0, 100)
)  # so many of a hundred leave, those that were swept last first
Waiting = st.tuples(st.just("wait"), st.integers(1, 4))


@settings(max_examples=60)
@given(st.lists(Coming | Going | Waiting, max_size=12), st.sampled_from([0.0, 1.4]))
def test_everybody_is_swept_within_the_period_whoever_comes_and_goes(
    story: list[tuple[str, int]], delay: float
) -> None:
    house = House(refresh_seconds=PERIOD)
    here: dict[str, tuple[Client, float]] = {}
    gone: dict[str, tuple[float, float]] = {}
    count = 0
    for what, number in [("come", 3), *story, ("wait", 2 * PERIOD)]:
        if what == "come":
            names = [f"u{count + at}" for at in range(number)]
            count += number
            for client in house.enter(*names):
                here[client.session.user] = client, house.clock.seconds()
        elif what == "go":
            last = {user: at for at, (_, user) in enumerate(house.inbox.swept)}
            order = sorted(here, key=lambda user: last.get(user, -1), reverse=True)
            for user in order[: len(order) * number // 100]:
                client, came = here.pop(user)
                house.hub.remove(client)
                gone[user] = came, house.clock.seconds()
        else:
            house.inbox.delay = delay
            house.pass_by(number)
            house.inbox.delay = 0.0
    stays = {user: (came, house.clock.seconds()) for user, (_, came) in here.items()} | gone
    for user, (came, went) in stays.items():
        looks = [came, *(at for at, who in house.inbox.swept if who == user and at <= went), went]
        longest = max(after - before for before, after in pairwise(looks))
        assert longest <= PERIOD + 0.01, f"{user} was left alone for {longest} s"


def test_the_one_who_stays_when_all_others_leave_is_swept_in_time() -> None:
    house = House(refresh_seconds=30)
    clients = house.enter(*(f"u{n}" for n in range(2000)))
    for client in clients[:-1]:
        house.hub.remove(client)
    began = house.clock.seconds()
    house.pass_by(31)
    looks = [at - began for at, user in house.inbox.swept if user == "u1999"]
    assert looks
    assert looks[0] <= 30


def test_an_inbox_that_cannot_be_read_is_told_and_left_alone() -> None:
    house = House(refresh_seconds=3)
    house.server.hazard = damaged
    house.enter("a", "b", "c")
    joins = len(house.inbox.joins)
    house.pass_by(9)
    assert {user for _, user in house.inbox.swept} == {"a", "b", "c"}
    looks = [user for _, user in house.inbox.swept].count("b")
    assert looks >= 3
    assert house.metrics.inboxes_unreadable == looks
    assert house.metrics.refreshes == len(house.inbox.swept) - looks
    assert len(house.inbox.joins) == joins, "a place that nobody knows is no reason for a join"
    assert house.present("b")


def test_a_token_is_void_whatever_the_inbox_is_like() -> None:
    house = House(refresh_seconds=3)
    house.server.hazard = damaged
    (client,) = house.enter("b")
    client.issued = 1
    closed: list[int] = []
    client.close = lambda code, reason: closed.append(code)  # type: ignore[method-assign]
    house.server.revoked.put("b", Lasting(1, house.server.now + 1_000))
    house.pass_by(3)
    assert REVOKED in closed


def damaged(stage: str, user: str, event_id: str) -> None:
    if (stage, user) == ("look", "b"):
        raise ItemError("damaged")


@pytest.mark.parametrize("error", [ReplyError("ERR no"), RuntimeError("a bug")])
def test_a_part_of_the_sweep_that_fails_for_ever_holds_up_nobody(error: Exception) -> None:
    house = House(refresh_seconds=PERIOD)
    users = [f"u{n}" for n in range(20)]
    house.enter(*users)
    house.inbox.failing["u0"] = error
    house.inbox.swept.clear()
    house.pass_by(3 * PERIOD)
    part = 5
    swept = {user for _, user in house.inbox.swept}
    assert len(swept) >= len(users) - part
    for user in swept:
        looks = [at for at, who in house.inbox.swept if who == user]
        assert max(after - before for before, after in pairwise(looks)) <= PERIOD + 0.01


def test_who_could_not_be_asked_for_is_asked_for_next() -> None:
    """Redis was away: nothing is known to be wrong with anybody, and those whose turn it was have waited longest."""
    house = House(refresh_seconds=PERIOD)
    users = [f"u{n}" for n in range(20)]
    house.enter(*users)
    house.pass_by(PERIOD)
    order = list(dict.fromkeys(user for _, user in reversed(house.inbox.swept)))[::-1]
    assert len(order) == len(users)
    house.inbox.failing = dict.fromkeys(users, Unavailable("away"))
    house.pass_by(10)
    house.inbox.failing.clear()
    house.inbox.swept.clear()
    house.pass_by(1)
    assert [user for _, user in house.inbox.swept] == order[:5]


# --- presence ----------------------------------------------------------------------------------------------


def test_a_leave_that_overtakes_the_join_of_the_same_person_is_put_right() -> None:
    house = House(sweep=False)
    house.inbox.slow = {"leave"}
    (first,) = house.enter("u")
    house.hub.remove(first)
    house.pass_by(2 * MARK_DELAY)  # the leave is on its way
    (second,) = house.enter("u")
    assert (second.session.state, house.present("u")) == (LIVE, True)
    house.inbox.answer("leave")
    house.pass_by(0.1)
    assert house.present("u"), (
        "the hub has asked how things stand, and with that said that the person is here"
    )


@pytest.mark.parametrize("kind", ["join", "refresh"])
def test_who_closes_while_a_call_writes_their_presence_is_taken_out_again(kind: str) -> None:
    house = House(sweep=False, refresh_seconds=1)
    house.inbox.slow = {kind}
    (client,) = house.enter("u")
    if kind == "refresh":
        house.hub.start()
        house.pass_by(0.1)
    house.hub.remove(client)
    house.pass_by(0.1)  # the leave is done
    house.inbox.answer(kind)
    house.pass_by(0.1)
    assert not house.present("u")


def test_a_person_is_there_until_the_last_of_their_sockets_has_gone() -> None:
    house = House(sweep=False)
    one, two = house.enter("u", "u")
    house.hub.remove(one)
    house.pass_by(0.1)
    assert house.present("u")
    house.hub.remove(two)
    house.pass_by(0.1)
    assert not house.present("u")


# --- history and rejoins -----------------------------------------------------------------------------------


def append(house: House, *users: str, seq: int = 1, accepted: int = 0) -> list[Bell]:
    place = now(MemoryInbox(house.server, Rules(), "p").refresh(list(users)))
    return [bell(user, seq, birth=place[user].birth, run=place[user].run) for user in users]


def bell(user: str, seq: int, record: str = "", birth: int = 0, run: str = "") -> Bell:
    return Bell(user, birth, run, seq, 0, 1, 0, record or f'1n0 5 g n{seq} "id":"n{seq}","kind":"like"')


def test_whose_bells_were_lost_with_an_answer_look_for_themselves() -> None:
    house = House(sweep=False)
    ana, again, bo = house.enter("ana", "ana", "bo")
    joins = len(house.inbox.joins)
    house.bus.missed({"ana", "nobody"})
    assert (ana.session.state, bo.session.state) == (JOINING, LIVE)
    house.pass_by(0.1)
    assert len(house.inbox.joins) == joins + 2
    assert {each.session.state for each in (ana, again, bo)} == {LIVE}


def test_a_join_under_way_when_bells_were_lost_is_followed_by_another() -> None:
    """Its answer may be older than what was lost."""
    house = House(sweep=False)
    house.inbox.slow = {"join"}
    (ana,) = house.enter("ana")
    house.bus.missed({"ana"})
    house.inbox.answer("join")
    house.pass_by(0.1)
    assert (ana.session.state, ana.session.joins) == (JOINING, 2)
    house.inbox.answer("join")
    house.pass_by(0.1)
    assert ana.session.state == LIVE


def fanout(house: House) -> Fanout:
    """The reader of the process whose hub this is."""
    log = MemoryLog(
        house.server, Rules(), keys.FRONT_DOOR, keys.tag(0), "p", lambda *_: fail(Unavailable(""))
    )
    backlog = Backlog(Intake(("like",), 86_400_000, 300_000, 16_384, 1_000), keys.tag(0), 1)
    return Fanout(log, backlog, Metrics(), house.clock.seconds, lambda line: None, 15.0)


@pytest.mark.parametrize("joins", ["before", "during", "again"])
@pytest.mark.parametrize("order", list(permutations(range(4))), ids=lambda order: "".join(map(str, order)))
def test_bells_of_both_ways_in_any_order_come_to_the_same(order: tuple[int, ...], joins: str) -> None:
    """Two rows with the answers to their handovers, what was seen and read over the bus."""
    house, said = House(sweep=False), list[Callable[[], None]]()
    ways: Any = house.bus
    hear, told = ways.hear, ways.told
    ways.hear = lambda bells: said.append(lambda: hear(bells))
    ways.told = lambda bells: said.append(lambda: told(bells))
    (client,) = house.enter("ana")
    if joins != "before":
        house.inbox.slow = {"join"}
        house.bus.missed({"ana"})
    reader = fanout(house)
    for number, mark in enumerate(("seen", "read")):
        event = {"type": "like", "actor": {"id": str(number)}, "to": ["ana"]}
        house.server.append(keys.FRONT_DOOR, b"event", json.dumps(event).encode())
        for _ in range(3):
            now(reader.once())
        box = house.server.boxes["ana"]
        now(house.inbox.mark([Mark("ana", mark, str(box.birth), box.run, box.seq)]))  # type: ignore[arg-type]
    assert len(said) == 4
    for at, which in enumerate(order):
        if joins == "during" and at == 2:
            house.inbox.answer("join")
        said[which]()
    house.inbox.slow = set()
    if joins == "again":
        house.inbox.answer("join")
    house.pass_by(1)
    seqs = [text["seq"] for text in client.texts if text["type"] in ("notification", "seen", "read")]
    assert (client.session.state, client.session.last) == (LIVE, 4)
    assert seqs == sorted(set(seqs)), "never back, nothing twice"
    assert [text["type"] for text in client.texts if text.get("seq") in (1, 2, 3, 4)].count(
        "notification"
    ) == 2
    assert seqs[-1] == 4


def test_no_more_history_is_read_for_a_line_that_is_not_calm() -> None:
    house = House(sweep=False)
    (client,) = house.enter("u")
    client.at_rest = False
    client.session.again()
    house.hub.resume(client)
    asked = len(house.inbox.joins)
    house.pass_by(20 * CALM_LOOK)
    assert len(house.inbox.joins) == asked
    assert client.looks >= 15
    client.at_rest = True
    house.pass_by(2 * CALM_LOOK)
    assert (len(house.inbox.joins), client.session.state) == (asked + 1, LIVE)


def test_nobody_looks_after_a_line_that_has_gone() -> None:
    house = House(sweep=False)
    (client,) = house.enter("u")
    client.at_rest = False
    client.session.again()
    house.hub.resume(client)
    house.hub.remove(client)
    house.pass_by(2 * CALM_LOOK)
    looks = client.looks
    house.pass_by(10 * CALM_LOOK)
    assert client.looks == looks


@pytest.mark.parametrize(("people", "spread"), [(2000, 10.0), (20_000, 10.0)])
def test_rejoins_are_spread_and_newcomers_do_not_wait_behind_them(people: int, spread: float) -> None:
    house = House(sweep=False, spread_seconds=spread)
    clients = house.enter(*(f"u{n}" for n in range(people)))
    house.pass_by(2)
    assert all(client.session.state == LIVE for client in clients)
    house.inbox.joins.clear()
    began = house.clock.seconds()
    house.bus.stop()
    house.bus.start()
    house.pass_by(0.1)
    (newcomer,) = house.enter("newcomer")
    assert newcomer.session.state == LIVE
    assert not all(client.session.state == LIVE for client in clients)
    house.pass_by(spread - 0.3)
    assert all(client.session.state == LIVE for client in clients)
    rate = max(REJOINS, people / (spread - 5))
    first = [user for at, user in house.inbox.joins if at - began <= 1.0]
    assert rate * 0.8 < len(first) <= rate * 1.1 + 1
    assert len(house.inbox.joins) == people + 1, "each once"


# --- bells that cannot be read -----------------------------------------------------------------------------

MALFORMED = ["", "1", "1n", "1n0", "1n0 5 g", "1?0 5 g n x", "1t0 5 g", "zzzz"]


@pytest.mark.parametrize("record", MALFORMED)
def test_a_bell_without_a_record_is_counted_and_the_others_of_its_message_are_heard(record: str) -> None:
    house = House(sweep=False)
    clients = house.enter("a", "b", "c")
    bells = append(house, "a", "b", "c")
    spoiled = msgspec.structs.replace(bells[1], record=record)
    house.hub.rang([bells[0], spoiled, bells[2]])
    assert [client.seqs() for client in clients] == [[1], [], [1]]
    assert house.metrics.bells_malformed == 1
    assert house.metrics.deliveries == 2
    asked = len(house.inbox.joins)
    house.hub.rang(append(house, "b", seq=2))
    house.pass_by(0.1)
    assert house.inbox.joins[asked:] == [(house.inbox.joins[-1][0], "b")], "the next one shows the gap"


@pytest.mark.parametrize("record", MALFORMED)
def test_a_session_in_the_middle_of_a_join_does_not_keep_such_a_bell(record: str) -> None:
    house = House(sweep=False)
    house.inbox.slow = {"join"}
    (client,) = house.enter("a")
    house.hub.rang([msgspec.structs.replace(append(house, "a")[0], record=record)])
    house.inbox.answer("join")
    house.pass_by(0.1)
    assert client.session.state == LIVE


def packed(*bells: Any) -> bytes:
    return msgspec.msgpack.encode(list(bells))


@pytest.mark.parametrize(
    ("message", "users", "malformed"),
    [
        (packed(bell("a", 1), bell("b", 1)), "ab", 0),
        (packed(bell("a", 1), ["short"], bell("c", 1)), "ac", 1),
        (packed("text", bell("b", 1), None), "b", 2),
        (packed(["u", 0, "r", "one", 0, 0, 0, "r"], bell("b", 1)), "b", 1),
        (packed(bell("a", 1), bell("b", 1, "1n?")).replace(b"1n?", b"1n\xff"), "a", 1),
        (packed(bell("a", 1))[:-1], "", 1),
        (packed(bell("a", 1)) + b"more", "", 1),
        (b"nonsense", "", 1),
        (b"", "", 1),
        (b"\x91" * 5000, "", 1),
    ],
)
def test_what_can_be_read_of_a_message(message: bytes, users: str, malformed: int) -> None:
    bells, count = salvage_bells(message)
    assert ("".join(each.user for each in bells), count) == (users, malformed)


@given(st.binary(max_size=60))
def test_no_message_raises(message: bytes) -> None:
    salvage_bells(message)


@pytest.fixture
def daemon(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[Daemon]:
    with Daemon(tmp_path, redis_url) as running:
        yield running


def test_garbage_on_the_channel_is_counted_told_once_and_stops_nobody(daemon: Daemon, valkey: Valkey) -> None:
    found: Any = valkey.call("PUBSUB", "CHANNELS", "bell:{0}:*")
    (channel,) = found
    with Socket(daemon.port("websocket")) as client:
        birth, _, run = client.auth("ana")["epoch"].partition(".")
        good = bell("ana", 1, birth=int(birth), run=run)
        for message in (b"", b"nonsense", packed(["short"], bell("ana", 1, "x"), good)):
            assert valkey.call("PUBLISH", channel, message) == 1
        assert client.until("notification")["seq"] == 1
        event = {"type": "like", "actor": {"id": "bo"}, "to": ["ana"], "object": {"type": "photo", "id": "1"}}
        valkey.call("XADD", "notifier:events", "*", "event", json.dumps(event))
        valkey.call("XADD", "notifier:events", "*", "event", json.dumps(event))
        while client.until("notification")["seq"] != 2:
            pass
    assert daemon.metrics()["bells_malformed_total"] == 4
    said = [line for line in daemon.lines() if "bell" in str(line.get("message", ""))]
    assert [line["message"].partition(":")[0] for line in said] == [
        "a bell cannot be read", "bell 1 of ana holds no record",
    ]  # fmt: skip
    assert not [line for line in daemon.lines() if "traceback" in line]
