"""What may go wrong on a connection, and the codes that say so on the wire (RFC 9113 7)."""

from typing import Final

NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
FLOW_CONTROL_ERROR: Final = 0x3
SETTINGS_TIMEOUT: Final = 0x4
STREAM_CLOSED: Final = 0x5
FRAME_SIZE_ERROR: Final = 0x6
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
COMPRESSION_ERROR: Final = 0x9
CONNECT_ERROR: Final = 0xA
ENHANCE_YOUR_CALM: Final = 0xB
INADEQUATE_SECURITY: Final = 0xC
HTTP_1_1_REQUIRED: Final = 0xD

_NAMES: Final = {
    code: name for name, code in tuple(globals().items()) if name.isupper() and isinstance(code, int)
}


def code_name(code: int) -> str:
    """The name of an error code, as in "CANCEL"; of one that nobody has registered, its number in hex."""
    return _NAMES.get(code, f"0x{code:x}")


class ProtocolFailure(Exception):
    """The peer broke the protocol, or went over a bound of ours; the connection is over (RFC 9113 5.4.1).

    `code` is what our GOAWAY says, `reason` is for a log.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code = code
        self.reason = reason

    def __str__(self) -> str:
        return f"{code_name(self.code)}: {self.reason}"


class Malformed(Exception):
    """A response that means nothing, on a connection that may go on (RFC 9113 8.1.1)."""


class NotAccepting(Exception):
    """The connection takes no more pushes: it drains, has ended, or as many wait as may."""
