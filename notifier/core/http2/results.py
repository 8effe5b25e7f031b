"""How a push ended. Each push that a connection has accepted ends in exactly one of these."""

from typing import Generic, Literal, TypeAlias, TypeVar

from msgspec import Struct

from notifier.core.http2.hpack_static import Field

C = TypeVar("C")
"""What the caller gave to know its push by."""
Cause: TypeAlias = Literal["lost", "reset", "garbled"]


class Answered(Struct, Generic[C], frozen=True, gc=False):
    """The server has answered, whatever it said.

    `headers`: without :status. Empty for a 200 unless `Limits.headers_of_success` asks for them.
    """

    context: C
    status: int
    headers: tuple[Field, ...] = ()
    body: bytes = b""


class Refused(Struct, Generic[C], frozen=True, gc=False):
    """Certainly not processed: send it again, elsewhere, without counting an attempt."""

    context: C
    reason: str


class Unknown(Struct, Generic[C], frozen=True, gc=False):
    """It may have been processed: send it again with the same ids.

    `cause`: lost, the connection is gone; reset, the server has reset the stream; garbled, what came is no answer.
    `status`: of an answer that had begun and was cut off, 0 where none had.
    """

    context: C
    reason: str
    cause: Cause = "lost"
    status: int = 0


class Expired(Struct, Generic[C], frozen=True, gc=False):
    """Its time on this connection is over. `sent` False: certainly not processed; True: it may have been, or was,
    where its answer had begun with a `status`."""

    context: C
    sent: bool
    status: int = 0


Result: TypeAlias = Answered[C] | Refused[C] | Unknown[C] | Expired[C]
