"""What the requests of one kind have in common, said once; each push then brings only the values that vary."""

import re
from collections.abc import Sequence
from enum import IntEnum
from typing import Final

from msgspec import Struct


class Indexing(IntEnum):
    """The first byte of a literal, by what the peer is to do with the field (RFC 7541 6.2)."""

    INDEXED = 0x40
    WITHOUT = 0x00
    NEVER = 0x10


class HeaderField(Struct, frozen=True):
    """One header. `value` None: each push brings its own, which follows `prefix`."""

    name: bytes
    value: bytes | None
    indexing: Indexing
    prefix: bytes = b""

    def __repr__(self) -> str:
        return f"HeaderField({self.name!r})"  # the value may be a credential


def constant(name: bytes, value: bytes) -> HeaderField:
    """The same in all requests: one byte each after the first."""
    return HeaderField(name, value, Indexing.INDEXED)


def secret(name: bytes, value: bytes, indexed: bool) -> HeaderField:
    """The same in all requests for a while. `indexed` False: in full each time, and never in any table.

    Indexing a credential is safe where nobody else's requests share the connection (RFC 7541 7.1).
    """
    return HeaderField(name, value, Indexing.INDEXED if indexed else Indexing.NEVER)


def varying(name: bytes, prefix: bytes = b"", private: bool = False) -> HeaderField:
    """A value of its own for each push: sent in full, only the name is indexed. `private`: in no table, anywhere."""
    return HeaderField(name, None, Indexing.NEVER if private else Indexing.WITHOUT, prefix)


_NAME: Final = re.compile(rb":?[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch  # RFC 9113 8.2.1: no capitals
_VALUE: Final = re.compile(
    rb"(?:[\x21-\x7e\x80-\xff](?:[\t\x20-\x7e\x80-\xff]*[\x21-\x7e\x80-\xff])?)?"
).fullmatch
_PSEUDO: Final = frozenset((b":method", b":scheme", b":authority", b":path"))
# RFC 9113 8.2.2: about the connection, which is not theirs in HTTP/2. Lengths are told by the frames.
_FORBIDDEN: Final = frozenset(
    (b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade", b"host")
)


class Template:
    """The headers of a kind of request, in order, pseudo-headers first.

    Make one per combination of constants and keep it: it is known by identity. Raises ValueError, which says
    what is wrong, if no server would take such a request. Values that pushes bring are not looked at again.
    """

    __slots__ = ("fields", "varying")

    def __init__(self, fields: Sequence[HeaderField]) -> None:
        names = [field.name for field in fields]
        for field in fields:
            _check(field)
        regular = [not name.startswith(b":") for name in names]
        if regular != sorted(regular):
            raise ValueError("pseudo-headers must stand before all other headers")  # RFC 9113 8.3
        if sorted(name for name in names if name[:1] == b":") != sorted(_PSEUDO):
            raise ValueError(f"a request has {', '.join(map(repr, sorted(_PSEUDO)))}, once each")  # 8.3.1
        self.fields: Final = tuple(fields)
        self.varying: Final = sum(field.value is None for field in fields)


def _check(field: HeaderField) -> None:
    if not _NAME(field.name) or field.name in _FORBIDDEN:
        raise ValueError(f"{field.name!r} is no header name for HTTP/2: lower case, not about the connection")
    if not _VALUE(field.value or b"") or not _VALUE(field.prefix):
        raise ValueError(f"the value of {field.name!r} has control characters, or blanks at an end")
