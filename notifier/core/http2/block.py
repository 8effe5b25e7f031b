"""A header block that comes in pieces (RFC 9113 4.3): bounded in bytes and in number."""

from notifier.core.http2.errors import ENHANCE_YOUR_CALM, FRAME_SIZE_ERROR, PROTOCOL_ERROR, ProtocolFailure
from notifier.core.http2.frames import PADDED, WITH_PRIORITY
from notifier.core.http2.limits import Limits


class Block:
    """The block under way on one stream: until it ends, the peer may send nothing else on the connection."""

    __slots__ = ("_count", "_limits", "_parts", "_size", "end_stream", "stream")

    def __init__(self, stream: int, end_stream: bool, part: bytes, limits: Limits) -> None:
        """Raises ProtocolFailure if the first part is too much already."""
        self.stream = stream
        self.end_stream = end_stream
        self._limits = limits
        self._count = -1
        self._size = 0
        self._parts: list[bytes] = []
        self.add(part)

    def add(self, part: bytes) -> None:
        """The next part. Raises ProtocolFailure over a bound: without the whole, HPACK is lost."""
        self._count += 1
        self._size += len(part)
        if self._count > self._limits.continuations or self._size > self._limits.header_block:
            raise ProtocolFailure(
                ENHANCE_YOUR_CALM,
                f"a header block of {self._size} bytes or more in {self._count + 1} frames or more",
            )
        self._parts.append(part)

    def whole(self) -> bytes:
        """All parts, once the last is there."""
        return self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)


def unpadded(flags: int, payload: bytes) -> bytes:
    """The payload of DATA or HEADERS without its padding. Raises ProtocolFailure (RFC 9113 6.1, 6.2)."""
    if not flags & PADDED:
        return payload
    if not payload:
        raise ProtocolFailure(FRAME_SIZE_ERROR, "a padded frame is empty")
    end = len(payload) - payload[0]
    if end < 1:
        raise ProtocolFailure(PROTOCOL_ERROR, "a frame is padded beyond its length")
    return payload[1:end]


def fragment(flags: int, payload: bytes) -> bytes:
    """The part of the block in a HEADERS frame: without padding and priority, which mean nothing to us."""
    part = unpadded(flags, payload)
    if flags & WITH_PRIORITY:
        if len(part) < 5:
            raise ProtocolFailure(FRAME_SIZE_ERROR, "HEADERS are too short for their priority")
        part = part[5:]
    return part
