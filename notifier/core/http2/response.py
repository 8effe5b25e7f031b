"""One response as it comes: fields and data in, checked by what HTTP asks of them (RFC 9113 8.1 to 8.3)."""

import re
from collections.abc import Iterable
from typing import Final

from notifier.core.http2.errors import Malformed
from notifier.core.http2.hpack_static import Field

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch  # 8.2.1: no capitals
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]|^[ \t]|[ \t]\Z").search  # 8.2.1
_STATUS: Final = re.compile(rb"[1-9][0-9][0-9]").fullmatch
_LENGTH: Final = re.compile(rb"[0-9]{1,15}").fullmatch
_FORBIDDEN: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade")
)
_NO_CONTENT: Final = (204, 304)  # content-length may speak of what is not sent (RFC 9110 8.6)


class Response:
    """The final response of one stream, from its headers to its end."""

    __slots__ = ("_chunks", "_expected", "headers", "size", "status")

    def __init__(self, status: int, headers: tuple[Field, ...]) -> None:
        """Raises Malformed if the headers contradict themselves."""
        self.status = status
        self.headers = headers
        self.size = 0
        self._chunks: list[bytes] = []
        self._expected = _content_length(headers)

    def add(self, data: bytes) -> None:
        """A part of the body. One byte each, 64 KiB of them would take megabytes: small parts are joined."""
        self.size += len(data)
        self._chunks.append(data)
        if len(self._chunks) > 64:
            self._chunks = [b"".join(self._chunks)]

    def body(self) -> bytes:
        """All of it, at the end. Raises Malformed if it is not as long as announced (RFC 9113 8.1.1)."""
        if self._expected is not None and self.size != self._expected and self.status not in _NO_CONTENT:
            raise Malformed(f"a body of {self.size} bytes with content-length {self._expected}")
        return b"".join(self._chunks)


def read_headers(fields: list[Field]) -> tuple[int, tuple[Field, ...]]:
    """The status, and the headers without it. Raises Malformed."""
    if not fields or fields[0][0] != b":status" or not _STATUS(fields[0][1]):
        raise Malformed("a response does not begin with a :status of three digits")  # 8.3.2
    headers = tuple(fields[1:])
    _check(headers)
    status = int(fields[0][1])
    if status == 101:
        raise Malformed("status 101 does not exist in HTTP/2")  # 8.6
    return status, headers


def check_trailers(fields: list[Field], end_stream: bool) -> None:
    """Raises Malformed. What trailers say is of no use here."""
    if not end_stream:
        raise Malformed("a second block of headers does not end its stream")  # 8.1
    _check(fields)


def _check(fields: Iterable[Field]) -> None:
    for name, value in fields:
        # A pseudo-header here is a second one, one after others, or one of a request (8.3).
        if not _NAME(name) or name in _FORBIDDEN:
            raise Malformed(f"a response has a header {name!r}")
        if _BAD_VALUE(value):
            raise Malformed(f"the value of {name!r} has a line break, a NUL, or blanks at an end")


def _content_length(headers: tuple[Field, ...]) -> int | None:
    said = {value for name, value in headers if name == b"content-length"}
    if not said:
        return None
    if len(said) > 1 or not all(map(_LENGTH, said)):
        raise Malformed(f"content-length is {b', '.join(sorted(said))!r}")
    return int(said.pop())
