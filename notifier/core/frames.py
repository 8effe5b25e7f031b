"""WebSocket frames after the handshake, seen from the server, without a socket (RFC 6455).
Functions make the frames that go out; a Reader turns the bytes that come in into frames."""

from codecs import utf_8_decode
from struct import Struct
from typing import Final, Literal, TypeAlias

TEXT: Final = 1
BINARY: Final = 2
CLOSE: Final = 8
PING: Final = 9
PONG: Final = 10

Frame: TypeAlias = tuple[Literal[1, 2, 9, 10], bytes] | tuple[Literal[8], tuple[int, str]]
"""(kind, payload) of a complete message or control frame; the payload of CLOSE is (code, reason)."""

NO_CODE: Final = 1005  # RFC 6455 7.1.5: stands for a close frame without a code, never sent itself

_CONTROL_MAX: Final = 125  # RFC 6455 5.5
_REASON_MAX: Final = _CONTROL_MAX - 2

# RFC 6455 7.4 and IANA's registry: what may stand in a close frame. 1004 is undefined; 1005, 1006 and 1015
# only report what happened; the 2000s belong to extensions of the protocol.
_CLOSE_CODES: Final = frozenset((*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)))

# Headers of frames below 126 bytes, by length: a lookup and one concatenation make a frame.
_TEXT_HEADERS: Final = tuple(bytes((0x80 | TEXT, n)) for n in range(126))
_header_16: Final = Struct(">BBH").pack
_header_64: Final = Struct(">BBQ").pack


class Violation(Exception):
    """The client broke the protocol: close with `code` and `reason`; the reader takes nothing more.

    `before` holds the frames that were complete before the offending one in the same feed.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason
        self.before: list[Frame] = []

    def __str__(self) -> str:
        return f"{self.code} {self.reason}"


def text_frame(payload: bytes) -> bytes:
    """One unmasked text message. The payload must be UTF-8; this is not checked here."""
    size = len(payload)
    if size < 126:
        return _TEXT_HEADERS[size] + payload
    if size < 65536:
        return _header_16(0x80 | TEXT, 126, size) + payload
    return _header_64(0x80 | TEXT, 127, size) + payload


def ping_frame(payload: bytes = b"") -> bytes:
    """A ping. ValueError if the payload is over 125 bytes."""
    return _control_frame(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """The answer to a ping, with the ping's payload. ValueError if it is over 125 bytes."""
    return _control_frame(PONG, payload)


def close_frame(code: int, reason: str = "") -> bytes:
    """A close frame; a reason over 123 bytes of UTF-8 is cut between characters.

    Code 1005 makes the empty frame, so that `close_frame(*payload)` echoes what a Reader read.
    ValueError for a code that may not be sent (RFC 6455 7.4).
    """
    if code == NO_CODE:
        return _control_frame(CLOSE, b"")
    if code not in _CLOSE_CODES:
        raise ValueError(f"close code {code} may not be sent: use 1000-1003, 1007-1014 or 3000-4999")
    text = reason.encode("utf-8", "replace")
    if len(text) > _REASON_MAX:
        text = text[:_REASON_MAX].decode("utf-8", "ignore").encode()
    return _control_frame(CLOSE, code.to_bytes(2, "big") + text)


def _control_frame(opcode: int, payload: bytes) -> bytes:
    if len(payload) > _CONTROL_MAX:
        raise ValueError(f"a control frame holds at most {_CONTROL_MAX} bytes, not {len(payload)}")
    return bytes((0x80 | opcode, len(payload))) + payload


class Reader:
    """Bytes of one client in, complete frames out.

    `limit`: the largest message in bytes; may be changed at any time, headers read from then on obey it.
    `fragments`: the most frames that one message may come in.
    `closed`: a close frame or a violation was read, what follows is ignored.
    """

    # An idle connection pays for these slots alone: buffers exist only while something is unfinished.
    __slots__ = ("_at_rest", "_held", "_message", "_need", "closed", "fragments", "limit")

    def __init__(self, limit: int, fragments: int = 64) -> None:
        self.limit = limit
        self.fragments = fragments
        self.closed = False
        self._at_rest = True  # nothing held, no message under way, not closed
        self._held: bytes | bytearray = b""  # the start of one frame
        self._need = 0  # bytes that _held must have before it is worth another look
        self._message: _Message | None = None

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that `data` completes, in order. Raises Violation, which carries those before it."""
        size = len(data) - 6
        if (
            self._at_rest
            and 0 <= size <= 125
            and data[0] == 0x81
            and data[1] == 0x80 | size
            and size <= self.limit
        ):
            # Nearly everything that a client sends is one small text frame in one read.
            text = _unmask(data[2:6], data[6:])
            if text.isascii() or _is_utf8(text):
                return [(TEXT, text)]
        return self._feed(data)

    def _feed(self, data: bytes) -> list[Frame]:
        buffer = self._with_held(data)
        frames: list[Frame] = []
        if len(buffer) < self._need:
            return frames
        at = 0
        try:
            while not self.closed:  # RFC 6455 1.4: what follows a close frame is discarded
                first, start, end = self._header(buffer, at)
                if end > len(buffer):
                    self._hold(buffer, at, end)
                    break
                frame = self._take(first, _unmask(buffer[start - 4 : start], buffer[start:end]))
                if frame is not None:
                    frames.append(frame)
                at = end
        except Violation as violation:
            self._close()
            violation.before = frames
            raise
        return frames

    def _with_held(self, data: bytes) -> bytes | bytearray:
        held = self._held
        if not held:
            return data
        if not isinstance(held, bytearray):
            held = self._held = bytearray(held)  # appending to bytes would cost the square of the pieces
        held += data
        return held

    def _hold(self, buffer: bytes | bytearray, at: int, end: int) -> None:
        """Keeps the frame that starts at `at` until there are bytes up to `end`."""
        if at == len(buffer):
            self._held, self._need = b"", 0
        else:
            self._held, self._need = (buffer[at:] if at else buffer), end - at
        self._at_rest = not self._held and self._message is None

    def _close(self) -> None:
        self.closed = True
        self._at_rest = False
        self._held, self._need, self._message = b"", 0, None

    def _header(self, buffer: bytes | bytearray, at: int) -> tuple[int, int, int]:
        """First byte, start and end of the payload of the frame at `at`.

        Before the length is known, the end is that of the next part of the header: past the buffer too.
        """
        have = len(buffer) - at
        if have < 2:
            return 0, 0, at + 2
        first, second = buffer[at], buffer[at + 1]
        if _FAULTS[first]:
            raise Violation(1002, _FAULTS[first])
        if second < 0x80:
            raise Violation(1002, "client frame is not masked")  # RFC 6455 5.1
        size = second & 0x7F
        control = first & 0x08
        if control and size > _CONTROL_MAX:
            raise Violation(1002, "control frame is over 125 bytes")  # RFC 6455 5.5
        key = at + 2
        if size > 125:
            key += 2 if size == 126 else 8
            if key > len(buffer):
                return first, 0, key
            size = _long_size(buffer[at + 2 : key])
        if not control:
            self._admit(first & 0x0F, size)
        return first, key + 4, key + 4 + size

    def _admit(self, opcode: int, size: int) -> None:
        """Refuses a data frame by its header, before its payload takes memory."""
        message = self._message
        if message is None:
            if opcode == _CONTINUATION:
                raise Violation(1002, "continuation without a message")  # RFC 6455 5.4
        else:
            if opcode != _CONTINUATION:
                raise Violation(1002, "new message before the last one ended")  # RFC 6455 5.4
            if message.fragments >= self.fragments:
                raise Violation(1008, f"message is in more than {self.fragments} fragments")
            size += len(message.body)
        if size > self.limit:
            raise Violation(1009, f"message is over {self.limit} bytes")

    def _take(self, first: int, payload: bytes) -> Frame | None:
        opcode = first & 0x0F
        if opcode == CLOSE:
            answer = _read_close(payload)
            self._close()
            return CLOSE, answer
        if opcode == PING:
            return PING, payload
        if opcode == PONG:
            return PONG, payload
        return self._take_data(opcode, first & 0x80 != 0, payload)

    def _take_data(self, opcode: int, final: bool, payload: bytes) -> Frame | None:
        message = self._message
        if message is None:
            message = _Message(TEXT if opcode == TEXT else BINARY)
        message.add(payload, final)
        self._message = None if final else message
        return (message.kind, bytes(message.body)) if final else None


class _Message:
    """A message whose last fragment has not been read."""

    __slots__ = ("body", "checked", "fragments", "kind")

    def __init__(self, kind: Literal[1, 2]) -> None:
        self.kind = kind
        self.body = bytearray()
        self.fragments = 0
        self.checked = 0  # bytes of the body known to be whole UTF-8 characters

    def add(self, payload: bytes, final: bool) -> None:
        self.body += payload
        self.fragments += 1
        if self.kind == TEXT:  # RFC 6455 8.1
            self.checked += _whole_characters(self.body[self.checked :], final)


_CONTINUATION: Final = 0
_OPCODES: Final = frozenset((_CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG))


def _fault(first: int) -> str:
    """Why no frame may begin with this byte, or nothing."""
    if first & 0x70:
        return "reserved bit is set without an extension"  # RFC 6455 5.2
    if first & 0x0F not in _OPCODES:
        return f"unknown opcode {first & 0x0F}"  # RFC 6455 5.2
    if first & 0x08 and not first & 0x80:
        return "control frame is fragmented"  # RFC 6455 5.5
    return ""


_FAULTS: Final = tuple(map(_fault, range(256)))


def _long_size(field: bytes | bytearray) -> int:
    """The extended payload length of 2 or 8 bytes (RFC 6455 5.2)."""
    size = int.from_bytes(field, "big")
    if size >> 63:
        raise Violation(1002, "highest bit of the length is set")
    if size < (126 if len(field) == 2 else 65536):
        raise Violation(1002, "length is not in its shortest form")
    return size


def _read_close(payload: bytes) -> tuple[int, str]:
    """Code and reason of a close frame (RFC 6455 5.5.1); 1005 if there are none."""
    if not payload:
        return NO_CODE, ""
    code = int.from_bytes(payload[:2], "big")  # half a code is below 256, so not valid either
    if code not in _CLOSE_CODES:
        raise Violation(1002, "close frame without a valid code")
    try:
        return code, payload[2:].decode()
    except UnicodeDecodeError:
        raise Violation(1007, "close reason is not UTF-8") from None


def _unmask(key: bytes | bytearray, payload: bytes | bytearray) -> bytes:
    """The payload XOR the repeated key (RFC 6455 5.3): as two integers, the fastest that Python has."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def _whole_characters(text: bytearray, final: bool) -> int:
    """Bytes of the characters that are complete; a last one may be cut off unless this is the end."""
    try:
        size = utf_8_decode(text, "strict", final)[1]
    except UnicodeDecodeError:
        raise Violation(1007, "text is not UTF-8") from None
    if text[size : size + 1] == b"\xed" and text[size + 1 :] > b"\x9f":
        # A surrogate, whatever follows (RFC 3629 3). Python's decoder waits for the third byte to say so.
        raise Violation(1007, "text is not UTF-8")
    return size


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
