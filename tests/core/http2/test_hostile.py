"""Servers that break the rules, or obey them to our harm: the right GOAWAY, every push told, memory bounded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier.core.http2 import Limits, Refused, Unknown
from notifier.core.http2.errors import ProtocolFailure
from tests.core.http2 import world
from tests.core.http2.world import (
    ACK,
    OK,
    Connection,
    connect,
    contexts,
    data,
    frame,
    goaway,
    goaway_code,
    headers,
    kinds,
    literal,
    ok,
    push,
    ready,
    rst,
    stateless,
    u32,
    window,
)

PROTOCOL, FLOW, SIZE, COMPRESSION, CALM = 0x1, 0x3, 0x6, 0x9, 0xB

# Stream 1 is open, 3 has ended, 5 is still idle.
FAULTS: dict[str, tuple[bytes, int]] = {
    "a frame that is too long": (frame(0, 0, 1, bytes(16_385)), SIZE),
    "only its header": (frame(0, 0, 1, bytes(16_385))[:9], SIZE),
    "DATA on 0": (data(0, b"x"), PROTOCOL),
    "DATA on an idle stream": (data(5, b"x"), PROTOCOL),
    "DATA on a stream of the server's": (data(2, b"x"), PROTOCOL),
    "DATA padded beyond its length": (frame(0, 8, 1, b"\x05abcd"), PROTOCOL),
    "DATA padded exactly away, and one": (frame(0, 8, 1, b"\x01"), PROTOCOL),
    "DATA padded and empty": (frame(0, 8, 1), SIZE),
    "HEADERS on 0": (headers(0, OK), PROTOCOL),
    "HEADERS on an idle stream": (headers(5, OK), PROTOCOL),
    "HEADERS on a stream of the server's": (headers(2, OK), PROTOCOL),
    "HEADERS padded beyond their length": (frame(1, 0x0C, 1, b"\x09\x88"), PROTOCOL),
    "HEADERS without room for their priority": (frame(1, 0x24, 1, bytes(4)), SIZE),
    "HEADERS that cannot be decoded": (headers(1, b"\xff\xff\xff\xff\xff"), COMPRESSION),
    "the same on a stream that has ended": (headers(3, b"\x80"), COMPRESSION),
    "a table larger than allowed": (headers(1, b"\x3f\x80\x80\x01\x88"), COMPRESSION),
    "a table larger than we asked for": (headers(1, b"\x3f\x45\x88"), COMPRESSION),
    "a list that is too long": (headers(1, b"\x08\x03410" + literal(b"a", b"x" * 100) * 130), CALM),
    "CONTINUATION of nothing": (frame(9, 4, 1, OK), PROTOCOL),
    "CONTINUATION on another stream": (headers(1, OK, whole=False) + frame(9, 4, 3, b""), PROTOCOL),
    "DATA inside a block": (headers(1, OK, whole=False) + data(1, b"x"), PROTOCOL),
    "an extension inside a block": (headers(1, OK, whole=False) + frame(0xAB, 0, 0), PROTOCOL),
    "PING inside a block": (headers(1, OK, whole=False) + frame(6, 0, 0, bytes(8)), PROTOCOL),
    "HEADERS inside a block": (headers(1, OK, whole=False) + headers(3, OK), PROTOCOL),
    "a whole 200 inside a block": (headers(3, OK, whole=False) + ok(1), PROTOCOL),
    "PRIORITY of the wrong length": (frame(2, 0, 1, bytes(4)), SIZE),
    "PRIORITY on 0": (frame(2, 0, 0, bytes(5)), PROTOCOL),
    "RST_STREAM on 0": (rst(0, 1), PROTOCOL),
    "RST_STREAM on an idle stream": (rst(5, 1), PROTOCOL),
    "RST_STREAM of the wrong length": (frame(3, 0, 1, bytes(5)), SIZE),
    "SETTINGS on a stream": (frame(4, 0, 1), PROTOCOL),
    "SETTINGS of the wrong length": (frame(4, 0, 0, bytes(5)), SIZE),
    "an acknowledgement with content": (frame(4, 1, 0, bytes(6)), SIZE),
    "ENABLE_PUSH 1": (world.settings((2, 1)), PROTOCOL),
    "ENABLE_PUSH 2": (world.settings((2, 2)), PROTOCOL),
    "a window of 2^31": (world.settings((4, 2**31)), FLOW),
    "frames of 16383": (world.settings((5, 16_383)), PROTOCOL),
    "frames of 2^24": (world.settings((5, 2**24)), PROTOCOL),
    "PUSH_PROMISE": (frame(5, 4, 1, u32(2) + OK), PROTOCOL),
    "PING on a stream": (frame(6, 0, 1, bytes(8)), PROTOCOL),
    "PING of the wrong length": (frame(6, 0, 0, bytes(7)), SIZE),
    "GOAWAY on a stream": (frame(7, 0, 1, bytes(8)), PROTOCOL),
    "GOAWAY of the wrong length": (frame(7, 0, 0, bytes(7)), SIZE),
    "WINDOW_UPDATE of the wrong length": (frame(8, 0, 0, bytes(3)), SIZE),
    "WINDOW_UPDATE by 0": (window(0, 0), PROTOCOL),
    "WINDOW_UPDATE on an idle stream": (window(5, 1), PROTOCOL),
    "a window beyond 2^31-1": (window(0, 2**31 - 1), FLOW),
    "PRIORITY_UPDATE": (frame(0x10, 0, 0, u32(1) + b"u=1"), PROTOCOL),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("before", [ready, stateless])
def test_a_fault_ends_the_connection(fault: str, before: Callable[[], Connection]) -> None:
    connection = before()
    if before is stateless:  # where a 200 would be read without decoding
        connection._next = 1
    push(connection, "open"), push(connection, "ended")
    connection.pull()
    assert contexts(connection.feed(ok(3), 0.0)) == ["ended"]
    sent, code = FAULTS[fault]
    results = connection.feed(sent, 0.0)
    assert len(results) == 1
    assert isinstance(results[0], Unknown)
    assert goaway_code(connection.pull()) == code
    assert isinstance(connection.failure, ProtocolFailure)
    assert connection.closed
    assert connection.feed(ok(1), 0.0) == connection.tick(1e9) == connection.lost("") == []
    assert connection.pull() == b""


@pytest.mark.parametrize("cut", [1, 5, 9, 12])
def test_a_fault_in_pieces(cut: int) -> None:
    connection = ready()
    sent = frame(6, 0, 1, bytes(8))
    connection.feed(sent[:cut], 0.0)
    connection.feed(sent[cut:], 0.0)
    assert goaway_code(connection.pull()) == PROTOCOL


@pytest.mark.parametrize(
    "first", [ACK, frame(6, 0, 0, bytes(8)), ok(1), frame(0xAB, 0, 0), goaway(0)], ids=lambda b: b.hex()
)
def test_a_server_begins_with_settings(first: bytes) -> None:
    connection = connect()
    push(connection, "a")
    connection.feed(first, 0.0)
    assert goaway_code(connection.pull()) == PROTOCOL


def test_a_server_of_http_1_is_named() -> None:
    connection = connect()
    connection.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n", 0.0)
    assert "HTTP/1, not HTTP/2" in str(connection.failure)


def test_a_window_update_by_0_ends_its_stream_alone() -> None:
    connection = ready()
    push(connection, "a"), push(connection, "b")
    connection.pull()
    (result,) = connection.feed(window(1, 0), 0.0)
    assert isinstance(result, Unknown)
    assert connection.pull() == rst(1, 1)


def test_a_stream_window_beyond_2_31_ends_its_stream_alone() -> None:
    connection = ready(None, (4, 100_000))
    push(connection, "a", bytes(70_000))  # held up by the connection's window, with room in its own
    connection.pull()
    (result,) = connection.feed(window(1, 2**31 - 1), 0.0)
    assert isinstance(result, Unknown)
    assert connection.pull() == rst(1, 3)
    assert not connection.closed


def test_settings_that_blow_up_a_stream_window_end_the_connection() -> None:
    connection = ready(None, (4, 0))
    push(connection, "a", bytes(100))
    connection.feed(world.settings((4, 2**31 - 1)), 0.0)
    assert connection.failure is None  # the whole of what a window may be
    connection = ready(None, (4, 100_000))
    push(connection, "a", bytes(70_000))  # held up by the connection's window
    connection.feed(window(1, 65_536) + world.settings((4, 2**31 - 1)), 0.0)
    assert goaway_code(connection.pull()) == FLOW


# --- Floods ---------------------------------------------------------------------------------------

FLOODS: dict[str, bytes] = {
    "PING": frame(6, 0, 0, bytes(8)),
    "answers to no PING": frame(6, 1, 0, bytes(8)),
    "SETTINGS": world.settings(),
    "SETTINGS with content": world.settings((3, 1), (3, 1000), (0xF00D, 1)),
    "acknowledgements": ACK,
    "empty DATA": data(1),
    "padding": frame(0, 8, 1, b"\x05" + bytes(5)),
    "PRIORITY": frame(2, 0, 7, bytes(5)),
    "windows of the connection": window(0, 1),
    "windows of the stream": window(1, 1),
    "extensions": frame(0xAB, 0, 0, b"?"),
    "informational answers": headers(5, b"\x08\x03100"),
    "resets of what has ended": rst(3, 8),
    "DATA of what has ended": data(3, b"x"),
    "HEADERS of what has ended": headers(3, OK, True),
    "GOAWAY": goaway(2**31 - 1),
}


def hostage() -> Connection:
    """Stream 1 is being answered, 3 has ended, 5 is open."""
    connection = ready()
    for name in "abc":
        push(connection, name)
    connection.feed(headers(1, b"\x20" + OK) + ok(3), 0.0)
    connection.pull()
    return connection


@pytest.mark.parametrize("flood", FLOODS)
def test_a_flood_is_cut_off(flood: str) -> None:
    connection, results, fed = hostage(), list[object](), 0
    while not connection.closed:
        results += connection.feed(FLOODS[flood] * 100, 0.0)
        fed += 100
        assert fed <= 2_000, "the flood goes on"
    assert goaway_code(connection.pull()) == CALM
    assert len(results) == 2


@pytest.mark.parametrize("flood", FLOODS)
def test_the_same_as_a_trickle_is_no_flood(flood: str) -> None:
    connection = hostage()
    for second in range(50):
        connection.feed(FLOODS[flood] * 200, float(second))
        connection.pull()
    assert connection.failure is None


def test_a_busy_server_may_send_many_window_updates() -> None:
    """Two for each push, 20 000 pushes in one second."""
    connection = stateless()
    for number in range(20_000):
        stream = push(connection, number)
        connection.pull()
        connection.feed(window(0, 40) + window(stream, 40) + ok(stream), 0.0)
    assert connection.failure is None


@pytest.mark.parametrize(
    ("part", "most"), [(b"", 17), (b"x" * 10, 17), (b"x" * 5_000, 4), (b"x" * 16_384, 1)]
)
def test_a_block_without_end(part: bytes, most: int) -> None:
    """16 frames after the first, or 16 KiB."""
    connection, fed = hostage(), 0
    connection.feed(headers(5, OK, whole=False), 0.0)
    while not connection.closed:
        connection.feed(frame(9, 0, 5, part), 0.0)
        fed += 1
        assert fed <= most
    assert goaway_code(connection.pull()) == CALM


def test_a_rapid_reset_ends_pushes_one_by_one_and_leaves_nothing_behind() -> None:
    connection = ready()
    for number in range(30_000):
        stream = push(connection, number)
        connection.pull()
        assert connection.feed(rst(stream, 7) + window(0, 40), 0.0) == [
            Refused(number, "the server has reset the stream: REFUSED_STREAM")
        ]
    assert connection.open == 0
    assert footprint(connection) < 200


def footprint(connection: Connection) -> int:
    """Things that the connection holds, its tables of handlers and patterns apart."""
    return sum(
        len(held)
        for held in (
            connection._awaiting,
            connection._partial,
            connection._sending,
            connection._waiting,
            connection._out,
            connection._deadlines._marks,
            connection._decoder._table,
        )
    ) + len(connection._held)


# --- Anything at all ------------------------------------------------------------------------------

streams = st.sampled_from((0, 1, 2, 3, 5, 7, 9, 11, 2**31 - 1))
codes = st.sampled_from((0, 1, 7, 8, 11, 99))
increments = st.sampled_from((0, 1, 100, 2**31 - 1))
blocks = st.sampled_from(
    (OK, b"\x20" + OK, b"\x08\x03410", b"\x08\x03100", literal(b"a", b"b"), b"\xbe", b"")
)
flags = st.sampled_from((0, 1, 4, 5, 8, 0xD, 0x20, 0x25, 0xFF))
plausible = st.one_of(
    st.builds(ok, streams),
    st.builds(headers, streams, blocks, st.booleans(), st.booleans()),
    st.builds(data, streams, st.binary(max_size=30), st.booleans()),
    st.builds(rst, streams, codes),
    st.builds(window, streams, increments),
    st.builds(
        lambda *p: world.settings(*p), st.tuples(st.integers(0, 7), st.sampled_from((0, 1, 5, 16_384, 2**31)))
    ),
    st.builds(goaway, streams, codes, st.binary(max_size=10)),
    st.builds(frame, st.integers(0, 17), flags, streams, st.binary(max_size=20)),
    st.builds(lambda s, p: frame(9, 4, s, p), streams, blocks),
    st.binary(max_size=40),
    st.just(ACK),
)


def cuts(sent: bytes, sizes: list[int]) -> Iterator[bytes]:
    for size in sizes:
        yield sent[:size]
        sent = sent[size:]
    yield sent


@given(st.lists(plausible, max_size=25), st.lists(st.integers(1, 60), max_size=6), st.booleans())
@settings(max_examples=400)
def test_random_frames_raise_nothing_and_every_push_is_told(
    sent: list[bytes], sizes: list[int], first: bool
) -> None:
    connection = ready() if first else connect()
    for number in range(6):
        push(connection, number)
    connection.pull()
    results = []
    for part in cuts(b"".join(sent), sizes):
        results += connection.feed(part, 0.0)
        assert footprint(connection) < 20_000
        world.split(connection.pull())
    results += connection.lost("the end")
    assert sorted(contexts(results)) == list(range(6))  # type: ignore[type-var]


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing(sent: bytes) -> None:
    connection = ready()
    push(connection, "a")
    results = connection.feed(sent, 0.0)
    assert contexts(results + connection.lost("the end")) == ["a"]


def test_a_server_that_feeds_byte_by_byte_costs_no_memory() -> None:
    connection = ready()
    for byte in frame(0, 0, 1, bytes(16_384))[:16_000]:
        connection.feed(bytes((byte,)), 0.0)
    assert sys.getsizeof(connection._held) < 17_000
    assert kinds(connection.pull()) == []


@pytest.mark.parametrize("before", [0, 900])
def test_credit_for_streams_that_are_open_long_since_is_no_noise(before: int) -> None:
    """Servers give a window back for each request when they have read it, which may be seconds later."""
    connection = ready(Limits(), (3, 1000), (4, 1 << 20))
    connection.feed(window(0, 1 << 20), 0.0)
    for _ in range(before):
        connection.feed(frame(6, 0, 0, bytes(8)), 0.1)
    streams = [push(connection, number, now=5.0) for number in range(1000)]
    assert all(streams)
    credit = b"".join(window(stream, 40) + window(0, 40) for stream in streams)
    assert connection.feed(credit, 7.0) == []
    assert not connection.closed
    with_more = b"".join(window(0, 40) for _ in range(4 * 1000 + Limits().noise))
    assert len(connection.feed(with_more, 7.5)) == 1000
    assert connection.closed
