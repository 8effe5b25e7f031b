"""Every bound of a connection, with what happens at it."""

from typing import Final

from msgspec import Struct

from notifier.core.http2.frames import DEFAULT_FRAME, STREAM_MAX, WINDOW_MAX


class Limits(Struct, frozen=True, kw_only=True):
    """Times are seconds, sizes bytes. Raises ValueError for what no connection could obey."""

    answer_within: float = 20.0
    """From HEADERS to the whole answer. Beyond: RST_STREAM CANCEL, `Expired(sent=True)`, and a PING."""
    wait_within: float = 20.0
    """In the queue of those that have no stream yet. Beyond: `Expired(sent=False)`."""
    settings_within: float = 10.0
    """Until the server has sent its SETTINGS and acknowledged ours. Beyond: the connection ends."""
    ping_within: float = 8.0
    """From PING to its answer. Beyond: the connection ends."""
    ping_after_silence: float | None = 60.0
    """A push after so long a silence takes a PING along. None: never."""
    ping_every: float | None = 900.0
    """A PING after so long a silence in any case. None: never (some servers take PINGs amiss)."""

    streams: int = 1_000
    """Open at once, also if the server allows more."""
    streams_unannounced: int = 100
    """Open at once until the server's SETTINGS are there."""
    first_alone: bool = False
    """One stream until the server has answered one with anything but 401 or 403, or has raised its own limit."""
    waiting: int = 10_000
    """Pushes without a stream. Beyond: `push` raises NotAccepting."""
    partial: int = 100
    """Streams whose body waits for a window of their own. Beyond: no new streams until some go on."""
    requests: int = 100_000_000
    """In the life of the connection; then it drains. Stream ids end at 2^30 requests."""

    header_table: int = 0
    """The table in octets that the server may use for its answers; 0 lets us read little more than the status."""
    encoder_table: int = 4_096
    """The largest table in octets that we use for requests."""
    headers_of_success: bool = False
    """Read the headers of a 200 too."""
    header_list: int = 16_384
    """A response's headers or trailers, counted as in RFC 9113 6.5.2. Beyond: the connection ends."""
    header_block: int = 16_384
    """The same as they come. Beyond: the connection ends."""
    continuations: int = 16
    """Frames that one header block may come in after the first. Beyond: the connection ends."""
    body: int = 65_536
    """Of one response. Beyond: RST_STREAM CANCEL and `Unknown`."""
    bodies: int = 4_194_304
    """Of all responses that are not complete. Beyond: the connection ends."""
    window: int = 1_048_576
    """Bytes of responses that the server may send before it hears from us."""
    noise: int = 1_000
    """Frames a second that bring no answer any nearer, beside four for each open push. Beyond: the connection ends."""

    def __post_init__(self) -> None:
        for name in ("streams", "streams_unannounced", "waiting", "partial", "requests", "noise"):
            _within(name, getattr(self, name), 1, STREAM_MAX)
        _within("requests", self.requests, 1, (STREAM_MAX + 1) // 2)
        for name in ("header_table", "encoder_table", "header_list", "header_block"):
            _within(name, getattr(self, name), 0, 1 << 24)
        # A frame may be as long as DEFAULT_FRAME: with twice that the window is renewed before it is used up.
        _within("window", self.window, 2 * DEFAULT_FRAME, WINDOW_MAX)
        for name in _TIMES:
            seconds = getattr(self, name)
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} must be more than 0 seconds, not {seconds}")


_TIMES: Final = (
    *("answer_within", "wait_within", "settings_within", "ping_within", "ping_after_silence", "ping_every"),
)


def _within(name: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise ValueError(f"{name} must be from {least} to {most}, not {value}")
