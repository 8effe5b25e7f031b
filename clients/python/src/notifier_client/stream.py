"""A connection over server-sent events, for networks that let no WebSocket through: GET /v1/stream.
Needs the extra `sse`."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Any, Final

import httpcore  # noqa: F401  # httpx would import it with the first request, while the event loop waits
import httpx
from httpx_sse import EventSource, SSEError, aconnect_sse

from notifier_client.inbox import Inbox
from notifier_client.timing import Timing
from notifier_client.transport import CLOSING, LOST, Message, Unreachable, Way, parsed

# A refusal as a close code: by the end of its problem type, else by its status. Any other means later: also 404,
# a server without streams.
PROBLEMS: Final = {"expired-token": 4001, "revoked-token": 4509}
STATUSES: Final = {401: 4501, 403: 4503}
log = logging.getLogger("notifier_client")


class Stream:
    """An answer that does not end (transport.Transport). Marks go over the HTTP API; receipts are the server's own
    affair here."""

    renews: Final = False  # an answer cannot be given a token: it ends with 4001, and another is begun

    def __init__(self, api: str, http: httpx.AsyncClient, source: EventSource, inbox: Inbox) -> None:
        self._api, self._http, self._source, self._inbox = api, http, source, inbox
        self._posts: set[asyncio.Task[None]] = set()
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
        if kind == "read":
            self._post("read", {"ids": message["ids"]})
        elif kind == "seen" or (kind == "ack" and message.get("active")):
            self._post("seen", {"epoch": self._inbox.epoch, "seq": message["seq"]})

    def _post(self, mark: str, content: Message) -> None:
        # Aside: while the answer is waited for, the stream is read on.
        task = asyncio.create_task(self._posted(f"{self._api}/v1/inbox/{mark}", content))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _posted(self, url: str, content: Message) -> None:
        """A mark that is lost is made again after the next resume: Marks keeps it."""
        try:
            answer = await self._http.post(url, json=content)
        except httpx.HTTPError as fault:
            log.info("a mark did not get through: %r", fault)
        else:
            if not answer.is_success:
                log.info("a mark was refused: %d %s", answer.status_code, answer.text[:200])

    async def say_the_rest(self) -> None:
        """We close: what has been marked just now may still arrive."""
        if self._posts:
            await asyncio.wait(self._posts, timeout=CLOSING)

    async def close(self) -> None:
        posts = [*self._posts]
        for post in posts:
            post.cancel()
        await asyncio.gather(*posts, return_exceptions=True)


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
    kind = str(problem.get("type", "")).rpartition(":")[2]
    code = PROBLEMS.get(kind) or STATUSES.get(answer.status_code, LOST)
    return code, str(problem.get("detail", f"the answer was {answer.status_code}"))


def way(api: str) -> Way:
    """How to get there.

    api  address of the HTTP API, without a path
    """
    # The same authorities as for the WebSocket; here, once, because they take a while to read.
    return partial(_opened, api.rstrip("/"), ssl.create_default_context())


@asynccontextmanager
async def _opened(
    api: str, trusted: ssl.SSLContext, token: str, inbox: Inbox, timing: Timing
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
        stream = Stream(api, http, source, inbox)
        stack.push_async_callback(stream.close)
        try:
            yield stream
        except asyncio.CancelledError:
            await stream.say_the_rest()
            raise
