"""What the server sends: frames by kind, each judged by the state of its stream (RFC 9113 5.1 and 6)."""

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

from msgspec import Struct

from notifier.core.http2 import frames, settings
from notifier.core.http2.block import Block, fragment, unpadded
from notifier.core.http2.errors import (
    CANCEL,
    COMPRESSION_ERROR,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    Malformed,
    ProtocolFailure,
    code_name,
)
from notifier.core.http2.frames import (
    ACK,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADER_SIZE,
    STREAM_MAX,
    WINDOW_MAX,
)
from notifier.core.http2.hpack_decoder import BadBlock, Decoder, ListTooLong
from notifier.core.http2.hpack_static import Field
from notifier.core.http2.limits import Limits
from notifier.core.http2.noise import Noise
from notifier.core.http2.response import Response, check_trailers, read_headers
from notifier.core.http2.results import Answered, C, Refused, Unknown
from notifier.core.http2.sender import Sender, Stream

_ID: Final = 0x7FFF_FFFF  # without the reserved bit (4.1)
_HEADERS_AND_END: Final = frames.HEADERS << 8 | END_HEADERS | END_STREAM
_HEADERS_BEFORE_DATA: Final = frames.HEADERS << 8 | END_HEADERS
_STATUS_200: Final = 0x88  # entry 8 of HPACK's static table
_DEBUG_MAX: Final = 1024  # bytes kept of a GOAWAY's debug data
_HTTP_1: Final = int.from_bytes(b"HTT", "big")  # the length that "HTTP/1.1 400" would stand for
_CREDENTIALS_REFUSED: Final = (401, 403)

Handler: TypeAlias = Callable[[int, int, bytes, float], None]
"""(flags, stream, payload, now)"""


class GoAway(Struct, frozen=True):
    """What the server said when it began to close. `debug` may hold its reason, in JSON with APNs."""

    last_stream: int
    code: int
    debug: bytes

    def __str__(self) -> str:
        # It ends up in logs: a server must not begin a line of its own there.
        text = self.debug.decode("latin-1")
        shown = "".join(each if " " <= each <= "~" else f"\\x{ord(each):02x}" for each in text)
        said = f" ({shown})" if shown else ""
        return f"the server closes: {code_name(self.code)}{said}"


class Receiver(Sender[C]):
    """The receiving half of a connection, above the sending half whose streams it ends."""

    def __init__(self, limits: Limits, now: float) -> None:
        super().__init__(limits, now)
        self.goaway: GoAway | None = None
        """The latest of the server's."""
        self._heard_settings = False
        self._settled = False  # our SETTINGS are acknowledged
        self._held = b""  # the start of a frame
        self._block: Block | None = None
        self._decoder = Decoder(limits.header_list, max(limits.header_table, 4096))
        self._noise = Noise(limits.noise, now)
        self._unacknowledged = 0  # bytes received for which no window was given back
        self._bodies = 0  # bytes held of answers that are not complete
        self._handlers: Mapping[int, Handler] = {
            frames.DATA: self._on_data,
            frames.HEADERS: self._on_headers,
            frames.PRIORITY: self._on_priority,
            frames.RST_STREAM: self._on_rst_stream,
            frames.SETTINGS: self._on_settings,
            frames.PUSH_PROMISE: self._on_push_promise,
            frames.PING: self._on_ping,
            frames.GOAWAY: self._on_goaway,
            frames.WINDOW_UPDATE: self._on_window_update,
            frames.CONTINUATION: self._on_continuation,
            frames.PRIORITY_UPDATE: self._on_priority_update,
        }

    @property
    def announced(self) -> bool:
        """The server's SETTINGS have come: how many streams it takes is known."""
        return self._heard_settings

    # --- Bytes to frames ---

    def _read(self, data: bytes, now: float) -> None:
        """Takes all whole frames of `data`, keeps the rest. Raises ProtocolFailure."""
        awaiting, results = self._awaiting, self._results
        at, end = 0, len(data)
        quick = self._status_is_enough()
        while end - at >= HEADER_SIZE:
            high, low, kind, number = frames.read_header(data, at)
            size = high << 16 | low
            start = at + HEADER_SIZE
            at = start + size
            # Nearly all that ever comes: 200, to a push that was sent whole.
            if (
                quick
                and number in awaiting
                and 0 < size <= DEFAULT_FRAME
                and at <= end
                and data[start] == _STATUS_200
            ):
                if kind == _HEADERS_AND_END:
                    results.append(Answered(awaiting.pop(number), 200))
                    continue
                if kind == _HEADERS_BEFORE_DATA:
                    stream = self._partial[number] = Stream(awaiting.pop(number))
                    stream.response = Response(200, ())
                    continue
            if size > DEFAULT_FRAME:
                raise ProtocolFailure(FRAME_SIZE_ERROR, self._too_long(size))
            if at > end:
                at = start - HEADER_SIZE
                break
            self._frame(kind >> 8, kind & 0xFF, number & _ID, data[start:at], now)
            quick = self._status_is_enough()
        self._held = data[at:]

    def _status_is_enough(self) -> bool:
        """A block may be skipped behind its status: none that follows refers to it, none is under way."""
        return self._decoder.stateless and self._block is None and not self._limits.headers_of_success

    def _too_long(self, size: int) -> str:
        if size == _HTTP_1 and not self._heard_settings:
            return "the server answers in HTTP/1, not HTTP/2"
        return f"a frame of {size} bytes"

    def _frame(self, kind: int, flags: int, number: int, payload: bytes, now: float) -> None:
        if not self._heard_settings and (kind != frames.SETTINGS or flags & ACK):
            raise ProtocolFailure(PROTOCOL_ERROR, "the server does not begin with SETTINGS")  # 3.4
        if self._block is not None and kind != frames.CONTINUATION:
            raise ProtocolFailure(PROTOCOL_ERROR, "a header block is interrupted by another frame")  # 4.3
        handler = self._handlers.get(kind)
        if handler is None:
            self._count_noise(now)  # 4.1: what is unknown is ignored
        else:
            handler(flags, number, payload, now)

    def _count_noise(self, now: float, frames: int = 1) -> None:
        self._noise.add(frames, now, self._next >> 1, self.open)

    # --- Streams ---

    def _is_open(self, number: int, kind: str, now: float) -> bool:
        """False: the stream has ended; such frames may be on their way still, but not without end.

        Raises ProtocolFailure for a stream that was never opened, or could only be the server's (5.1).
        """
        if not number & 1 or number >= self._next:
            raise ProtocolFailure(PROTOCOL_ERROR, f"{kind} on stream {number}, which is not open")
        if number in self._awaiting or number in self._partial:
            return True
        self._count_noise(now)
        return False

    def _on_headers(self, flags: int, number: int, payload: bytes, now: float) -> None:
        if not number & 1 or number >= self._next:
            raise ProtocolFailure(PROTOCOL_ERROR, f"HEADERS on stream {number}, which is not open")
        block = Block(number, bool(flags & END_STREAM), fragment(flags, payload), self._limits)
        if flags & END_HEADERS:
            self._headers(block, now)
        else:
            self._block = block

    def _on_continuation(self, flags: int, number: int, payload: bytes, now: float) -> None:
        block = self._block
        if block is None or number != block.stream:
            raise ProtocolFailure(
                PROTOCOL_ERROR, f"CONTINUATION on stream {number} continues nothing"
            )  # 6.10
        block.add(payload)
        if flags & END_HEADERS:
            self._block = None
            self._headers(block, now)

    def _headers(self, block: Block, now: float) -> None:
        try:
            fields = self._decoder.decode(block.whole())  # of a stream that has ended too: tables must agree
        except BadBlock as fault:
            raise ProtocolFailure(COMPRESSION_ERROR, str(fault)) from None  # 4.3
        except ListTooLong as fault:
            raise ProtocolFailure(ENHANCE_YOUR_CALM, str(fault)) from None
        if not self._is_open(block.stream, "HEADERS", now):
            return
        try:
            self._respond(block.stream, fields, block.end_stream, now)
        except Malformed as fault:
            self._reset(block.stream, PROTOCOL_ERROR, str(fault))  # 8.1.1

    def _respond(self, number: int, fields: list[Field], end_stream: bool, now: float) -> None:
        """Headers of a response, or its trailers. Raises Malformed."""
        stream = self._partial.get(number)
        if stream is not None and stream.response is not None:
            check_trailers(fields, end_stream)
            self._answer(number, stream.response)
            return
        status, headers = read_headers(fields)
        if status < 200:
            if end_stream:
                raise Malformed(f"status {status} ends its stream")  # 8.1
            self._count_noise(now)
            return
        response = Response(status, headers)
        if end_stream:
            self._answer(number, response)
            return
        if stream is None:
            stream = self._partial[number] = Stream(self._awaiting.pop(number))
        stream.response = response

    def _answer(self, number: int, response: Response) -> None:
        """The response is complete. Raises Malformed if it is not what it said it would be."""
        body = response.body()
        headers = response.headers
        if response.status == 200 and not self._limits.headers_of_success:
            headers = ()
        if number in self._sending:
            self._out.append(frames.rst_stream(number, CANCEL))  # 8.1: the rest of the request is not wanted
        self._results.append(Answered(self._close_stream(number), response.status, headers, body))

    def _close_stream(self, number: int) -> C:
        stream = self._partial.get(number)
        if stream is not None and stream.response is not None:
            self._bodies -= stream.response.size
        return super()._close_stream(number)

    def _reset(self, number: int, code: int, reason: str) -> None:
        """Ends an open stream from our side."""
        self._out.append(frames.rst_stream(number, code))
        status = self._status(number)
        self._results.append(Unknown(self._close_stream(number), reason, "garbled", status))

    def _on_data(self, flags: int, number: int, payload: bytes, now: float) -> None:
        self._give_back(len(payload))  # padding and streams that have ended count as well (6.9)
        data = unpadded(flags, payload)
        if not self._is_open(number, "DATA", now):
            return
        stream = self._partial.get(number)
        response = stream.response if stream else None
        if stream is None or response is None:
            self._reset(number, PROTOCOL_ERROR, "the body of a response comes before its headers")  # 8.1
            return
        if not data and not flags & END_STREAM:
            self._count_noise(now)
        response.add(data)
        self._bodies += len(data)
        if response.size > self._limits.body:
            self._reset(number, CANCEL, f"the body of a response is over {self._limits.body} bytes")
        elif flags & END_STREAM:
            try:
                self._answer(number, response)
            except Malformed as fault:
                self._reset(number, PROTOCOL_ERROR, str(fault))
        else:
            self._give_back_stream(number, stream, len(payload))
        if self._bodies > self._limits.bodies:
            raise ProtocolFailure(ENHANCE_YOUR_CALM, f"unfinished responses of {self._bodies} bytes")

    def _give_back(self, size: int) -> None:
        """Renews the connection's window by halves: it cannot be used up before, by a server that obeys it."""
        self._unacknowledged += size
        if self._unacknowledged >= self._limits.window // 2:
            self._out.append(frames.window_update(0, self._unacknowledged))
            self._unacknowledged = 0

    def _give_back_stream(self, number: int, stream: Stream[C], size: int) -> None:
        stream.unacknowledged += size
        if stream.unacknowledged >= DEFAULT_WINDOW // 2:
            self._out.append(frames.window_update(number, stream.unacknowledged))
            stream.unacknowledged = 0

    def _on_rst_stream(self, flags: int, number: int, payload: bytes, now: float) -> None:
        _expect("RST_STREAM", len(payload), 4)
        if not self._is_open(number, "RST_STREAM", now):
            return
        code, status = frames.number(payload), self._status(number)
        reason = f"the server has reset the stream: {code_name(code)}"
        # 8.7: refused means that nothing was done; but not once it has begun to answer.
        untouched = code == REFUSED_STREAM and not status
        context = self._close_stream(number)
        self._results.append(
            Refused(context, reason) if untouched else Unknown(context, reason, "reset", status)
        )

    # --- Windows and settings ---

    def _on_window_update(self, flags: int, number: int, payload: bytes, now: float) -> None:
        _expect("WINDOW_UPDATE", len(payload), 4)
        self._count_noise(now)
        increment = frames.number(payload) & _ID
        if number == 0:
            if not increment:
                raise ProtocolFailure(PROTOCOL_ERROR, "the window is enlarged by 0")  # 6.9
            self._window += increment
            if self._window > WINDOW_MAX:
                raise ProtocolFailure(FLOW_CONTROL_ERROR, "the window grows beyond 2^31-1")  # 6.9.1
        elif self._is_open(number, "WINDOW_UPDATE", now):
            self._enlarge(number, increment)

    def _enlarge(self, number: int, increment: int) -> None:
        if not increment:
            self._reset(number, PROTOCOL_ERROR, "the window of the stream is enlarged by 0")  # 6.9
            return
        stream = self._sending.get(number)
        if stream is None:
            return  # all is sent: nothing depends on this window any more
        stream.window += increment
        if stream.window > WINDOW_MAX:
            self._reset(number, FLOW_CONTROL_ERROR, "the window of the stream grows beyond 2^31-1")

    def _on_settings(self, flags: int, number: int, payload: bytes, now: float) -> None:
        _expect_connection("SETTINGS", number)
        if flags & ACK:
            _expect("an acknowledgement of SETTINGS", len(payload), 0)
            if self._settled:
                self._count_noise(now)
            self._settled = True
            self._decoder.allowed = self._limits.header_table
            return
        if len(payload) % 6:
            raise ProtocolFailure(FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
        self._count_noise(now, 1 + len(payload) // 6)
        if not self._heard_settings:
            self._heard_settings = True
            self._peer_streams = STREAM_MAX  # what they do not mention has no limit (6.5.2)
        for identifier, value in frames.read_settings(payload):
            settings.check(identifier, value)
            self._set(identifier, value)
        self._out.append(frames.SETTINGS_ACK)

    def _set(self, identifier: int, value: int) -> None:
        if identifier == settings.HEADER_TABLE_SIZE:
            self._encoder.obey(value)
            self._forget_old_patterns()
        elif identifier == settings.MAX_CONCURRENT_STREAMS:
            if value > self._peer_streams:
                self._alone = False
            self._peer_streams = value
        elif identifier == settings.MAX_FRAME_SIZE:
            self._frame_max = value
        elif identifier == settings.INITIAL_WINDOW_SIZE:
            self._set_initial_window(value)

    def _set_initial_window(self, value: int) -> None:
        """Changes the windows of open streams too; they may become negative (6.9.2)."""
        change, self._initial_window = value - self._initial_window, value
        for stream in self._sending.values():
            stream.window += change
            if stream.window > WINDOW_MAX:
                raise ProtocolFailure(FLOW_CONTROL_ERROR, "settings make a window grow beyond 2^31-1")

    # --- The connection ---

    def _on_ping(self, flags: int, number: int, payload: bytes, now: float) -> None:
        _expect_connection("PING", number)
        _expect("PING", len(payload), 8)
        if flags & ACK and self._keepalive.answered(payload):
            return
        self._count_noise(now)
        if not flags & ACK:
            self._out.append(frames.ping(payload, ack=True))

    def _on_goaway(self, flags: int, number: int, payload: bytes, now: float) -> None:
        _expect_connection("GOAWAY", number)
        if len(payload) < 8:
            raise ProtocolFailure(FRAME_SIZE_ERROR, f"GOAWAY of {len(payload)} bytes")
        self._count_noise(now)
        last = frames.number(payload) & _ID
        if self.goaway is not None:
            last = min(last, self.goaway.last_stream)  # 6.8: a later one may not raise it
        self.goaway = GoAway(last, frames.number(payload, 4), payload[8 : 8 + _DEBUG_MAX])
        reason = str(self.goaway)
        self._drain(reason)
        # 6.8: what is above was not processed and never will be; what is below may still be answered.
        for above in sorted(number for number in (*self._awaiting, *self._partial) if number > last):
            status = self._status(above)
            context = self._close_stream(above)
            # Who has begun to answer has processed it, whatever it says now.
            self._results.append(
                Unknown(context, reason, "reset", status) if status else Refused(context, reason)
            )

    def _on_priority(self, flags: int, number: int, payload: bytes, now: float) -> None:
        if not number:
            raise ProtocolFailure(PROTOCOL_ERROR, "PRIORITY on stream 0")
        _expect("PRIORITY", len(payload), 5)
        self._count_noise(now)  # of any stream, in any state: it means nothing (5.3.2)

    def _on_push_promise(self, flags: int, number: int, payload: bytes, now: float) -> None:
        raise ProtocolFailure(PROTOCOL_ERROR, "PUSH_PROMISE, which our SETTINGS forbid")  # 8.4

    def _on_priority_update(self, flags: int, number: int, payload: bytes, now: float) -> None:
        raise ProtocolFailure(PROTOCOL_ERROR, "PRIORITY_UPDATE from a server")  # RFC 9218 7.1

    def _may_have_company(self) -> None:
        """After the first answer that shows that the credentials are good, pushes need not go one by one."""
        for result in self._results:
            if isinstance(result, Answered) and result.status not in _CREDENTIALS_REFUSED:
                self._alone = False


def _expect(what: str, size: int, expected: int) -> None:
    if size != expected:
        raise ProtocolFailure(FRAME_SIZE_ERROR, f"{what} has {size} bytes, not {expected}")


def _expect_connection(what: str, number: int) -> None:
    if number:
        raise ProtocolFailure(PROTOCOL_ERROR, f"{what} on stream {number}")
