"""How connections end, and what each of their pushes is told."""

from __future__ import annotations

import pytest

from notifier.core.http2 import Answered, Expired, Limits, NotAccepting, Refused, Unknown
from notifier.core.http2.errors import ProtocolFailure
from tests.core.http2.world import (
    ACK,
    OK,
    Connection,
    Results,
    Server,
    connect,
    contexts,
    frame,
    goaway,
    goaway_code,
    headers,
    kinds,
    ok,
    ok_server,
    push,
    ready,
    rst,
    settings,
    split,
    stateless,
    talk,
)


def kinds_of(results: Results) -> dict[object, str]:
    return {result.context: type(result).__name__ for result in results}


# --- GOAWAY ---------------------------------------------------------------------------------------


def test_goaway_in_two_steps_replays_what_is_above_and_waits_for_what_is_below() -> None:
    connection = ready(None, (3, 4))
    for number in range(6):  # streams 1 3 5 7, two wait
        push(connection, number)
    connection.pull()
    drained = connection.feed(goaway(2**31 - 1), 0.0)
    assert kinds_of(drained) == {4: "Refused", 5: "Refused"}
    assert not connection.accepting
    assert connection.open == 4
    above = connection.feed(goaway(3), 0.0)
    assert kinds_of(above) == {2: "Refused", 3: "Refused"}
    assert connection.feed(ok(1), 0.0) == [Answered(0, 200)]
    assert connection.pull() == b""
    assert connection.feed(ok(3), 0.0) == [Answered(1, 200)]
    assert connection.closed
    assert goaway_code(connection.pull()) == 0
    assert connection.next_deadline() == float("inf")


@pytest.mark.parametrize(("block", "status"), [(OK, 200), (b"\x08\x03410", 410)], ids=["200", "410"])
def test_goaway_takes_back_no_answer_that_has_begun(block: bytes, status: int) -> None:
    connection = ready()
    push(connection, "begun"), push(connection, "untouched")
    connection.pull()
    connection.feed(headers(1, block), 0.0)
    reason = "the server closes: INTERNAL_ERROR"
    assert connection.feed(goaway(0, 2), 0.0) == [
        Unknown("begun", reason, "reset", status),
        Refused("untouched", reason),
    ]


@pytest.mark.parametrize("end", ["reset", "lost", "late"])
def test_an_answer_that_is_cut_off_keeps_its_status(end: str) -> None:
    connection = ready(Limits(answer_within=10))
    push(connection, "a")
    connection.pull()
    connection.feed(headers(1, OK), 0.0)
    ways = {
        "reset": lambda: connection.feed(rst(1, 2), 0.0),
        "lost": lambda: connection.lost("the line is dead"),
        "late": lambda: connection.tick(11.0),
    }
    (result,) = ways[end]()
    assert isinstance(result, Unknown | Expired)
    assert result.status == 200


def test_goaway_tells_its_reason() -> None:
    connection = ready()
    push(connection, "a")
    (result,) = connection.feed(goaway(0, 0xB, b'{"reason":"TooManyRequests"}'), 0.0)
    assert isinstance(result, Refused)
    assert result.reason == 'the server closes: ENHANCE_YOUR_CALM ({"reason":"TooManyRequests"})'
    assert connection.goaway is not None
    assert connection.goaway.code == 0xB


def test_a_later_goaway_cannot_claim_more_streams() -> None:
    connection = ready()
    for number in range(3):
        push(connection, number)
    assert kinds_of(connection.feed(goaway(3), 0.0)) == {2: "Refused"}
    assert connection.feed(goaway(5), 0.0) == []
    assert connection.goaway is not None
    assert connection.goaway.last_stream == 3


def test_goaway_from_a_server_on_h2() -> None:
    connection, server = connect(), Server()
    for number in range(3):
        push(connection, number)
    talk(connection, server)
    server.respond(1, 200)
    server.respond(3, 200)
    before = server.send()
    server.h2.close_connection(last_stream_id=3)
    assert kinds_of(connection.feed(server.send() + before, 0.0)) == {
        0: "Answered",
        1: "Answered",
        2: "Refused",
    }
    assert connection.closed


def test_goaway_with_nothing_open_closes_at_once() -> None:
    connection = ready()
    assert connection.feed(goaway(0), 0.0) == []
    assert connection.closed
    with pytest.raises(NotAccepting, match="another one"):
        push(connection, "a")


# --- Our own decisions ----------------------------------------------------------------------------


def test_drain_refuses_what_waits_and_lets_the_rest_run_on() -> None:
    connection = ready(None, (3, 1))
    push(connection, "a"), push(connection, "b")
    assert connection.drain(0.0) == [Refused("b", "the connection drains")]
    with pytest.raises(NotAccepting):
        push(connection, "c")
    assert connection.feed(ok(1), 0.0) == [Answered("a", 200)]
    assert connection.closed
    assert connection.drain(0.0) == []
    assert connection.lost("later") == []
    assert connection.feed(ok(1), 0.0) == []
    assert connection.tick(99.0) == []


def test_a_lost_connection_knows_what_was_never_sent() -> None:
    connection = ready(None, (3, 2))
    push(connection, "sent")
    connection.pull()
    push(connection, "in our hands"), push(connection, "waiting")
    assert connection.lost("the line is dead") == [
        Refused("waiting", "the line is dead"),
        Unknown("sent", "the line is dead"),
        Refused("in our hands", "the line is dead"),
    ]
    assert connection.closed
    assert connection.pull() == b""  # what was called certainly not processed does not leave any more


def test_after_a_failure_nothing_leaves_but_goaway() -> None:
    connection = ready()
    push(connection, "a")
    assert kinds_of(connection.feed(frame(6, 0, 1, bytes(8)), 0.0)) == {"a": "Refused"}
    assert isinstance(connection.failure, ProtocolFailure)
    assert str(connection.failure) == "PROTOCOL_ERROR: PING on stream 1"
    assert kinds(connection.pull()) == [7]


def test_stream_ids_run_out() -> None:
    """The last id there is, and no other."""
    connection = ready(Limits(requests=2**30))
    connection._next = 2**31 - 3
    connection._recount()
    assert push(connection, "a") == 2**31 - 3
    assert push(connection, "b") == 2**31 - 1
    with pytest.raises(NotAccepting):
        push(connection, "c")
    assert contexts(connection.feed(ok(2**31 - 3) + ok(2**31 - 1), 0.0)) == ["a", "b"]
    assert connection.closed


@pytest.mark.parametrize("streams", [1, 2, 100])
def test_after_its_number_of_requests_a_connection_drains(streams: int) -> None:
    """Whoever waits then is sent elsewhere."""
    connection, server = connect(Limits(requests=5, streams=streams)), ok_server()
    accepted: list[object] = []
    for number in range(8):
        try:
            push(connection, number)
            accepted.append(number)
        except NotAccepting:
            pass
    results = talk(connection, server)
    assert sorted(contexts(results)) == accepted  # type: ignore[type-var]
    assert sum(isinstance(result, Answered) for result in results) == 5
    assert connection.closed


def test_no_more_wait_than_may() -> None:
    connection = ready(Limits(streams=1, waiting=2))
    for number in range(3):
        push(connection, number)
    with pytest.raises(NotAccepting, match="2 pushes wait"):
        push(connection, 3)
    assert contexts(connection.lost("")) == [1, 2, 0]


# --- One at a time --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "together"), [(200, True), (400, True), (410, True), (403, False), (401, False)]
)
def test_the_first_goes_alone_until_the_credentials_are_known_to_be_good(status: int, together: bool) -> None:
    connection, server = connect(Limits(first_alone=True)), Server()
    for number in range(5):
        push(connection, number)
    talk(connection, server)
    assert list(server.requests) == [1]
    server.respond(1, status)
    talk(connection, server)
    assert list(server.requests) == ([1, 3, 5, 7, 9] if together else [1, 3])


def test_a_refused_first_leaves_the_next_alone() -> None:
    connection, server = connect(Limits(first_alone=True)), Server()
    for number in range(3):
        push(connection, number)
    talk(connection, server)
    server.h2.reset_stream(1, 7)
    talk(connection, server)
    assert list(server.requests) == [1, 3]


def test_alone_is_no_more_than_the_server_takes() -> None:
    connection = ready(Limits(first_alone=True), (3, 0))
    assert connection.room == 0
    assert push(connection, "a") == 0
    connection.feed(settings((3, 1)), 0.0)
    assert connection.open == 1


def test_the_server_lifts_its_own_limit() -> None:
    connection = ready(Limits(first_alone=True), (3, 1))
    for number in range(4):
        push(connection, number)
    assert connection.open == 1
    connection.feed(settings((3, 1000)), 0.0)
    assert connection.open == 4


def test_streams_are_few_until_settings_are_there() -> None:
    connection = connect(Limits(streams_unannounced=2, streams=5))
    for number in range(9):
        push(connection, number)
    assert (connection.open, connection.waiting, connection.room) == (2, 7, 0)
    connection.feed(settings() + ACK, 0.0)
    assert (connection.open, connection.waiting) == (5, 4)


def test_fewer_streams_are_obeyed_at_once_and_nobody_is_overtaken() -> None:
    connection, server = ready(), Server()
    for number in range(4):
        push(connection, number)
    connection.pull()
    connection.feed(settings((3, 2)), 0.0)
    connection.pull()
    for number in range(4, 7):
        push(connection, number)
    assert connection.open == 4
    connection.feed(ok(1) + ok(3), 0.0)
    assert (connection.open, connection.waiting) == (2, 3)
    connection.feed(ok(5), 0.0)
    assert (connection.open, connection.waiting) == (2, 2)
    assert [each.stream for each in split(connection.pull()) if each.kind == 1] == [9]
    assert server.requests == {}


# --- Time -----------------------------------------------------------------------------------------


def run_until(connection: Connection, end: float, answer_pings: bool = True) -> list[tuple[float, object]]:
    """Calls tick whenever it asks to be called. (time, result) of all that ends."""
    found: list[tuple[float, object]] = []
    while not connection.closed and connection.next_deadline() <= end:
        now = connection.next_deadline()
        found += [(now, result) for result in connection.tick(now)]
        for each in split(connection.pull()):
            if each.kind == 6 and not each.flags and answer_pings:
                connection.feed(frame(6, 1, 0, each.payload), now)
    return found


def test_a_push_without_an_answer_is_cancelled_and_the_server_is_asked_if_it_is_there() -> None:
    connection = ready(Limits(answer_within=10))
    push(connection, "a", now=0.0)
    connection.pull()
    assert connection.tick(9.9) == []
    due = connection.next_deadline()
    assert 10 <= due <= 10.2
    assert connection.tick(due) == [Expired("a", sent=True)]
    sent = split(connection.pull())
    assert [(each.kind, each.stream) for each in sent] == [(3, 1), (6, 0)]
    assert sent[0].payload == b"\0\0\0\x08"  # CANCEL
    assert connection.feed(ok(1), due) == []  # too late, and no fault
    assert connection.tick(due + 8) == []
    assert isinstance(connection.failure, ProtocolFailure)


def test_a_push_that_waited_too_long_was_certainly_not_sent() -> None:
    connection = ready(Limits(streams=1, wait_within=5, answer_within=60))
    push(connection, "a", now=0.0), push(connection, "b", now=1.0), push(connection, "c", now=2.0)
    assert connection.next_deadline() == 6.0
    assert connection.tick(6.0) == [Expired("b", sent=False)]
    assert connection.next_deadline() == 7.0
    assert connection.tick(7.5) == [Expired("c", sent=False)]


def test_each_is_due_in_its_own_time() -> None:
    """Never early, and late by less than a fiftieth."""
    connection = ready(Limits(answer_within=10, ping_after_silence=None))
    opened = {}
    for number in range(200):
        now = number * 0.1
        if now >= connection.next_deadline():
            break
        push(connection, number, now=now)
        opened[number] = now
    found = run_until(connection, 60)
    assert [result.context for _, result in found] == list(opened)  # type: ignore[attr-defined]
    for at, result in found:
        assert 10 <= at - opened[result.context] <= 10.2  # type: ignore[attr-defined]


def test_a_response_that_does_not_end_is_overdue_too() -> None:
    connection = ready(Limits(answer_within=10))
    push(connection, "a", now=0.0)
    connection.feed(headers(1, OK), 9.0)
    assert [result for _, result in run_until(connection, 12)] == [Expired("a", sent=True, status=200)]


def test_marks_in_time_are_few() -> None:
    connection, streams = ready(Limits(answer_within=10)), 0
    for number in range(10_000):
        streams = push(connection, number, b"", now=number * 0.001)
        assert connection.feed(ok(streams), number * 0.001) == [Answered(number, 200)]
    assert len(connection._deadlines._marks) <= 66


def test_settings_must_come_in_time() -> None:
    connection = connect(Limits(settings_within=10))
    assert connection.next_deadline() == 10.0
    assert connection.tick(9.0) == []
    connection.feed(settings(), 9.0)  # but no acknowledgement of ours
    push(connection, "a")
    assert kinds_of(connection.tick(10.0)) == {"a": "Refused"}
    assert goaway_code(connection.pull()) == 4


def test_a_connection_that_nobody_uses_asks_now_and_then() -> None:
    connection = ready(Limits(ping_every=900))
    asked = []
    while (now := connection.next_deadline()) < 3000:
        connection.tick(now)
        for each in split(connection.pull()):
            asked.append(now)
            connection.feed(frame(6, 1, 0, each.payload), now)
    assert asked == [900.0, 1800.0, 2700.0]


def test_a_ping_without_an_answer_ends_the_connection() -> None:
    connection = ready(Limits(ping_every=900, ping_within=8))
    connection.tick(900.0)
    push(connection, "a", now=901.0)
    connection.pull()
    assert connection.next_deadline() == 908.0
    connection.feed(frame(6, 1, 0, b"not ours"), 902.0)
    assert kinds_of(connection.tick(908.0)) == {"a": "Unknown"}
    assert connection.closed


def test_the_first_push_after_a_silence_takes_a_ping_along() -> None:
    connection = stateless(Limits(ping_after_silence=60))
    push(connection, "a", now=59.0)
    assert kinds(connection.pull()) == [1, 0]
    connection.feed(ok(3), 59.0)
    assert connection.next_deadline() == 119.0
    connection.tick(119.0)
    assert connection.pull() == b""
    assert connection.next_deadline() == 959.0
    push(connection, "b", now=130.0), push(connection, "c", now=130.0)
    assert kinds(connection.pull()) == [6, 1, 0, 1, 0]


def test_a_server_that_takes_pings_amiss_gets_none() -> None:
    connection = ready(Limits(ping_after_silence=None, ping_every=None))
    assert connection.next_deadline() == float("inf")
    connection.tick(1e6)
    push(connection, "a", now=1e6)
    assert kinds(connection.pull()) == [1, 0]


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"requests": 2**30 + 1}, "requests must be from 1"),
        ({"streams": 0}, "streams must be"),
        ({"window": 100}, "window must be"),
        ({"answer_within": 0.0}, "answer_within must be more than 0"),
        ({"ping_every": -1.0}, "ping_every must be more"),
    ],
)
def test_limits_that_no_connection_could_obey(wrong: dict[str, float], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        Limits(**wrong)  # type: ignore[arg-type]


def test_resetting_is_about_one_stream() -> None:
    connection = ready()
    push(connection, "a"), push(connection, "b")
    assert kinds_of(connection.feed(rst(1, 7) + ok(3), 0.0)) == {"a": "Refused", "b": "Answered"}


def test_a_silence_that_the_server_has_broken_needs_no_ping() -> None:
    connection = stateless(Limits(ping_after_silence=60))
    connection.tick(60.0)
    connection.feed(settings(), 61.0)
    connection.pull()
    push(connection, "a", now=62.0)
    assert kinds(connection.pull()) == [1, 0]


def test_what_a_server_says_at_the_end_stays_on_one_line() -> None:
    connection = ready()
    connection.feed(goaway(0, 2, b'{"reason":"Shutdown"}\n\x1b[31mERROR all is lost\xff'), 0.0)
    assert str(connection.goaway) == (
        'the server closes: INTERNAL_ERROR ({"reason":"Shutdown"}\\x0a\\x1b[31mERROR all is lost\\xff)'
    )
