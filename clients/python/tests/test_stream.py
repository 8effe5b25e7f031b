"""The fallback to event streams: what proxies do to it, and that nothing stays behind when the client goes."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.utils import formatdate
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


async def taken(client: Client) -> None:
    async for _ in client:
        pass


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

    def client(
        self,
        token: Callable[[], Awaitable[str | None]] | None = None,
        backoff: Backoff | None = None,
        **timing: float,
    ) -> Client:
        async def ours() -> str:
            return "a.b.c"

        times = {"answer": 5.0, "ack": 0.01, **timing}
        url, api = f"ws://127.0.0.1:{self.port}/v1/websocket", f"http://127.0.0.1:{self.port}/"
        waits = backoff or Backoff(0.001, 0.002)
        return Client(url, token or ours, api=api, backoff=waits, timing=Timing(**times))


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


def busy(*lines: str) -> Answer:
    head = "".join(f"{line}\r\n" for line in lines)
    return answers(f"HTTP/1.1 503 Service Unavailable\r\n{head}Content-Length: 4\r\n\r\nbusy".encode())


def test_a_mark_that_does_not_get_through_is_made_again_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "notifier_client")

    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE, busy()) as proxy, proxy.client() as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: len(proxy.posts) > 2)
            proxy.mark = answers(EMPTY)
            before = len(proxy.posts)
            await until(lambda: len(proxy.posts) > before)
            after = len(proxy.posts)
            await asyncio.sleep(0.1)
            assert proxy.posts == [{"ids": ["a"]}] * after
            assert proxy.streams == 1
        assert "a mark did not get through: 503 busy" in caplog.text

    asyncio.run(main())


LATER = formatdate(time.time() + 86_400, usegmt=True)
PAST = formatdate(time.time() - 60, usegmt=True)


@pytest.mark.parametrize("said", ["3600", LATER, "9" * 400])
def test_the_time_that_is_named_for_a_mark_is_kept(said: str) -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE, busy(f"Retry-After: {said}")) as proxy, proxy.client() as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: proxy.posts)
            await client.seen()
            await asyncio.sleep(0.1)
            assert proxy.posts == [{"ids": ["a"]}]

    asyncio.run(main())


@pytest.mark.parametrize("said", ["0", PAST, "soon", "-1", ""])
def test_a_time_that_is_none_keeps_no_mark_waiting(said: str) -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE, busy(f"Retry-After: {said}")) as proxy, proxy.client() as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: len(proxy.posts) > 1)

    asyncio.run(main())


def test_what_must_wait_does_not_keep_the_client_from_closing() -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE, busy("Retry-After: 60")) as proxy:
            client = proxy.client()
            for posted in (1, 2):  # the second time after a resume
                async with client:
                    await until(lambda: client.inbox.rows)
                    if posted == 1:
                        await client.read(["a"])
                    await until(partial(lambda posted: len(proxy.posts) == posted, posted))
                    await asyncio.sleep(0.05)
                    end = time.monotonic()
                assert time.monotonic() - end < 1

    asyncio.run(main())


def test_a_mark_that_nobody_answers_is_made_again() -> None:
    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE, SILENT) as proxy, proxy.client(answer=0.3) as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: len(proxy.posts) > 1)
            assert proxy.streams == 1

    asyncio.run(main())


def test_what_waits_is_no_more_than_the_inbox_holds() -> None:
    """Rows come, are read and go, again and again, while no mark gets through."""
    rounds = 200

    async def main() -> None:
        async def churn(reader: Reader, writer: Writer) -> None:
            writer.write(HEAD + events(READY, UPTO))
            for number in range(1, rounds + 1):
                writer.write(events({**row(number, f"r{number}"), "floor": max(0, number - 3)}))
                await until(lambda number=number: f"r{number}" in client.inbox.rows)
                await client.read([f"r{number}"])
                await client.seen()
            await reader.read()

        patient = Backoff(0.2, 0.2, chance=lambda: 1.0)
        async with Proxy(FORBIDDEN, churn, busy()) as proxy:
            client = proxy.client(backoff=patient)
            async with client:
                taking = asyncio.create_task(taken(client))
                await until(lambda: f"r{rounds}" in client.inbox.rows)
                proxy.mark, before = answers(EMPTY), len(proxy.posts)
                await until(lambda: len(proxy.posts) >= before + 2)
                last = [f"r{number}" for number in range(rounds - 2, rounds + 1)]
                assert {"ids": last} in proxy.posts[before:]
                assert proxy.posts[-1] == {"epoch": "1.a", "seq": rounds}
                assert all(len(post.get("ids", ())) <= 3 for post in proxy.posts)
                assert before < 2 * rounds / 4
                taking.cancel()

    asyncio.run(main())


def test_a_mark_that_is_refused_for_good_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    problem = b'{"type":"urn:problem-type:notifier:invalid-request","detail":"no"}'
    refused = answers(b"HTTP/1.1 400 No\r\nContent-Length: %d\r\n\r\n%b" % (len(problem), problem))

    async def main() -> None:
        async with Proxy(FORBIDDEN, LIVE, refused) as proxy, proxy.client() as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: "a mark was refused: 400" in caplog.text)
            await asyncio.sleep(0.1)
            assert proxy.posts == [{"ids": ["a"]}]

    asyncio.run(main())
    (record,) = (one for one in caplog.records if one.name == "notifier_client")
    assert record.levelno == logging.WARNING


def test_a_mark_that_did_not_get_through_is_made_again_after_the_next_resume(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "notifier_client")

    async def main() -> None:
        refused = busy("Retry-After: 60")
        over = asyncio.Event()

        async def first(reader: Reader, writer: Writer) -> None:
            writer.write(HEAD + events(READY, UPTO, row(1, "a")))
            await over.wait()

        async with Proxy(FORBIDDEN, first, refused) as proxy, proxy.client() as client:
            await until(lambda: client.inbox.rows)
            await client.read(["a"])
            await until(lambda: "a mark did not get through" in caplog.text)
            proxy.stream = stays(HEAD + events({**READY, "seq": 1}, {**UPTO, "seq": 1}))
            over.set()
            await until(lambda: len(proxy.posts) == 2)
            assert proxy.posts == [{"ids": ["a"]}] * 2
            proxy.mark = answers(EMPTY)

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


async def waited(client: Client, proxy: Proxy) -> None:
    proxy.mark = busy("Retry-After: 60")
    await marked(client, proxy)


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
    "a mark that waits": (FORBIDDEN, LIVE, waited),
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
    monkeypatch.setattr("notifier_client.posts.CLOSING", 0.05)

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


@pytest.mark.parametrize("status", [b"401 Unauthorized", b"403 Forbidden"])
@pytest.mark.parametrize("said", [b"<h1>Sign in to this network</h1>", b'{"type":"about:blank"}', b"null"])
def test_what_a_proxy_refuses_is_not_refused_for_good(status: bytes, said: bytes) -> None:
    refused = answers(b"HTTP/1.1 %b\r\nContent-Length: %d\r\n\r\n%b" % (status, len(said), said))

    async def main() -> None:
        async with Proxy(FORBIDDEN, refused) as proxy, proxy.client() as client:
            await until(lambda: proxy.streams >= 2)
            proxy.stream = LIVE  # the person has signed in there
            await until(lambda: client.state == "live")

    asyncio.run(main())


@pytest.mark.parametrize("status", [b"200 OK\r\nContent-Type: text/event-stream", b"403 Forbidden"])
def test_what_never_ends_fills_no_memory(status: bytes) -> None:
    async def endless(reader: Reader, writer: Writer) -> None:
        writer.write(b"HTTP/1.1 " + status + b"\r\n\r\n" + events(READY) * 2 + b"data: ")
        for _ in range(2_000):  # 200 MB, if anybody takes them
            writer.write(b"x" * 100_000)
            await writer.drain()
        taken.append(True)

    async def main() -> None:
        async with Proxy(FORBIDDEN, endless) as proxy, proxy.client():
            await until(lambda: proxy.streams >= 2)

    taken: list[bool] = []
    asyncio.run(main())
    assert taken == []


def test_a_long_message_arrives_whole() -> None:
    """Nearly as long as one may be, after others that are longer in all."""
    long = {**row(2, "b"), "text": "x" * 1_000_000}
    many = events(
        READY, *[{**row(1, "a"), "text": "y" * 1_000} for _ in range(2_000)], long, {**UPTO, "seq": 2}
    )

    async def main() -> None:
        async with Proxy(FORBIDDEN, stays(HEAD + many)) as proxy, proxy.client() as client:
            taking = asyncio.create_task(taken(client))
            await until(lambda: client.state == "live")
            assert len(client.inbox.rows["b"].text or "") == 1_000_000
            taking.cancel()

    asyncio.run(main())
