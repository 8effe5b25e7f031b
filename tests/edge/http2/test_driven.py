"""Protocol and pool by a driven clock, over lines in memory: what is a matter of seconds, and of who writes when."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from OpenSSL import SSL
from twisted.internet import error
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from notifier.core.breaker import Breaker, BreakerRule
from notifier.core.http2 import Limits, Refused
from notifier.edge.http2.pool import Pool, Push, Sizes
from notifier.edge.http2.protocol import CLOSE_WITHIN, TLS_WITHIN, PushProtocol
from tests.core.http2.world import ACK, ID, TOKEN, apns, frame, goaway, ok, rst, settings, split, window
from tests.edge.http2.world import Told, push, send

Refusal: Any = error.ConnectionRefusedError
Dead: Any = Failure


class Line(StringTransport):
    """A TLS transport with nothing behind it."""

    negotiatedProtocol: bytes | None = b"h2"

    def __init__(self, protocol: PushProtocol[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._protocol = protocol
        self.writes: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def abortConnection(self) -> None:
        self.aborted = True
        self.end()

    def end(self) -> None:
        self._protocol.connectionLost(Dead(Refusal("the line is dead")))

    def requests(self) -> list[int]:
        return [each.stream for each in split(b"".join(self.writes)) if each.kind == 1]


class Place:
    """An endpoint: each connection is a line in memory, or refused while `down`."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.down = False
        self.tried = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        self.tried += 1
        if self.down:
            return fail(Refusal("nobody there"))
        protocol = factory.buildProtocol(None)
        self.lines.append(Line(protocol))
        protocol.makeConnection(self.lines[-1])
        return succeed(protocol)


class World:
    def __init__(self, limits: Limits | None = None, sizes: Sizes | None = None, **more: Any) -> None:
        self.clock, self.place, self.told = Clock(), Place(), Told()
        self.pool: Pool[int] = Pool(
            self.clock, self.place, self.told.extend, limits, sizes, chance=lambda: 1.0, **more
        )

    def turn(self) -> None:
        self.clock.advance(0)

    def open(self, line: int = -1, *pairs: tuple[int, int]) -> Line:
        """The handshake is done and the server's SETTINGS have come."""
        opened = self.place.lines[line]
        opened._protocol.handshakeCompleted()
        opened._protocol.dataReceived(settings(*pairs) + ACK)
        self.turn()
        return opened

    def hear(self, line: Line, sent: bytes) -> None:
        line._protocol.dataReceived(sent)
        self.turn()


def begin(
    count: int = 1, limits: Limits | None = None, sizes: Sizes | None = None, **more: Any
) -> tuple[World, Line]:
    world = World(limits, sizes, **more)
    send(world.pool, count)
    world.turn()
    return world, world.open()


# --- One connection -------------------------------------------------------------------------------


def test_a_handshake_that_never_ends_is_given_up() -> None:
    world = World()
    send(world.pool, 1)
    world.turn()
    world.clock.advance(TLS_WITHIN - 0.1)
    early = world.place.lines[0].aborted
    world.clock.advance(0.1)
    assert (early, world.place.lines[0].aborted) == (False, True)
    assert "no TLS handshake" in world.pool.fault


def test_nothing_is_pushed_before_the_server_has_said_how_many_streams_it_takes() -> None:
    world = World()
    send(world.pool, 5)
    world.turn()
    line = world.place.lines[0]
    line._protocol.handshakeCompleted()
    world.turn()
    said = settings((3, 2)) + ACK
    world.hear(line, said[:12])
    assert line.requests() == []
    world.hear(line, said[12:])
    assert line.requests() == [1, 3]
    assert world.pool.waiting == 3


def test_all_pushes_of_a_turn_are_one_write() -> None:
    world, line = begin()
    world.hear(line, ok(1))
    line.writes.clear()
    send(world.pool, 50, 1)
    world.turn()
    assert len(line.writes) == 1
    assert len(line.requests()) == 50


def test_a_full_transport_is_not_written_to_and_what_stays_behind_counts_as_unsent() -> None:
    world, line = begin()
    world.hear(line, ok(1))
    line.writes.clear()
    line._protocol.pauseProducing()
    send(world.pool, 3, 1)
    world.turn()
    assert line.writes == []
    line._protocol.resumeProducing()
    assert line.requests() == [3, 5, 7]
    line._protocol.pauseProducing()
    send(world.pool, 2, 4)
    world.turn()
    line.end()
    assert world.told.kinds() == {0: "Answered", 1: "Unknown", 2: "Unknown", 3: "Unknown"}
    assert world.pool.waiting == 2  # they go out again


def test_a_deadline_that_comes_before_the_timer_moves_it() -> None:
    """After a silence the timer stands at the next PING without a push, 15 minutes away."""
    world, line = begin(1, Limits(ping_within=3.0, answer_within=200.0))
    world.hear(line, ok(1))
    world.clock.pump([10.0] * 7)
    send(world.pool, 1, 1)
    world.turn()
    assert [each.kind for each in split(line.writes[-1])] == [6, 1, 0]
    world.clock.advance(2.9)
    early = line.disconnecting
    world.clock.advance(0.1)
    assert (early, line.disconnecting) == (False, True)


def test_a_server_that_does_not_close_is_cut_off() -> None:
    world, line = begin()
    world.hear(line, ok(1) + goaway(1))
    assert line.disconnecting
    world.clock.advance(CLOSE_WITHIN - 0.1)
    early = line.aborted
    world.clock.advance(0.1)
    assert (early, line.aborted) == (False, True)
    assert world.pool.connections == 0


def test_nothing_is_left_in_the_clock_behind_a_pool_that_has_stopped() -> None:
    world, line = begin(5, sizes=Sizes(most=1))
    world.hear(line, ok(1))
    send(world.pool, 2000, 5)
    world.turn()
    stopped = world.pool.stop()
    before = bool(stopped.called)
    line.end()
    assert (before, bool(stopped.called)) == (False, True)
    assert world.clock.getDelayedCalls() == []


@pytest.mark.parametrize("fault", [SSL.SysCallError(104, "ECONNRESET"), SSL.Error("odd"), SSL.Error()])
def test_whatever_tls_says_at_the_end_all_pushes_are_told_of(fault: Exception) -> None:
    world, line = begin(3)
    line._protocol.connectionLost(Dead(fault))
    assert world.told.kinds() == dict.fromkeys(range(3), "Unknown")
    assert world.pool.connections == 0


def test_an_end_that_cannot_be_told_in_words_is_told_of_all_the_same() -> None:
    world, line = begin(3)
    with pytest.raises(TypeError):
        line._protocol.connectionLost(Dead(SSL.Error([None])))
    assert world.told.kinds() == dict.fromkeys(range(3), "Unknown")
    assert world.pool.connections == 0


def test_nothing_is_left_in_the_clock_behind_a_connection_that_has_ended() -> None:
    world, line = begin()
    world.hear(line, ok(1) + goaway(1))
    line.end()
    world.clock.advance(30.0)  # what waited in the pool was watched so long
    assert world.clock.getDelayedCalls() == []


def test_a_pool_stops_in_the_middle_of_a_handshake() -> None:
    world = World()
    send(world.pool, 1)
    world.turn()
    assert world.pool.stop().called
    assert world.place.lines[0].aborted
    assert world.clock.getDelayedCalls() == []
    assert isinstance(world.told[0], Refused)


# --- Several --------------------------------------------------------------------------------------


def test_one_handshake_at_a_time_and_one_connection_a_second() -> None:
    world = World(Limits(streams=1), Sizes(most=5, grow_every=1.0))
    send(world.pool, 20)
    world.turn()
    for _ in range(3):
        world.clock.advance(1.0)
        send(world.pool, 1, 20 + _)
        world.turn()
    assert len(world.place.lines) == 1
    opened = [world.open()]
    for second in (2, 3):
        send(world.pool, 1, 100 + second)
        world.turn()
        assert len(world.place.lines) == second
        opened.append(world.open())
        world.clock.advance(0.9)
        assert len(world.place.lines) == second
        world.clock.advance(0.1)
    assert [len(line.requests()) for line in opened] == [1, 1, 1]


def test_pushes_are_spread_over_connections() -> None:
    world, first = begin(60, Limits(streams=50), Sizes(most=2, grow_every=0.001))
    world.clock.advance(0.01)
    second = world.open()
    answered = set[tuple[Line, int]]()
    while len(world.told) < 60:
        for line in (first, second):
            for stream in line.requests():
                if (line, stream) not in answered:
                    answered.add((line, stream))
                    world.hear(line, ok(stream))
    first.writes.clear()
    second.writes.clear()
    send(world.pool, 40, 100)
    world.turn()
    assert [len(first.requests()), len(second.requests())] == [20, 20]


def test_a_connection_without_a_window_gets_no_more() -> None:
    world, line = begin(1, sizes=Sizes(most=1))
    world.hear(line, ok(1))
    send(world.pool, 10, 1, bytes(30_000))
    world.turn()
    assert len(line.requests()) == 4  # 65535 bytes hold two of them and a part of the third
    assert world.pool.waiting == 7
    assert line._protocol.core.waiting == 0


def test_connections_that_are_not_needed_any_more_drain_one_by_one() -> None:
    limits = Limits(streams=10, ping_after_silence=None, ping_every=None)
    world, first = begin(60, limits, Sizes(most=3, grow_every=0.001, spare=100.0))
    lines = [first]
    for _ in range(2):
        world.clock.advance(0.01)
        lines.append(world.open())
    answered = set[tuple[Line, int]]()
    while len(world.told) < 60:
        for line in lines:
            for stream in line.requests():
                if (line, stream) not in answered:
                    answered.add((line, stream))
                    world.hear(line, ok(stream))
    counts: list[int] = []
    for _ in range(5):
        world.clock.advance(100.0)
        send(world.pool, 3, 1000 + len(counts) * 3)
        world.turn()
        counts.append(sum(not line.disconnecting for line in lines))
        for line in lines:
            for stream in line.requests():
                if (line, stream) not in answered:
                    answered.add((line, stream))
                    world.hear(line, ok(stream))
    assert counts == [3, 2, 1, 1, 1], "the first period had pushes that waited"
    assert set(world.told.kinds().values()) == {"Answered"}


def test_a_line_that_owes_an_answer_and_is_silent_gets_no_more() -> None:
    world, line = begin(1, Limits(answer_within=10.0), Sizes(most=1))
    world.hear(line, ok(1))
    send(world.pool, 1, 1)
    world.turn()
    for _ in range(11):
        world.clock.advance(1.0)
    send(world.pool, 2, 2)
    world.turn()
    assert world.told.kinds() == {0: "Answered", 1: "Expired"}
    silent = line.requests()
    ping = next(each for each in split(b"".join(line.writes)) if each.kind == 6)
    world.hear(line, frame(6, 1, 0, ping.payload))
    assert (silent, line.requests()) == ([1, 3], [1, 3, 5, 7])


# --- Failures -------------------------------------------------------------------------------------


def test_pauses_grow_and_begin_anew_after_a_success() -> None:
    world = World(Limits(wait_within=1e6), breaker=Breaker(BreakerRule(failures=100)))
    world.place.down = True
    send(world.pool, 1)
    world.turn()
    for tried, pause in enumerate((0.5, 1.0, 2.0), 1):
        assert world.place.tried == tried
        world.clock.advance(max(pause, 1.0) - 0.001)
        assert world.place.tried == tried
        world.clock.advance(0.001)
    assert world.place.tried == 4
    world.place.down = False
    world.clock.advance(4.0)
    line = world.open()
    world.hear(line, ok(1))
    world.place.down = True
    line.end()
    send(world.pool, 1, 1)
    world.clock.advance(1.0)
    tried = world.place.tried
    world.clock.advance(1.0)  # not 8 s
    assert world.place.tried == tried + 1


def test_a_success_closes_the_account_of_failures() -> None:
    world = World(breaker=Breaker(BreakerRule(failures=2)), sizes=Sizes(grow_every=0.001))
    for round_ in range(3):
        world.place.down = True
        send(world.pool, 1, round_)
        world.turn()
        world.clock.advance(0.001)
        world.place.down = False
        world.clock.advance(0.5)
        assert world.pool.accepting
        line = world.open()
        world.hear(line, ok(1))
        line.end()
    assert set(world.told.kinds().values()) == {"Answered"}


@pytest.mark.parametrize("tries", [1, 3])
def test_the_breaker_refuses_what_waits(tries: int) -> None:
    world = World(
        breaker=Breaker(BreakerRule(failures=tries, floor=30.0, base=0.0)), sizes=Sizes(grow_every=0.001)
    )
    world.place.down = True
    send(world.pool, 4)
    world.turn()
    for _ in range(tries):
        world.clock.advance(3.0)
    assert world.told.kinds() == dict.fromkeys(range(4), "Refused")
    assert world.place.tried == tries
    assert not world.pool.accepting
    world.clock.advance(30.0)
    assert world.pool.accepting


def test_a_server_that_refuses_streams_and_goes_on_is_given_a_rest() -> None:
    world, line = begin(2)
    refused = 0
    for pause in (0.5, 1.0, 2.0):
        open_now = line.requests()[refused:]
        refused += len(open_now)
        world.hear(line, b"".join(rst(stream, 7) for stream in open_now))
        world.clock.advance(pause - 0.01)
        assert len(line.requests()) == refused
        assert world.pool.waiting == 2
        world.clock.advance(0.01)
        world.turn()
        assert len(line.requests()) == refused + 2
    world.hear(line, b"".join(rst(stream, 7) for stream in line.requests()[refused:]))
    assert world.told.kinds() == dict.fromkeys(range(2), "Refused")


def test_what_rests_is_refused_when_the_pool_stops() -> None:
    world, line = begin(2)
    world.hear(line, rst(1, 7))
    world.pool.stop()
    world.hear(line, ok(3))
    line.end()
    assert world.told.kinds() == {0: "Refused", 1: "Answered"}
    assert world.clock.getDelayedCalls() == []


def test_a_limit_that_is_raised_wakes_what_waits() -> None:
    world = World(sizes=Sizes(most=1))
    send(world.pool, 3)
    world.turn()
    line = world.open(-1, (3, 0))
    world.clock.advance(1.5)
    assert line.requests() == []
    world.hear(line, settings((3, 100)))
    assert line.requests() == [1, 3, 5]


def test_a_window_that_opens_with_no_stream_open_wakes_what_waits() -> None:
    world, line = begin(1, sizes=Sizes(most=1))
    world.hear(line, ok(1))
    send(world.pool, 10, 1, bytes(30_000))
    world.turn()
    sent = line.requests()
    world.hear(line, b"".join(ok(stream) for stream in sent[1:]))
    assert world.pool.open == 0
    waiting = world.pool.waiting
    assert waiting > 0
    world.hear(line, window(0, 1 << 20))
    assert len(line.requests()) == len(sent) + waiting


def test_servers_that_close_in_peace_and_never_serve_open_the_breaker() -> None:
    world = World(
        breaker=Breaker(BreakerRule(failures=3, floor=30.0, base=0.0)), sizes=Sizes(grow_every=0.001)
    )
    send(world.pool, 1)
    world.turn()
    failed = []
    for _ in range(4):
        line = world.open()
        world.hear(line, goaway(0))
        line.end()
        failed.append(world.pool.counts.failed)
        world.clock.advance(4.0)
    assert failed == [0, 1, 2, 3]
    assert world.pool.state == "open"


def test_a_line_that_closes_before_it_is_ready_does_not_hold_up_the_next() -> None:
    world = World()
    send(world.pool, 1)
    world.turn()
    line = world.place.lines[0]
    line._protocol.handshakeCompleted()
    line._protocol.dataReceived(settings() + goaway(0))
    world.clock.advance(1.0)
    world.turn()
    assert world.place.tried == 2


def test_a_good_answer_closes_a_breaker_that_was_tripped_while_the_line_lived() -> None:
    world, line = begin(2)
    world.hear(line, ok(1))
    world.pool.trip(5.0, "the credential is refused")
    world.hear(line, ok(3))
    states = [str(world.pool.state)]  # open still: it was sent before
    world.clock.advance(5.0)
    send(world.pool, 1, 2)
    world.turn()
    world.hear(line, ok(5))
    assert [*states, world.pool.state] == ["open", "closed"]


def test_a_clock_that_is_set_back_holds_up_neither_dialling_nor_the_breaker() -> None:
    world = World(breaker=Breaker(BreakerRule(failures=1, floor=30.0, base=0.0)))
    world.clock.advance(10_000.0)
    world.place.down = True
    send(world.pool, 1)
    world.turn()
    assert world.pool.state == "open"
    world.clock.rightNow -= 3600.0
    assert world.pool.state == "open"
    world.place.down = False
    world.clock.advance(30.0)
    send(world.pool, 1, 1)
    world.turn()
    world.hear(world.open(), ok(1))
    assert world.told.kinds() == {0: "Refused", 1: "Answered"}


def test_a_pool_that_is_stopped_by_who_hears_of_a_lost_line_leaves_no_timer() -> None:
    world, line = begin()
    world.pool._ended = lambda results: setattr(world, "stopped", world.pool.stop())
    line.end()
    assert world.clock.getDelayedCalls() == []


# --- Waiting --------------------------------------------------------------------------------------


def pushed(world: World, number: int, since: float) -> None:
    world.pool.push(push(number), since)


def test_whose_time_began_long_ago_does_not_leave_though_it_stands_behind_others() -> None:
    world, line = begin(1, Limits(wait_within=5))
    world.clock.advance(10)
    pushed(world, 1, 9.0)
    pushed(world, 2, 4.9)
    pushed(world, 3, 10.0)
    world.turn()
    assert world.told.kinds() == {2: "Expired"}
    assert line.requests() == [1, 3, 5]
    assert world.pool.counts.waited == 1


def test_of_many_at_once_those_come_back_that_the_pool_has_no_room_for() -> None:
    world = World(Limits(wait_within=5), Sizes(waiting=3))
    send(world.pool, 1)
    pushes = [push(number) for number in range(1, 6)]
    assert world.pool.push_all(pushes) == pushes[2:]
    assert world.pool.push_all(pushes[4:]) == pushes[4:]
    world.turn()
    assert world.open().requests() == [1, 3, 5]


def test_many_at_once_wait_for_as_long_as_one() -> None:
    world = World(Limits(wait_within=5))
    world.clock.advance(10)
    assert not world.pool.push_all([push(1), push(2)])
    world.clock.advance(4.9)
    assert world.told.kinds() == {}
    world.clock.advance(0.2)
    assert world.told.kinds() == {1: "Expired", 2: "Expired"}


def test_what_cannot_be_sent_at_all_comes_back_at_once() -> None:
    world = World()
    world.pool.trip(9.0, "InvalidProviderToken")
    assert len(world.pool.push_all([push(1), push(2)])) == 2
    world.clock.advance(9.1)
    assert not world.pool.push_all([push(3)])
    world.pool.stop()
    assert len(world.pool.push_all([push(4)])) == 1
    assert world.told.kinds() == {3: "Refused"}


def test_what_waits_for_a_window_does_not_leave_late() -> None:
    world, line = begin(1, Limits(wait_within=5))
    for number in range(1, 2_000):
        world.pool.push(push(number, bytes(40)))
    world.turn()
    sent = len(line.requests())
    world.clock.advance(6)
    assert len(world.told) == 2_000 - sent
    world.hear(line, window(0, 1 << 20))
    assert len(line.requests()) == sent


def test_a_connection_is_given_no_more_than_it_takes_at_once() -> None:
    world = World(Limits(partial=2, wait_within=5), Sizes(most=1))
    send(world.pool, 6)
    world.turn()
    line = world.open(-1, (4, 10))
    assert (len(line.requests()), world.pool.waiting) == (2, 3)
    world.clock.advance(6)
    assert world.told.kinds() == dict.fromkeys((2, 3, 4, 5), "Expired")


def test_a_server_that_refuses_streams_keeps_no_push_beyond_its_time() -> None:
    world, line = begin(1, Limits(wait_within=5))
    for _ in range(3):
        world.hear(line, rst(line.requests()[-1], 7))
        world.clock.advance(2.5)
    assert world.told.kinds() == {0: "Expired"}


def test_it_answers_while_anything_was_answered_of_late() -> None:
    world, line = begin(2, Limits(answer_within=20, ping_every=None, ping_after_silence=None))
    said = [world.pool.answering]
    world.hear(line, ok(1))
    for seconds in (15, 6):
        world.clock.advance(seconds)
        said.append(world.pool.answering)
    assert said == [False, True, False]


# --- Many at once ---------------------------------------------------------------------------------


def test_a_push_that_cannot_be_written_takes_no_other_with_it() -> None:
    world, line = begin(2)
    world.hear(line, ok(1) + ok(3))
    good, bad = push(2), push(3)
    bad.values = (bad.values[0], "no bytes")  # type: ignore[assignment]
    for each in (good, bad, push(4), push(5)):
        world.pool.push(each)
    with pytest.raises(TypeError):
        world.turn()
    world.pool.push(push(6))
    world.turn()
    streams = line.requests()
    assert len(streams) == 2 + 4
    world.hear(line, b"".join(ok(stream) for stream in streams[2:]))
    assert set(world.told.kinds()) == {0, 1, 2, 4, 5, 6}


def test_what_is_refused_behind_an_open_breaker_is_told_though_another_is_answered() -> None:
    world, line = begin(2)
    world.pool.trip(60.0, "a bad token")
    world.hear(line, ok(1) + rst(3, 7))
    assert world.told.kinds() == {0: "Answered", 1: "Refused"}
    assert world.pool.counts.refused == 1


def test_pushes_of_different_kinds_keep_their_headers() -> None:
    kinds = {name: apns(topic=name) for name in (b"com.example.a", b"com.example.b")}
    newer = {kinds[b"com.example.a"]: apns(b"newer", b"com.example.a")}
    world, line = begin(1, current=lambda template: newer.get(template, template))
    world.hear(line, ok(1))
    names = [*kinds, *kinds, *kinds, b"com.example.a", b"com.example.a", b"com.example.b"]
    pushes = [Push(number, kinds[name], (TOKEN, ID), b"{}") for number, name in enumerate(names, 1)]
    assert not world.pool.push_all(pushes)
    world.turn()
    decoder = hpack.Decoder()
    sent = [
        dict(decoder.decode(each.payload, raw=True))
        for each in split(b"".join(line.writes))
        if each.kind == 1
    ]
    assert [fields[b"apns-topic"] for fields in sent[1:]] == names
    tokens = [b"bearer newer" if name == b"com.example.a" else b"bearer eyJ.eyJ.sig" for name in names]
    assert [fields[b"authorization"] for fields in sent[1:]] == tokens
    assert [push.template for push in pushes] == [newer.get(kinds[name], kinds[name]) for name in names]


def test_who_expires_behind_one_that_cannot_be_written_is_told() -> None:
    world, line = begin(2, Limits(wait_within=5))
    world.hear(line, ok(1) + ok(3))
    world.clock.advance(10)
    bad = push(3)
    bad.values = (bad.values[0], "no bytes")  # type: ignore[assignment]
    world.pool.push(bad)
    world.pool.push(push(4), 1.0)
    world.pool.push(push(5))
    with pytest.raises(TypeError):
        world.turn()
    world.pool.stop()
    assert world.told.kinds() == {0: "Answered", 1: "Answered", 4: "Expired", 5: "Refused"}


def test_a_narrow_window_is_filled_again_and_again_in_order() -> None:
    world, line = begin(1)
    world.hear(line, ok(1))
    assert not world.pool.push_all([push(number, bytes(30_000)) for number in range(1, 8)])
    world.turn()
    for _ in range(9):
        world.hear(line, window(0, 30_000))
    assert len(line.requests()) == 8
    for stream in line.requests()[1:]:
        world.hear(line, ok(stream))
    assert list(world.told.kinds()) == list(range(8))
