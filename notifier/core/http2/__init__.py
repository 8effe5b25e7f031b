"""A push-only HTTP/2 client (RFC 9113, RFC 7541) without socket and clock: bytes and the time in, results out.
`connection.PushConnection` is the way in; all else here is what it is made of."""

from typing import Final

from notifier.core.http2.connection import PushConnection
from notifier.core.http2.errors import NotAccepting, ProtocolFailure
from notifier.core.http2.limits import Limits
from notifier.core.http2.results import Answered, Expired, Refused, Result, Unknown
from notifier.core.http2.template import Template, constant, secret, varying

__all__: Final = (
    "PushConnection",
    "Limits",
    "Template",
    "constant",
    "secret",
    "varying",
    "Result",
    "Answered",
    "Refused",
    "Unknown",
    "Expired",
    "NotAccepting",
    "ProtocolFailure",
)
