"""Whole conversations with a server built on h2, and every one of them cut at every byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from notifier.core.http2 import Answered, Limits, Refused, Template, Unknown, constant, varying
from tests.core.http2.world import (
    ACK,
    APNS,
    BODY,
    ID,
    OK,
    TOKEN,
    Connection,
    Results,
    Server,
    apns,
    connect,
    contexts,
    data,
    frame,
    goaway,
    headers,
    literal,
    ok_server,
    push,
    ready,
    rst,
    settings,
    split,
    talk,
    u32,
    window,
)

ERROR = b'{"reason":"Unregistered","timestamp":1790000000000}'


def test_a_push_arrives_as_it_was_meant() -> None:
    connection, server = connect(), ok_server()
    for number in range(5):
        assert push(connection, number, b"%d" % number) == 2 * number + 1
    assert talk(connection, server) == [Answered(number, 200) for number in range(5)]
    for number, request in enumerate(server.requests.values()):
        assert request.complete
        assert request.body == b"%d" % number
        assert request.headers == [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":authority", b"api.push.apple.com"),
            (b":path", b"/3/device/" + TOKEN),
            (b"authorization", b"bearer eyJ.eyJ.sig"),
            (b"apns-topic", b"com.example.app"),
            (b"apns-push-type", b"alert"),
            (b"apns-id", ID),
        ]


def test_thousands_of_pushes_through_the_quick_ways_and_the_slow_ones() -> None:
    """New credentials, kinds and lengths between them, and answers of all sorts."""

    def answer(server: Server, stream: int) -> None:
        if stream % 7 == 0:
            server.respond(stream, 410, ERROR, [(b"content-type", b"application/json")])
        else:
            server.respond(stream, 200, b"{}" if stream % 5 == 0 else b"", [(b"apns-id", ID)])

    connection, server = connect(), Server(answer)
    results: Results = []
    for number in range(3000):
        template = apns(b"jwt%03d" % (number // 500), b"com.example.app%d" % (number % 3))
        templates = TEMPLATES.setdefault((number // 500, number % 3), template)
        body = b"x" * (number % 300)
        connection.push(number, templates, (b"ab" * (1 + number % 40), b"%036d" % number), body, 0.0)
        if number % 50 == 0:
            results += talk(connection, server)
    results += talk(connection, server)
    assert sorted(contexts(results), key=str) == sorted(range(3000), key=str)
    for number, request in enumerate(server.requests.values()):
        assert request[b":path"] == b"/3/device/" + b"ab" * (1 + number % 40)
        assert request[b"apns-id"] == b"%036d" % number
        assert request[b"authorization"] == b"bearer jwt%03d" % (number // 500)
        assert request[b"apns-topic"] == b"com.example.app%d" % (number % 3)
        assert request.body == b"x" * (number % 300)
    for result in results:
        assert isinstance(result, Answered)
        stream = 2 * result.context + 1  # type: ignore[operator]
        if stream % 7 == 0:
            assert (result.status, result.body) == (410, ERROR)
            assert dict(result.headers) == {b"content-type": b"application/json"}
        else:
            assert (result.status, result.body) == (200, b"{}" if stream % 5 == 0 else b"")


TEMPLATES: dict[tuple[int, int], Template] = {}


def test_the_second_200_is_read_without_decoding() -> None:
    """The peer has given up its table: what stands behind the status does not matter any more."""
    connection = ready()
    for number in range(3):
        push(connection, number)
    connection.feed(headers(1, b"\x20" + OK, end=True), 0.0)
    assert connection.feed(headers(3, OK + b"\xff" * 5, end=True), 0.0) == [Answered(1, 200)]


def test_headers_of_a_200_come_if_they_are_asked_for() -> None:
    connection, server = connect(Limits(headers_of_success=True)), ok_server()
    for number in range(3):
        push(connection, number)
    expected: Results = [Answered(number, 200, ((b"apns-id", ID),)) for number in range(3)]
    assert talk(connection, server) == expected


def test_a_server_may_keep_its_table_if_we_say_so() -> None:
    connection, server = connect(Limits(header_table=4096)), ok_server()
    answered: Results = []
    for number in range(20):
        push(connection, number)
        answered += talk(connection, server)
    assert answered == [Answered(number, 200) for number in range(20)]
    assert connection._decoder.size > 0


def test_a_server_that_never_gives_up_its_table_is_understood() -> None:
    """It acknowledges our SETTINGS and goes on as before."""
    connection = ready()
    for number in range(2):
        push(connection, number)
    connection.feed(headers(1, b"\x48\x03410\x40\x01a\x01b", end=True), 0.0)
    # Entry 62 is (a, b), 63 is :status 410.
    assert connection.feed(headers(3, b"\xbf\xbe", end=True), 0.0) == [Answered(1, 410, ((b"a", b"b"),))]


def test_percent_signs_are_only_percent_signs() -> None:
    template = Template(
        [
            constant(b":method", b"POST"),
            constant(b":scheme", b"https"),
            constant(b":authority", b"example.com"),
            varying(b":path", b"/%b%s%%/", private=True),
        ]
    )
    connection, server = connect(), ok_server()
    for number in range(3):
        connection.push(number, template, (b"%d%%" % number,), b"%b", 0.0)
    talk(connection, server)
    assert [request[b":path"] for request in server.requests.values()] == [
        b"/%b%s%%/0%",
        b"/%b%s%%/1%",
        b"/%b%s%%/2%",
    ]
    assert {request.body for request in server.requests.values()} == {b"%b"}


def test_a_frame_header_may_hold_a_percent_sign() -> None:
    """A block of 37 bytes, a body of 37 bytes, stream 37: 37 is "%"."""
    template = Template(
        [
            constant(b":method", b"POST"),
            constant(b":scheme", b"https"),
            constant(b":authority", b"example.com"),
            varying(b":path", private=True),
        ]
    )
    for size in range(25, 40):
        connection, server = connect(), ok_server()
        for number in range(20):
            connection.push(number, template, (b"/" * size,), bytes(37), 0.0)
        assert contexts(talk(connection, server)) == list(range(20))


def test_headers_longer_than_a_frame() -> None:
    long = Template(
        [
            constant(b":method", b"POST"),
            constant(b":scheme", b"https"),
            constant(b":authority", b"example.com"),
            constant(b":path", b"/"),
            constant(b"long", b"x" * 40_000),
            varying(b"id"),
        ]
    )
    connection, server = connect(), ok_server()
    server.h2.max_inbound_frame_size = 16_384
    server.h2.decoder.max_header_list_size = 1 << 20
    for number in range(3):
        connection.push(number, long, (b"%d" % number,), BODY, 0.0)
    sent = connection.pull()
    assert [each.kind for each in split(sent) if each.stream == 1] == [1, 9, 9, 0]
    server.receive(sent)
    assert contexts(talk(connection, server)) == [0, 1, 2]
    assert server.requests[3][b"long"] == b"x" * 40_000


def test_the_first_bytes() -> None:
    sent = connect().pull()
    assert sent.startswith(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    first, second = split(sent)
    # HEADER_TABLE_SIZE 0, ENABLE_PUSH 0, MAX_HEADER_LIST_SIZE 16384; the rest of the window of 1 MiB.
    assert first.payload.hex() == "000100000000" + "000200000000" + "000600004000"
    assert (second.kind, second.stream, second.payload) == (8, 0, u32(1_048_576 - 65_535))


def test_a_ping_is_answered_with_its_own_bytes() -> None:
    connection = ready()
    connection.feed(frame(6, 0, 0, b"12345678"), 0.0)
    assert connection.pull() == frame(6, 1, 0, b"12345678")


def test_values_are_counted() -> None:
    connection = connect()
    with pytest.raises(ValueError, match="2 values are needed, not 1"):
        connection.push("a", APNS, (TOKEN,), BODY, 0.0)
    assert connection.open == connection.waiting == 0


# --- The shapes that a response may have ----------------------------------------------------------

STATUS_410 = b"\x08\x03410"
RESPONSES: dict[str, tuple[bytes, object]] = {
    "empty DATA at the end": (headers(1, OK) + data(1, b"", True), Answered("a", 200)),
    "a body in parts": (
        headers(1, STATUS_410) + data(1, b"go") + data(1, b"") + data(1, b"ne", True),
        Answered("a", 410, (), b"gone"),
    ),
    "a body in very many parts": (
        headers(1, STATUS_410)
        + b"".join(data(1, b"%d" % (at % 10)) for at in range(200))
        + data(1, b"", True),
        Answered("a", 410, (), b"0123456789" * 20),
    ),
    "padding": (
        frame(1, 0x0C, 1, b"\x03" + STATUS_410 + bytes(3)) + frame(0, 0x09, 1, b"\x02gone" + bytes(2)),
        Answered("a", 410, (), b"gone"),
    ),
    "nothing but padding": (
        headers(1, STATUS_410) + frame(0, 0x09, 1, b"\x04" + bytes(4)),
        Answered("a", 410),
    ),
    "priority": (frame(1, 0x25, 1, u32(0x8000_0003) + b"\x10" + STATUS_410), Answered("a", 410)),
    "priority and padding": (
        frame(1, 0x2D, 1, b"\x01" + u32(3) + b"\x10" + STATUS_410 + b"\0"),
        Answered("a", 410),
    ),
    "CONTINUATION": (
        headers(1, b"\x08", True, False) + frame(9, 0, 1, b"\x0341") + frame(9, 0, 1) + frame(9, 4, 1, b"0"),
        Answered("a", 410),
    ),
    "trailers": (
        headers(1, OK) + data(1, b"ok") + headers(1, literal(b"grpc-status", b"0"), True),
        Answered("a", 200, (), b"ok"),
    ),
    "informational": (
        headers(1, b"\x08\x03100")
        + headers(1, b"\x08\x03103" + literal(b"link", b"x"))
        + headers(1, OK, True),
        Answered("a", 200),
    ),
    "content-length": (
        headers(1, STATUS_410 + b"\x0f\x0d\x014") + data(1, b"gone", True),
        Answered("a", 410, ((b"content-length", b"4"),), b"gone"),
    ),
    "content-length of what is not sent": (
        headers(1, b"\x8b\x0f\x0d\x014", True),
        Answered("a", 304, ((b"content-length", b"4"),)),
    ),
    "refused": (rst(1, 7), Refused("a", "the server has reset the stream: REFUSED_STREAM")),
    "reset": (rst(1, 2), Unknown("a", "the server has reset the stream: INTERNAL_ERROR", "reset")),
    "reset with a code of its own": (
        rst(1, 99),
        Unknown("a", "the server has reset the stream: 0x63", "reset"),
    ),
    "refused after it had begun": (
        headers(1, OK) + rst(1, 7),
        Unknown("a", "the server has reset the stream: REFUSED_STREAM", "reset", 200),
    ),
    "an extension in between": (
        frame(0xAB, 0xFF, 77, b"???") + headers(1, OK) + frame(0xA, 0, 0, b"alt") + data(1, b"", True),
        Answered("a", 200),
    ),
    "settings and pings in between": (
        headers(1, OK)
        + settings((4, 1), (0xF00D, 5))
        + frame(6, 0, 0, bytes(8))
        + window(0, 5)
        + data(1, b"", True),
        Answered("a", 200),
    ),
    "a priority of a stream that does not exist": (
        frame(2, 0, 9, bytes(5)) + headers(1, OK, True),
        Answered("a", 200),
    ),
    "the reserved bit": (frame(1, 5, 0x8000_0001, OK), Answered("a", 200)),
}


@pytest.mark.parametrize("shape", RESPONSES)
def test_a_response_of_this_shape(shape: str) -> None:
    sent, expected = RESPONSES[shape]
    connection = ready()
    push(connection, "a")
    assert connection.feed(sent, 0.0) == [expected]
    assert connection.failure is None
    assert connection.open == connection._bodies == 0


MALFORMED = {
    "no status": literal(b"a", b"b"),
    "nothing": b"",
    "two of them": b"\x88\x88",
    "not first": literal(b"a", b"b") + OK,
    "two digits": b"\x08\x0220",
    "not digits": b"\x08\x0320x",
    "101": b"\x08\x03101",
    "a pseudo-header of requests": OK + b"\x83",
    "capitals": OK + literal(b"Date", b"x"),
    "no name": OK + literal(b"", b"x"),
    "about the connection": OK + literal(b"connection", b"close"),
    "a line break": OK + literal(b"a", b"x\ny"),
    "a blank at the end": OK + literal(b"a", b"x "),
    "two lengths": OK + literal(b"content-length", b"0") + literal(b"content-length", b"1"),
    "no length": OK + literal(b"content-length", b"-1"),
    "a body that is missing": OK + literal(b"content-length", b"5"),
}


@pytest.mark.parametrize("fault", MALFORMED)
def test_a_malformed_response_ends_its_stream_alone(fault: str) -> None:
    connection = ready()
    push(connection, "a"), push(connection, "b")
    connection.pull()
    (result,) = connection.feed(headers(1, MALFORMED[fault], True), 0.0)
    assert isinstance(result, Unknown)
    assert connection.pull() == rst(1, 1)
    assert connection.feed(headers(3, OK, True), 0.0) == [Answered("b", 200)]


@pytest.mark.parametrize(
    "sent",
    [
        headers(1, b"\x08\x03100", True),
        data(1, b"x"),
        headers(1, OK) + headers(1, literal(b"a", b"b")),
        headers(1, OK) + headers(1, OK, True),
        headers(1, OK + literal(b"content-length", b"5")) + data(1, b"1234", True),
    ],
    ids=["1xx at the end", "DATA first", "trailers that end nothing", "status in trailers", "too short"],
)
def test_a_malformed_course_ends_its_stream_alone(sent: bytes) -> None:
    connection = ready()
    push(connection, "a")
    connection.pull()
    (result,) = connection.feed(sent, 0.0)
    assert isinstance(result, Unknown)
    assert rst(1, 1) in connection.pull()
    assert not connection.closed


# --- Recorded and cut -----------------------------------------------------------------------------


def recorded(play: Callable[[Connection, Server], Results]) -> tuple[bytes, Results]:
    """All that the server said, and what became of the pushes."""
    said: list[bytes] = []

    class Recorder(Server):
        def send(self) -> bytes:
            said.append(super().send())
            return said[-1]

    connection = connect()
    results = play(connection, Recorder(mixed_answers))
    return b"".join(said), results


def mixed_answers(server: Server, stream: int) -> None:
    if stream % 4 == 1:
        server.respond(stream, 200, more=[(b"apns-id", ID)])
    elif stream % 8 == 3:
        server.respond(stream, 410, ERROR, [(b"apns-id", ID)])
    else:
        server.h2.reset_stream(stream, 7 if stream % 16 == 7 else 8)


def pushes(connection: Connection) -> None:
    for number in range(12):
        push(connection, number)


def plain(connection: Connection, server: Server) -> Results:
    pushes(connection)
    return talk(connection, server)


def with_goaway(connection: Connection, server: Server) -> Results:
    pushes(connection)
    server.answer = lambda server, stream: None
    server.receive(connection.pull())
    said = server.send() + goaway(2**31 - 1) + headers(3, OK, True) + goaway(5, 0, b'{"reason":"Shutdown"}')
    said += headers(1, STATUS_410) + data(1, ERROR, True) + headers(5, OK, True)
    server.h2._data_to_send += said  # the recorder hears it
    return connection.feed(server.send(), 0.0)


def by_hand(connection: Connection, server: Server) -> Results:
    pushes(connection)
    said = settings((1, 0), (3, 7), (4, 70_000), (5, 20_000)) + ACK + RESPONSES["empty DATA at the end"][0]
    said += headers(3, b"\x20" + OK, True) + headers(5, OK, True) + headers(7, OK + literal(b"a", b"b"), True)
    said += (
        headers(9, b"\x08\x03", True, False)
        + frame(9, 4, 9, b"503")
        + window(0, 100)
        + frame(6, 0, 0, bytes(8))
    )
    server.h2._data_to_send += said
    return connection.feed(server.send(), 0.0)


@pytest.mark.parametrize("play", [plain, with_goaway, by_hand])
def test_every_cut_gives_the_same_results(play: Callable[[Connection, Server], Results]) -> None:
    said, expected = recorded(play)
    assert len(expected) >= 5
    for cut in range(len(said) + 1):
        connection = connect()
        pushes(connection)
        connection.pull()
        results = connection.feed(said[:cut], 0.0)
        connection.pull()
        assert results + connection.feed(said[cut:], 0.0) == expected, cut
    connection = connect()
    pushes(connection)
    connection.pull()
    results = []
    for at in range(len(said)):
        results += connection.feed(said[at : at + 1], 0.0)
    assert results == expected
