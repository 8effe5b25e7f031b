"""The fallback to event streams: what proxies do to it, and that nothing stays behind when the client goes."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Self

import pytest
from notifier_client import Backoff, Client, Stopped, Timing

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
READY: dict[str, Any] = {"type": "ready", "epoch": "1.a", "seq": 0, "unread": 0}
UPTO: dict[str, Any] = {"type": "upto", "epoch": "1.a", "seq": 0, "seen": 0, "floor": 0, "unread": 0}
PATIENCE = 20.0  # seconds for what must happen

Reader, Writer = asyncio.StreamReader, asyncio.StreamWriter
Answer = Callable[[Reader, Writer], Awaitable[None]]


def row(seq: int, name: str) -> dict[str, Any]:
    return {
        "type": "notification", "seq": seq, "id": name, "kind": "like", "actors": [{"id": "42"}], "count": 1,
        "time": "2026-11-22T08:31:05.904Z", "read": False, "unread": 1, "floor": 0,
    }  # fmt: skip


def events(*messages: dict[str, Any]) -> bytes:
    return b"".join(b"data: %b\n\n" % json.dumps(message).encode() for message in messages)


def answers(data: bytes) -> Answer:
    async def answer(reader: Reader, writer: Writer) -> None:
        writer.write(data)

    return answer


def stays(data: bytes) -> Answer:
    """Say this, and no more until the client goes."""

    async def answer(reader: Reader, writer: Writer) -> None:
        writer.write(data)
        await reader.read()

    return answer


async def until(what: Callable[[], object]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not what():  # noqa: ASYNC110  # of other parties, who know no event of ours
            await asyncio.sleep(0.005)


class Proxy:
    """Answers WebSockets, streams and marks each in its way. A context manager.

    seen   the first lines of all requests
    open   connections that the client has not closed
    posts  what was posted
    """

    def __init__(self, socket: Answer, stream: Answer, mark: Answer | None = None) -> None:
        self.socket, self.stream, self.mark = socket, stream, mark or answers(EMPTY)
        self.seen: list[str] = []
        self.posts: list[Any] = []
        self.open = 0

    async def _serve(self, reader: Reader, writer: Writer) -> None:
        self.open += 1
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while True:
                    await self._one(reader, writer)
        finally:
            writer.close()
        with suppress(OSError):
            await writer.wait_closed()
        self.open -= 1

    async def _one(self, reader: Reader, writer: Writer) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        self.seen.append(head.partition(" http/")[0])
        if head.startswith("post"):
            size = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            self.posts.append(json.loads(await reader.readexactly(size)))
            await self.mark(reader, writer)
            return
        await (self.socket if "upgrade: websocket" in head else self.stream)(reader, writer)
        await writer.drain()
        writer.close()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        await until(lambda: self.open == 0)

    @property
    def streams(self) -> int:
        return sum(line.startswith("get /v1/stream") for line in self.seen)

    def client(self, token: Callable[[], Awaitable[str | None]] | None = None, **timing: float) -> Client:
        async def ours() -> str:
            return "a.b.c"

        times = {"answer": 5.0, "ack": 0.01, **timing}
        url, api = f"ws://127.0.0.1:{self.port}/v1/websocket", f"http://127.0.0.1:{self.port}/"
        return Client(url, token or ours, api=api, backoff=Backoff(0.001, 0.002), timing=Timing(**times))


FORBIDDEN = answers(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
LIVE = stays(HEAD + events(READY, UPTO, row(1, "a")))
SILENT = stays(b"")


REFUSALS: dict[str, Answer] = {
    "403": FORBIDDEN,
    "502": answers(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n"),
    "200": answers(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nhi\n"),
    "end": answers(b""),
    "no HTTP": answers(b"220 mail.example.com ESMTP\r\n"),
    "silence": SILENT,
    "half an answer": stays(b"HTTP/1.1 101 Switch"),
}


@pytest.mark.parametrize("refusal", REFUSALS)
def test_whatever_a_proxy_does_to_websockets_a_stream_follows_three_of_them(refusal: str) -> None:
    async def main() -> None:
        answer = 0.6 if refusal in ("silence", "half an answer") else 5.0
        async with (
            Proxy(REFUSALS[refusal], LIVE) as proxy,
            proxy.client(answer=answer) as client,
            asyncio.timeout(PATIENCE),
        ):
            assert [(await anext(client)).kind for _ in range(2)] == ["complete", "notification"]
            assert client.state == "live"
            assert proxy.seen == ["get /v1/websocket"] * 3 + ["get /v1/stream?after=0"]

    asyncio.run(main())


@pytest.mark.parametrize(
    "before",
    [
        pytest.param(HEAD, id="head alone"),
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD + b": \n\n" * 9, id="comments alone"),
    ],
)
def test_a_proxy_that_collects_a_stream_is_no_way_until_it_does_not(before: bytes) -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, stays(before)) as proxy, proxy.client(answer=0.2) as client:
            await until(lambda: proxy.streams == 3)
            assert client.state in ("connecting", "waiting")
            # One WebSocket before each stream.
            assert proxy.seen[4:6] == ["get /v1/websocket", "get /v1/stream?after=0"]
            proxy.stream = LIVE
            await until(lambda: client.state == "live")

    asyncio.run(main())


def test_a_silent_stream_is_dropped() -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE) as proxy, proxy.client(silence=0.1) as client:
            await until(lambda: proxy.streams == 3)
            assert client.inbox.where() == {"epoch": "1.a", "after": 1}
            assert proxy.seen[5:6] == ["get /v1/stream?epoch=1.a&after=1"]

    asyncio.run(main())


def test_comments_are_a_sign_of_life() -> None:
    async def comments(reader: Reader, writer: Writer) -> None:
        writer.write(HEAD + events(READY, UPTO))
        for _ in range(24):  # together longer than the silence that is borne
            await asyncio.sleep(0.1)
            writer.write(b":\n\n")
        writer.write(events(row(1, "a")))
        await reader.read()

    async def main() -> None:
        async with Proxy(FORBIDDEN, comments) as proxy, proxy.client(silence=1.0) as client:
            await until(lambda: "a" in client.inbox.rows)
            assert proxy.streams == 1

    asyncio.run(main())


def test_an_event_that_is_cut_in_the_middle_has_not_come() -> None:
    async def main() -> None:
        cut = HEAD.replace(b"Connection: close", b"Transfer-Encoding: chunked")
        whole = events(READY, UPTO, row(1, "a"))
        data = whole + events(row(2, "b"))[:-1]
        async with (
            Proxy(FORBIDDEN, answers(cut + b"%x\r\n%b" % (len(data) + 99, data))) as proxy,
            proxy.client() as client,
        ):
            await until(lambda: proxy.streams == 2)
            assert list(client.inbox.rows) == ["a"]
            assert "get /v1/stream?epoch=1.a&after=1" in proxy.seen

    asyncio.run(main())


def test_a_mark_that_is_refused_is_made_again_after_the_next_resume(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "notifier_client")

    async def main() -> None:
        refused = answers(
            b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 4\r\n\r\nbusy"
        )
        over = asyncio.Event()

        async def first(reader: Reader, writer: Writer) -> None:
            writer.write(HEAD + events(READY, UPTO, row(1, "a")))
            await over.wait()

        async with Proxy(FORBIDDEN, first, refused) as proxy, proxy.client() as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: "a mark was refused" in caplog.text)
            proxy.stream = stays(HEAD + events({**READY, "seq": 1}, {**UPTO, "seq": 1}))
            over.set()
            await until(lambda: len(proxy.posts) == 2)
            assert proxy.posts == [{"ids": ["a"]}] * 2
        assert "a mark was refused: 503 busy" in caplog.text

    asyncio.run(main())


def test_what_was_marked_last_still_goes_out_when_the_client_closes() -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE) as proxy:
            async with proxy.client() as client:
                await until(lambda: client.inbox.rows)
                await client.read(["a"])
            assert proxy.posts == [{"ids": ["a"]}]

    asyncio.run(main())


def test_an_api_that_is_no_address_is_told_at_once() -> None:
    async def token() -> str:
        return ""

    with pytest.raises(ValueError, match="must begin with https:// or http://, not push"):
        Client("wss://push.example.com/", token, api="push.example.com")


def test_without_the_extra_there_is_no_fallback_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delitem(sys.modules, "notifier_client.stream", raising=False)
    monkeypatch.setitem(sys.modules, "httpx", None)  # as if it were not installed
    sys.modules["notifier_client.client"]._say_why.cache_clear()

    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE) as proxy:
            async with proxy.client(), proxy.client():
                await until(lambda: len(proxy.seen) > 12)
            assert proxy.streams == 0

    asyncio.run(main())
    said = [record.getMessage() for record in caplog.records if record.name == "notifier_client"]
    assert len(said) == 1
    assert "no fallback to server-sent events" in said[0]
    assert "notifier-client[sse]" in said[0]


# -- the end, at every state


async def never() -> str:
    await asyncio.Event().wait()
    return ""


def ends(problem: str, status: int) -> Answer:
    """A refusal whose content never comes to its end."""
    return stays(b"HTTP/1.1 %d No\r\nContent-Length: 99\r\n\r\n%b" % (status, problem.encode()))


def flood() -> Answer:
    """More than anybody takes who does not take the changes."""
    rows = (row(seq, f"r{seq}") for seq in range(1, 3000))
    return stays(HEAD + events(READY, UPTO, *rows))


async def marked(client: Client, proxy: Proxy) -> None:
    await until(lambda: client.inbox.rows)
    await client.read(["a"])
    await until(lambda: proxy.posts)


async def _begun(client: Client, proxy: Proxy) -> None:
    await until(lambda: proxy.streams)


Stage = Callable[[Client, Proxy], Awaitable[None]]
STATES: dict[str, tuple[Answer, Answer, Stage]] = {
    "a WebSocket that is not answered": (SILENT, LIVE, lambda client, proxy: until(lambda: proxy.seen)),
    "a stream that is not answered": (FORBIDDEN, SILENT, _begun),
    "half a head": (FORBIDDEN, stays(HEAD[:30]), _begun),
    "half a refusal": (FORBIDDEN, ends("{", 503), _begun),
    "a stream without ready": (FORBIDDEN, stays(HEAD + b"data: "), _begun),
    "a resume": (
        FORBIDDEN, stays(HEAD + events(READY, row(1, "a"))), lambda client, _: until(lambda: client.inbox.last),
    ),
    "live": (FORBIDDEN, LIVE, lambda client, _: until(lambda: client.state == "live")),
    "many changes that nobody takes": (
        FORBIDDEN, flood(), lambda client, _: until(lambda: len(client.inbox.rows) > 1023),
    ),
    "a mark under way": (FORBIDDEN, LIVE, marked),
}  # fmt: skip


async def closed(client: Client, task: asyncio.Task[None]) -> None:
    """In order, by another task."""
    await client.close()
    task.cancel()


async def cancelled(client: Client, task: asyncio.Task[None]) -> None:
    """As whatever has the client is."""
    task.cancel()


async def cancelled_while_it_closes(client: Client, task: asyncio.Task[None]) -> None:
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0)
    closing.cancel()
    with suppress(asyncio.CancelledError):
        await closing
    assert closing.cancelled()
    task.cancel()


@pytest.mark.parametrize("end", [closed, cancelled, cancelled_while_it_closes], ids=lambda end: end.__name__)
@pytest.mark.parametrize("state", STATES)
def test_nothing_stays_behind(
    state: str, end: Callable[..., Awaitable[None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    socket, stream, reached = STATES[state]
    monkeypatch.setattr("notifier_client.stream.CLOSING", 0.05)

    async def run(client: Client) -> None:
        async with client:
            await never()

    async def main() -> None:
        async with Proxy(socket, stream, SILENT) as proxy:
            client = proxy.client(silence=PATIENCE)
            before = asyncio.all_tasks()
            task = asyncio.create_task(run(client))
            await reached(client, proxy)
            await end(client, task)
            with suppress(asyncio.CancelledError):
                await task
            assert client.state == "idle"
            assert [one for one in asyncio.all_tasks() if "notifier_client" in repr(one)] == []
            await until(lambda: proxy.open == 0)
            # httpx leaves generators to asyncio, which ends each in a task of its own, one after the other.
            await until(lambda: asyncio.all_tasks() <= before)

    asyncio.run(main())


def test_close_while_the_token_is_waited_for_and_between_two_tries() -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE) as proxy:
            patient = Backoff(60, chance=lambda: 1.0)
            later = Client(f"ws://127.0.0.1:{proxy.port}/", never, backoff=patient, timing=Timing(0))
            for client, state in ((proxy.client(never), "connecting"), (later, "waiting")):
                before = asyncio.all_tasks()
                async with client:
                    await until(partial(lambda client, state: client.state == state, client, state))
                assert asyncio.all_tasks() == before

    asyncio.run(main())


def test_a_task_that_was_cancelled_before_can_close() -> None:
    async def main() -> None:
        async def goes_on() -> str:
            async with Proxy(FORBIDDEN, LIVE) as proxy, proxy.client() as client:
                try:
                    await never()
                except asyncio.CancelledError:
                    await client.close()
                return client.state

        task = asyncio.create_task(goes_on())
        await asyncio.sleep(0.05)
        task.cancel()
        assert await task == "idle"

    asyncio.run(main())


def test_it_begins_again_with_websockets_after_close() -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE) as proxy:
            client = proxy.client()
            for _ in range(2):
                async with client:
                    await until(lambda: client.state == "live")
            assert proxy.seen == [
                *["get /v1/websocket"] * 3, "get /v1/stream?after=0",
                *["get /v1/websocket"] * 3, "get /v1/stream?epoch=1.a&after=1",
            ]  # fmt: skip

    asyncio.run(main())


def test_a_stream_that_is_refused_for_good_stops_the_client() -> None:
    problem = b'{"type":"urn:problem-type:notifier:revoked-token","detail":"sign in again"}'
    head = b"HTTP/1.1 401 No\r\nContent-Length: %d\r\n\r\n" % len(problem)

    async def main() -> None:
        async with Proxy(FORBIDDEN, answers(head + problem)) as proxy, proxy.client() as client:
            with pytest.raises(Stopped) as stopped:
                async with asyncio.timeout(PATIENCE):
                    await anext(client)
            assert (stopped.value.code, stopped.value.reason) == (4509, "sign in again")

    asyncio.run(main())
