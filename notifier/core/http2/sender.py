"""Pushes on their way out: which have a stream, which wait for one, and what the windows let through."""

from collections import deque
from collections.abc import Sequence
from itertools import islice
from struct import Struct
from typing import Final, Generic

from notifier.core.http2 import frames
from notifier.core.http2.deadlines import Deadlines
from notifier.core.http2.errors import CANCEL, NotAccepting
from notifier.core.http2.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    HEADERS,
)
from notifier.core.http2.hpack_encoder import Encoder
from notifier.core.http2.keepalive import Keepalive
from notifier.core.http2.limits import Limits
from notifier.core.http2.response import Response
from notifier.core.http2.results import C, Expired, Refused, Result, Unknown
from notifier.core.http2.template import Template

_PATTERNS: Final = 256  # remembered at most: kinds of requests times lengths of their values

_u32: Final = Struct(">L").pack
_frame_header: Final = frames.header.pack


class Waiting(Generic[C]):
    """A push that has no stream yet: nothing of it has been sent."""

    __slots__ = ("body", "context", "since", "template", "values")

    def __init__(
        self, context: C, template: Template, values: tuple[bytes, ...], body: bytes, since: float
    ) -> None:
        self.context = context
        self.template = template
        self.values = values
        self.body = body
        self.since = since


class Stream(Generic[C]):
    """A stream of which more is to be known than whose it is: a part of its body waits, or its answer has begun."""

    __slots__ = ("context", "response", "unacknowledged", "unsent", "window")

    def __init__(self, context: C, unsent: bytes = b"", window: int = 0) -> None:
        self.context = context
        self.unsent = unsent
        self.window = window  # of the peer, for what is unsent; may be negative (RFC 9113 6.9.2)
        self.response: Response | None = None
        self.unacknowledged = 0  # bytes received for which no window was given back


class Sender(Generic[C]):
    """The sending half of a connection.

    A push goes out in one piece, as HEADERS and DATA, by a pattern made once for its template and lengths;
    whatever keeps it from that (no stream free, no window, something new for the peer's table) is looked at
    aside. Pushes without a stream wait in the order in which they came, and nobody overtakes them.
    """

    def __init__(self, limits: Limits, now: float) -> None:
        self.closed = False
        """Nothing more goes in or out; what `pull` still has is to be written, then the transport closed."""
        self.doubtful = False
        """An answer is overdue, and nothing has been heard since: what is pushed now may end as unknown."""
        self._limits = limits
        self._draining = False
        self._results: list[Result[C]] = []
        self._out: list[bytes] = []
        self._encoder = Encoder(limits.encoder_table)
        self._encoder_version = self._encoder.version
        self._patterns: dict[tuple[object, ...], bytes] = {}
        self._deadlines = Deadlines(limits.answer_within)
        self._keepalive = Keepalive(limits, now)
        self._stale = False  # so long a silence that the next push takes a PING along

        self._next = 1  # the stream that the next push gets
        self._pulled = 1  # streams from here on have not left this object
        self._last = 2 * limits.requests - 1
        self._awaiting: dict[int, C] = {}  # sent whole, nothing heard: nearly every stream, nearly always
        self._partial: dict[int, Stream[C]] = {}  # the others
        self._sending: dict[int, Stream[C]] = {}  # those of _partial with a body to send, in order
        self._waiting: deque[Waiting[C]] = deque()

        self._alone = limits.first_alone
        self._peer_streams = limits.streams_unannounced
        self._initial_window = DEFAULT_WINDOW
        self._window = DEFAULT_WINDOW  # of the connection
        self._frame_max = DEFAULT_FRAME
        # What a push may take without a look at anything else: streams, and the size of a body.
        self._slots = 0
        self._quick = 0
        self._recount()

    @property
    def accepting(self) -> bool:
        """`push` takes pushes, as long as no more wait than may."""
        return not (self._draining or self.closed)

    @property
    def open(self) -> int:
        """Streams that are open."""
        return len(self._awaiting) + len(self._partial)

    @property
    def waiting(self) -> int:
        """Pushes that have no stream yet."""
        return len(self._waiting)

    @property
    def window(self) -> int:
        """Bytes of bodies that the server will take at once on the connection; may not be positive."""
        return self._window

    @property
    def room(self) -> int:
        """Pushes that would get a stream at once, windows apart."""
        return 0 if not self.accepting else max(0, self._streams_free() - len(self._waiting))

    def push(self, context: C, template: Template, values: tuple[bytes, ...], body: bytes, now: float) -> int:
        """Accepts a request; exactly one result with `context` will follow.

        `values`: of the template's varying fields, in order; visible ASCII, which is not checked here. `now`:
        seconds of any clock that does not go back, the same one in all calls. The stream's number comes back,
        or 0 while the push waits for one. Raises NotAccepting, ValueError if the values are not as many.
        """
        size = len(body)
        if self._slots > 0 and size <= self._quick and size <= self._window:
            pattern = self._patterns.get((template, *map(len, values)))
            if pattern is not None:
                stream = self._next
                header = _frame_header(size << 8, END_STREAM, stream)
                self._out.append(pattern % (_u32(stream), *values, header, body))
                self._next = stream + 2
                self._slots -= 1
                self._window -= size
                self._awaiting[stream] = context
                if now >= self._deadlines.next_mark:
                    self._deadlines.mark(stream, now)
                return stream
        return self._push(Waiting(context, template, values, body, now), now)

    def push_row(
        self, row: Sequence[tuple[C, tuple[bytes, ...], bytes]], begin: int, template: Template, now: float
    ) -> int:
        """Those of `row` (context, values, body), from `begin` on, that go out whole by a known pattern: the same as
        `push` for each, in 0.50 us instead of 0.62. The place of the first that does not; `push` takes it, or says
        why not."""
        patterns, out, awaiting = self._patterns, self._out, self._awaiting
        first = stream = self._next
        quick, window = self._quick, self._window
        try:
            for context, values, body in islice(row, begin, begin + max(0, self._slots)):
                size = len(body)
                pattern = patterns.get((template, *map(len, values)))
                if pattern is None or size > quick or size > window:
                    break
                header = _frame_header(size << 8, END_STREAM, stream)
                out.append(pattern % (_u32(stream), *values, header, body))
                awaiting[stream] = context
                window -= size
                stream += 2
        except TypeError:
            pass  # a value that is no bytes: `push` will say so
        finally:
            taken = (stream - first) // 2
            self._next, self._window = stream, window
            self._slots -= taken
            if taken and now >= self._deadlines.next_mark:
                self._deadlines.mark(first, now)
        return begin + taken

    def pull(self) -> bytes:
        """The bytes to be written now. From here on they count as sent."""
        data = b"".join(self._out)
        self._out.clear()
        self._pulled = self._next
        return data

    # --- One push ---

    def _push(self, push: Waiting[C], now: float) -> int:
        if len(push.values) != push.template.varying:
            raise ValueError(f"{push.template.varying} values are needed, not {len(push.values)}")
        if self._next > self._last:
            self._draining = True
        if not self.accepting:
            raise NotAccepting("the connection drains or has ended: push on another one")
        if self._stale:
            self._stale = False
            self._ping(now)
        if not self._waiting and self._may_open(push):
            stream = self._open(push, now)
            self._recount()
            return stream
        if len(self._waiting) >= self._limits.waiting:
            raise NotAccepting(f"{len(self._waiting)} pushes wait on the connection already")
        self._waiting.append(push)
        self._slots = 0
        return 0

    def _may_open(self, push: Waiting[C]) -> bool:
        return (
            self._streams_free() > 0
            and (self._window > 0 or not push.body)
            and len(self._sending) < self._limits.partial
        )

    def _open(self, push: Waiting[C], now: float) -> int:
        """Gives the push a stream, and sends of it what the windows allow."""
        number, body = self._next, push.body
        self._next += 2
        if now >= self._deadlines.next_mark:
            self._deadlines.mark(number, now)
        block = self._encoder.encode(push.template, push.values)
        self._out.extend(frames.headers(number, block, not body, self._frame_max))
        if body:
            stream = self._partial[number] = self._sending[number] = Stream(
                push.context, body, self._initial_window
            )
            self._send_body(number, stream)
        else:
            self._awaiting[number] = push.context
        self._learn(push.template, push.values)
        return number

    def _send_body(self, number: int, stream: Stream[C]) -> None:
        """As much as the windows allow, of the stream and of the connection (RFC 9113 5.2.1)."""
        while stream.unsent:
            size = min(len(stream.unsent), self._window, stream.window, self._frame_max)
            if size <= 0:
                return
            chunk, stream.unsent = stream.unsent[:size], stream.unsent[size:]
            self._window -= size
            stream.window -= size
            self._out.append(frames.frame(DATA, 0 if stream.unsent else END_STREAM, number, chunk))
        del self._sending[number]
        if stream.response is None:
            self._awaiting[number] = self._partial.pop(number).context

    def _learn(self, template: Template, values: tuple[bytes, ...]) -> None:
        """Makes the pattern for the next push like this one, if a block like it says nothing new."""
        self._forget_old_patterns()
        lengths = tuple(map(len, values))
        pieces = self._encoder.pattern(template, lengths)
        if pieces is None:
            return
        size = sum(map(len, pieces)) + sum(lengths)
        if (
            size > DEFAULT_FRAME
        ):  # the least that any server takes: a pattern stays right when settings change
            return
        if len(self._patterns) >= _PATTERNS:
            self._patterns.clear()
        start = _frame_header(size << 8 | HEADERS, END_HEADERS, 0)[:-4]
        said = [piece.replace(b"%", b"%%") for piece in (start, *pieces, b"")]
        self._patterns[(template, *lengths)] = b"%b".join(said) + b"%b"

    def _forget_old_patterns(self) -> None:
        if self._encoder_version != self._encoder.version:
            self._encoder_version = self._encoder.version
            self._patterns.clear()

    # --- All pushes ---

    def _streams_free(self) -> int:
        allowed = min(1 if self._alone else self._limits.streams, self._peer_streams)
        return min(allowed - self.open, (self._last - self._next) // 2 + 1)

    def _recount(self) -> None:
        """What pushes may take at once, after anything has changed."""
        self._quick = min(self._initial_window, self._frame_max)
        blocked = self._waiting or self._stale or not self.accepting
        self._slots = 0 if blocked or len(self._sending) >= self._limits.partial else self._streams_free()

    def _advance(self, now: float) -> None:
        """Sends what the windows and streams that have become free allow."""
        if self._window > 0:
            for number, stream in list(self._sending.items()):
                self._send_body(number, stream)
        while self._waiting and self._may_open(self._waiting[0]):
            self._open(self._waiting.popleft(), now)
        if self._next > self._last:
            self._drain("the connection has had its number of requests")
        self._recount()

    def _drain(self, reason: str) -> None:
        """No more pushes; those without a stream go elsewhere, the others run on."""
        self._draining = True
        self._results += [Refused(push.context, reason) for push in self._waiting]
        self._waiting.clear()
        self._slots = 0

    def _expire(self, now: float) -> None:
        """Ends what is overdue."""
        while self._waiting and now >= self._waiting[0].since + self._limits.wait_within:
            self._results.append(Expired(self._waiting.popleft().context, sent=False))
        bound = self._deadlines.overdue(now, self._next)
        late = sorted(number for number in (*self._awaiting, *self._partial) if number < bound)
        for number in late:
            self._out.append(frames.rst_stream(number, CANCEL))
            status = self._status(number)
            self._results.append(Expired(self._close_stream(number), sent=True, status=status))
        if late:
            self.doubtful = True
            self._ping(now)  # is it the answer that is late, or has the server gone?

    def _ping(self, now: float) -> None:
        payload = self._keepalive.ask(now)
        if payload is not None:
            self._out.append(frames.ping(payload))

    def _status(self, number: int) -> int:
        """What the answer of an open stream has begun with; 0: nothing has come."""
        stream = self._partial.get(number)
        return stream.response.status if stream is not None and stream.response is not None else 0

    def _close_stream(self, number: int) -> C:
        """Forgets an open stream. The push's context comes back."""
        if number in self._awaiting:
            return self._awaiting.pop(number)
        self._sending.pop(number, None)
        return self._partial.pop(number).context

    def _end(self, reason: str) -> None:
        """The connection is over, for whatever reason. All pushes get their results."""
        self._drain(reason)
        self.closed = True
        self._out.clear()  # what is called certainly not processed must not leave any more
        for number in sorted((*self._awaiting, *self._partial)):
            status = self._status(number)
            context = self._close_stream(number)
            sent = number < self._pulled
            self._results.append(
                Unknown(context, reason, status=status) if sent else Refused(context, reason)
            )

    def _take_results(self) -> list[Result[C]]:
        results, self._results = self._results, []
        return results
