"""A connection over server-sent events, for networks that let no WebSocket through: GET /v1/stream.
Needs the extra `sse`."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final

import httpcore  # noqa: F401  # httpx would import it with the first request, while the event loop waits
import httpx
from httpx_sse import EventSource, SSEError, aconnect_sse

from notifier_client.backoff import Backoff
from notifier_client.inbox import Inbox
from notifier_client.marks import Marks
from notifier_client.posts import Posts
from notifier_client.timing import Timing
from notifier_client.transport import LOST, OURS, Message, Unreachable, Way, parsed

# A problem of notifier's as a close code: by the end of its type, else by its status. Any other refusal means later:
# also 404, a server without streams, and what a proxy or a portal says of itself.
PROBLEMS: Final = {"expired-token": 4001, "revoked-token": 4509}
STATUSES: Final = {401: 4501, 403: 4503}
LONGEST: Final = 1 << 20  # bytes of a message, as of one over a WebSocket


class _Bounded(httpx.AsyncByteStream):
    """What arrives, until too much has come since somebody set `here` to 0: a line without an end fills no memory."""

    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner
        self.here = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for part in self._inner:
            self.here += len(part)
            if self.here > LONGEST + len(part):  # of the part that came last, all may be of the next message
                raise httpx.ReadError("a message is longer than 1 MiB")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


class Stream:
    """An answer that does not end (transport.Transport). Marks go over the HTTP API; receipts are the server's own
    affair here."""

    renews: Final = False  # an answer cannot be given a token: it ends with 4001, and another is begun

    def __init__(self, source: EventSource, posts: Posts) -> None:
        self._source, self._posts = source, posts
        assert isinstance(source.response.stream, httpx.AsyncByteStream)  # for mypy: of an AsyncClient
        self._arriving = source.response.stream = _Bounded(source.response.stream)
        self._error: tuple[int, str] | None = None
        self._end = "the stream ended"

    @property
    def ended(self) -> tuple[int, str]:
        return self._error or (LOST, self._end)

    async def messages(self) -> AsyncGenerator[Message, None]:
        try:
            if not self._source.response.is_success:
                self._error = await _refusal(self._source.response)
                return
            async with aclosing(self._source.aiter_sse()) as events:
                async for event in events:
                    self._arriving.here = 0
                    message = parsed(event.data)
                    if message is None:
                        continue  # an event without data: an id or a sign of life
                    if message["type"] == "error":
                        self._error = _code(message)
                    yield message
        except httpx.ReadTimeout:
            self._end = "the stream is silent"
        except (httpx.HTTPError, SSEError) as fault:
            self._end = f"the stream broke off: {fault}"

    async def say(self, message: Message) -> None:
        kind = message["type"]
        if kind in ("read", "seen") or (kind == "ack" and message.get("active")):
            self._posts.say(message)


def _code(error: Message) -> tuple[int, str]:
    """An `error` is what a WebSocket would be closed with."""
    code = error.get("code")
    return code if isinstance(code, int) else LOST, str(error.get("reason", ""))


async def _refusal(answer: httpx.Response) -> tuple[int, str]:
    """Status and problem document (RFC 9457) as a close code and reason."""
    await answer.aread()
    try:
        said: Any = answer.json()
    except ValueError:
        said = None
    problem = said if isinstance(said, dict) else {}
    about, status = str(problem.get("type", "")), f"the answer was {answer.status_code}"
    if not about.startswith(OURS):
        return LOST, status
    code = PROBLEMS.get(about.removeprefix(OURS)) or STATUSES.get(answer.status_code, LOST)
    return code, str(problem.get("detail", status))


def way(api: str, marks: Marks, backoff: Backoff) -> Way:
    """How to get there.

    api      address of the HTTP API, without a path
    marks    those that the client keeps
    backoff  how long a mark waits that did not get through
    """
    # The same authorities as for the WebSocket; here, once, because they take a while to read.
    return partial(_opened, api.rstrip("/"), ssl.create_default_context(), marks, backoff)


@asynccontextmanager
async def _opened(
    api: str,
    trusted: ssl.SSLContext,
    marks: Marks,
    backoff: Backoff,
    token: str,
    inbox: Inbox,
    timing: Timing,
) -> AsyncIterator[Stream]:
    """Begin a stream, and drop it at the end. Raises Unreachable."""
    # Not compressed: whoever compresses collects.
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": "identity"}
    # Comments count: the server sends one every 25 s.
    waits = httpx.Timeout(timing.answer, read=2 * timing.silence)
    async with AsyncExitStack() as stack:
        try:
            client = httpx.AsyncClient(
                headers=headers, timeout=timing.answer, verify=trusted, follow_redirects=True
            )
            http = await stack.enter_async_context(client)
            begun = aconnect_sse(http, "GET", f"{api}/v1/stream", params=inbox.where(), timeout=waits)
            source = await stack.enter_async_context(begun)
        except (
            Exception
        ) as fault:  # of the network, of TLS, of a proxy, of whoever answers there: all mean later
            raise Unreachable(fault) from fault
        posts = Posts(http, api, inbox, marks, backoff, timing.answer)
        stack.push_async_callback(posts.close)
        try:
            yield Stream(source, posts)
        except asyncio.CancelledError:
            await posts.say_the_rest()
            raise
