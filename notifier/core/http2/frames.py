"""The layout of frames, and those that we send (RFC 9113 4.1 and 6)."""

from collections.abc import Iterator, Mapping
from struct import Struct
from typing import Final

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9
PRIORITY_UPDATE: Final = 0x10  # RFC 9218 7.1

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

HEADER_SIZE: Final = 9
LENGTH_MAX: Final = (1 << 24) - 1
STREAM_MAX: Final = (1 << 31) - 1
WINDOW_MAX: Final = (1 << 31) - 1  # RFC 9113 6.9.1
DEFAULT_WINDOW: Final = 65_535  # 6.9.2
DEFAULT_FRAME: Final = 16_384  # 4.2; nobody may set less

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"  # 3.4

header: Final = Struct(">LBL")
"""Length and type in one number (length << 8 | type), flags, stream."""

read_header: Final = Struct(">BHHL").unpack_from
"""Length in two parts, type and flags in one (type << 8 | flags), reserved bit and stream."""

_setting: Final = Struct(">HL")
_u32: Final = Struct(">L")


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame; its size is not looked at."""
    return header.pack(len(payload) << 8 | kind, flags, stream) + payload


def headers(stream: int, block: bytes, end_stream: bool, frame_max: int) -> Iterator[bytes]:
    """A header block in HEADERS and as many CONTINUATION as it takes (RFC 9113 4.3)."""
    kind, flags = HEADERS, END_STREAM if end_stream else 0
    while len(block) > frame_max:
        yield frame(kind, flags, stream, block[:frame_max])
        kind, flags, block = CONTINUATION, 0, block[frame_max:]
    yield frame(kind, flags | END_HEADERS, stream, block)


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame with these values by identifier."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(*pair) for pair in values.items()))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """(identifier, value) in order; the payload's length must be a multiple of 6."""
    return _setting.iter_unpack(payload)


SETTINGS_ACK: Final = frame(SETTINGS, ACK, 0)


def ping(payload: bytes, ack: bool = False) -> bytes:
    """A PING with 8 bytes of payload, or the answer to one."""
    return frame(PING, ACK if ack else 0, 0, payload)


def window_update(stream: int, increment: int) -> bytes:
    """Room for `increment` more bytes, 1 to 2^31-1, on a stream, or on the connection (0)."""
    return frame(WINDOW_UPDATE, 0, stream, _u32.pack(increment))


def rst_stream(stream: int, code: int) -> bytes:
    """The end of a stream, with an error code."""
    return frame(RST_STREAM, 0, stream, _u32.pack(code))


def goaway(code: int, debug: bytes = b"") -> bytes:
    """The end of the connection. The last stream is 0: a server opens none with us (RFC 9113 6.8)."""
    return frame(GOAWAY, 0, 0, _u32.pack(0) + _u32.pack(code) + debug)


def number(payload: bytes, at: int = 0) -> int:
    """The 32 bits at `at`."""
    value: int = _u32.unpack_from(payload, at)[0]
    return value
