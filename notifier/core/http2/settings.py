"""What the server's SETTINGS say, and which values it may not send (RFC 9113 6.5.2)."""

from collections.abc import Mapping
from typing import Final

from notifier.core.http2.errors import FLOW_CONTROL_ERROR, PROTOCOL_ERROR, ProtocolFailure
from notifier.core.http2.frames import DEFAULT_FRAME, LENGTH_MAX, WINDOW_MAX
from notifier.core.http2.limits import Limits

HEADER_TABLE_SIZE: Final = 0x1
ENABLE_PUSH: Final = 0x2
MAX_CONCURRENT_STREAMS: Final = 0x3
INITIAL_WINDOW_SIZE: Final = 0x4
MAX_FRAME_SIZE: Final = 0x5
MAX_HEADER_LIST_SIZE: Final = 0x6

# Least, most, the error that anything else is, its name. What is not here may have any value, or is unknown.
_BOUNDS: Final = {
    # A server must not let a client push, and not ask it to (6.5.2).
    ENABLE_PUSH: (0, 0, PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH"),
    INITIAL_WINDOW_SIZE: (0, WINDOW_MAX, FLOW_CONTROL_ERROR, "SETTINGS_INITIAL_WINDOW_SIZE"),
    MAX_FRAME_SIZE: (DEFAULT_FRAME, LENGTH_MAX, PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE"),
}


def check(identifier: int, value: int) -> None:
    """Raises ProtocolFailure if a server may not send this setting."""
    least, most, code, name = _BOUNDS.get(identifier, (0, value, 0, ""))
    if not least <= value <= most:
        raise ProtocolFailure(code, f"{name} is {value}")


def ours(limits: Limits) -> Mapping[int, int]:
    """What we ask of a server. Frame size and stream windows stay at their defaults."""
    return {
        HEADER_TABLE_SIZE: limits.header_table,
        ENABLE_PUSH: 0,
        MAX_HEADER_LIST_SIZE: limits.header_list,
    }
