"""Key sets from a real HTTP server, on a clock of the test's own."""

# mypy: allow-untyped-calls

from __future__ import annotations

import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import Clock, deferLater
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from notifier.core.tokens import Key, TokenError, Verifier
from notifier.edge.jwks import ANSWER_SECONDS, FRESH_SECONDS, MAX_BYTES, RETRY_SECONDS, Keys
from notifier.edge.keyring import public_check
from tests.edge.fetched import logged, served
from tests.edge.http2.world import until

RUNNING: Any = installed
FETCHER = "notifier.edge.jwks"
SIGNERS = {kid: Ed25519PrivateKey.generate() for kid in ("own", "a", "b")}
STRANGER = Ed25519PrivateKey.generate()


def key_set(*kids: str, **members: Any) -> bytes:
    """A JWKS of our public keys; `own` in it is a stranger's."""
    return json.dumps({"keys": [_jwk(kid) for kid in kids], **members}).encode()


def _jwk(kid: str) -> dict[str, str]:
    signer = STRANGER if kid == "own" else SIGNERS[kid]
    raw = signer.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "kid": kid,
        "x": base64.urlsafe_b64encode(raw).rstrip(b"=").decode(),
    }


class Source(Resource):
    """A server of one key set, which counts, and answers as it is told."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.body = key_set("a")
        self.code = 200
        self.hang: bytes | None = None  # send this much and no more
        self.open = 0
        self.headers: dict[str, list[str]] = {}

    def render_GET(self, request: Any) -> Any:
        self.asked += 1
        self.headers = {
            name.decode().lower(): [value.decode() for value in values]
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        if request.path == b"/elsewhere":
            return key_set("b")
        request.setResponseCode(self.code)
        if 300 <= self.code < 400:
            request.setHeader("location", "/elsewhere")
        if self.hang is None:
            return self.body
        self.open += 1
        request.notifyFinish().addErrback(self._gone)
        if self.hang:
            request.write(self.hang)
        return NOT_DONE_YET

    def _gone(self, _: object) -> None:
        self.open -= 1


class Bench:
    """A verifier with one configured key, its keys, and the server they come from."""

    def __init__(self, source: Source, port: int) -> None:
        self.source = source
        self.clock = Clock()
        self.clock.advance(time.time())
        own = Key("own", "EdDSA", public_check("EdDSA", SIGNERS["own"].public_key()))
        self.verifier = Verifier([own], "notifier", None, 86_400, 0)
        url = f"http://127.0.0.1:{port}/jwks.json"
        self.keys = Keys(self.clock, self.verifier, [own], url, Agent(RUNNING))

    def good(self, kid: str, signer: Ed25519PrivateKey | None = None) -> bool:
        """Is a token of this key accepted?"""
        now = int(self.clock.seconds())
        claims = {"sub": "ana", "aud": "notifier", "iat": now, "exp": now + 60}
        token = jwt.encode(claims, signer or SIGNERS[kid], "EdDSA", headers={"kid": kid})
        try:
            self.verifier.verify(token, now)
        except TokenError as error:
            assert error.reason in ("unknown_key", "signature")
            return False
        return True

    async def later(self, seconds: float) -> None:
        """Let time pass, and what begins then come to its end."""
        self.clock.advance(seconds)
        await self.settled()

    async def settled(self) -> None:
        await until(lambda: self.keys._running is None)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    source = Source()
    async with served(source) as port:
        made = Bench(source, port)
        try:
            yield made
        finally:
            made.keys.stop()


def levels(events: list[dict[str, Any]]) -> list[str]:
    return [event["log_level"].name for event in events]


async def test_fetched_keys_stand_beside_the_configured_ones() -> None:
    async with bench() as b:
        assert (b.good("own"), b.good("a")) == (True, False)
        assert b.keys.part() == (False, "not fetched yet")
        await b.keys.start()
        assert (b.good("own"), b.good("a"), b.good("b")) == (True, True, False)
        assert b.keys.part() == (True, "1 fetched, 0 s old")
        assert b.source.headers["accept"] == ["application/json"]


async def test_keys_are_fetched_again_every_ten_minutes() -> None:
    async with bench() as b:
        await b.keys.start()
        b.source.body = key_set("b")
        await b.later(FRESH_SECONDS - 1)
        assert (b.source.asked, b.good("a")) == (1, True)
        await b.later(1)
        assert (b.source.asked, b.good("a"), b.good("b")) == (2, False, True)
        await b.later(FRESH_SECONDS)
        assert b.source.asked == 3


async def test_what_the_set_no_longer_holds_is_void_and_nothing_else() -> None:
    async with bench() as b:
        gone: list[str] = []
        b.verifier.voided = lambda keys: gone.extend(key.kid for key in keys)
        b.source.body = key_set("a", "b")
        await b.keys.start()
        await b.later(FRESH_SECONDS)
        b.source.code = 500
        await b.later(FRESH_SECONDS)
        assert (b.source.asked, gone) == (3, [])
        b.source.code, b.source.body = 200, key_set("b")
        await b.later(RETRY_SECONDS)
        assert (b.source.asked, gone) == (4, ["a"])


async def test_an_unknown_kid_fetches_at_most_once_a_minute() -> None:
    async with bench() as b:
        await b.keys.start()
        b.source.body = key_set("a", "b")
        assert not b.good("b")
        await b.settled()
        assert (b.source.asked, b.good("b")) == (1, False)
        await b.later(60)
        assert not b.good("b")  # this one asks; the next that comes will be known
        await b.settled()
        assert (b.source.asked, b.good("b")) == (2, True)
        for _ in range(100):
            b.verifier.unknown()
            await b.later(0.5)
        assert b.source.asked == 2
        await b.later(10)
        b.verifier.unknown()
        b.verifier.unknown()
        await b.settled()
        assert b.source.asked == 3


async def test_only_an_unknown_kid_fetches() -> None:
    async with bench() as b:
        await b.keys.start()
        await b.later(61)
        assert not b.good("a", STRANGER)
        with pytest.raises(TokenError):
            b.verifier.verify("nonsense", b.clock.seconds())
        await b.settled()
        assert b.source.asked == 1


async def test_a_fetch_for_an_unknown_kid_puts_the_next_one_off() -> None:
    async with bench() as b:
        await b.keys.start()
        await b.later(FRESH_SECONDS - 10)
        b.verifier.unknown()
        await b.settled()
        await b.later(FRESH_SECONDS - 1)
        assert b.source.asked == 2
        await b.later(1)
        assert b.source.asked == 3


BAD: list[tuple[int, bytes, str]] = [
    (500, b"x", "answered 500, expected 200"),
    (404, key_set("b"), "answered 404, expected 200"),
    (302, key_set("b"), "answered 302, expected 200"),
    (301, key_set("b"), "answered 301, expected 200"),
    (200, b"<html>", "is not a JWK Set"),
    (200, b"", "is not a JWK Set"),
    (200, b'{"keys": []}', "has no key to verify"),
    (200, key_set("b", "b"), "has the kid of a key in"),
    (200, json.dumps({"keys": [{"kty": "oct", "kid": "b", "k": "aaaa"}]}).encode(), "is a secret"),
    (200, key_set("b", padding="x" * MAX_BYTES), f"answered more than {MAX_BYTES} bytes"),
]


@pytest.mark.parametrize(("code", "body", "fault"), BAD)
async def test_a_bad_answer_changes_nothing_and_is_told(code: int, body: bytes, fault: str) -> None:
    async with bench() as b:
        await b.keys.start()
        b.source.code, b.source.body = code, body
        with logged(FETCHER) as events:
            await b.later(FRESH_SECONDS)
        assert (b.source.asked, b.good("own"), b.good("a"), b.good("b")) == (2, True, True, False)
        assert levels(events) == ["warn"]
        assert fault in events[0]["fault"]
        working, told = b.keys.part()
        assert working
        assert told.startswith("1 fetched, 600 s old: ")
        assert fault in told


async def test_a_set_of_the_largest_size_is_taken() -> None:
    async with bench() as b:
        padding = MAX_BYTES - len(key_set("b", padding=""))
        b.source.body = key_set("b", padding="x" * padding)
        assert len(b.source.body) == MAX_BYTES
        await b.keys.start()
        assert b.good("b")


async def test_the_first_failure_leaves_the_configured_keys() -> None:
    async with bench() as b:
        b.source.code = 503
        with logged(FETCHER) as events:
            await b.keys.start()
        assert (b.good("own"), b.good("a")) == (True, False)
        assert b.keys.part() == (False, "answered 503, expected 200")
        assert (levels(events), events[0]["count"]) == (["warn"], 0)


async def test_failures_are_tried_again_soon_and_warned_of_rarely() -> None:
    async with bench() as b:
        b.source.code = 503
        tries = []
        with logged(FETCHER) as events:
            await b.keys.start()
            began = b.clock.seconds()
            for second in range(1, 700):
                asked = b.source.asked
                await b.later(1)
                if b.source.asked > asked:
                    tries.append(second)
            assert tries[:7] == [1, 3, 7, 15, 31, 63, 123]
            assert tries[7:9] == [183, 243]
            assert levels(events) == ["warn", "warn"]
            assert b.clock.seconds() - began == pytest.approx(699)
            b.source.code = 200
            await b.later(60)
            assert (levels(events), b.good("a")) == (["warn", "warn", "info"], True)
            assert b.keys.part() == (True, "1 fetched, 0 s old")


@pytest.mark.parametrize("sent", [b"", b'{"keys": ['])
async def test_a_server_that_hangs_is_left_after_ten_seconds(sent: bytes) -> None:
    async with bench() as b:
        b.source.hang = sent
        started: Deferred[None] = b.keys.start()
        await until(lambda: b.source.open == 1)
        if sent:
            await deferLater(RUNNING, 0.1)
        b.clock.advance(ANSWER_SECONDS - 0.01)
        assert not started.called
        b.clock.advance(0.01)
        await started
        assert b.keys.part() == (False, "no whole answer within 10 s")
        await until(lambda: b.source.open == 0)
        b.source.hang = None
        await b.later(1)
        assert b.good("a")


class Fixed(Protocol):
    """Answers anything with bytes, and hangs up."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer

    def dataReceived(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(self.answer)
        transport.loseConnection()


CUT = [
    (b"HTTP/1.0 200 OK\r\n\r\n" + key_set("a"), ""),
    (b"HTTP/1.0 200 OK\r\n\r\n" + key_set("a")[:-9], "is not a JWK Set"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n" + key_set("a"), "lost before the end"),
    (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\n" + key_set("a"), "lost before the end"),
    (b"HTTP/1.1 200 OK\r\n", "connection"),
    (b"", "connection"),
]


@pytest.mark.parametrize(("answer", "fault"), CUT)
async def test_a_connection_that_ends_early_gives_no_keys(answer: bytes, fault: str) -> None:
    async with bench() as b:
        factory: Any = Factory.forProtocol(lambda: Fixed(answer))
        listener = RUNNING.listenTCP(0, factory, interface="127.0.0.1")
        keys = Keys(b.clock, b.verifier, [], f"http://127.0.0.1:{listener.getHost().port}/", Agent(RUNNING))
        await keys.start()
        working, told = keys.part()
        keys.stop()
        await listener.stopListening()
        assert working == b.good("a") == (not fault)
        assert fault in told.lower() if fault == "connection" else fault in told


async def test_nobody_there() -> None:
    async with bench() as b:
        keys = Keys(b.clock, b.verifier, [], "http://127.0.0.1:1/", Agent(RUNNING))
        await keys.start()
        working, told = keys.part()
        keys.stop()
        assert not working
        assert "refused" in told


async def test_a_configured_key_is_never_replaced_from_outside() -> None:
    async with bench() as b:
        b.source.body = key_set("own", "a")
        await b.keys.start()
        assert (b.good("own"), b.good("own", STRANGER), b.good("a")) == (True, False, True)
        assert b.keys.part() == (
            True,
            "1 fetched, 0 s old: left out, for their kid is that of a configured key: own",
        )


async def test_after_stop_nothing_is_fetched() -> None:
    async with bench() as b:
        await b.keys.start()
        b.keys.stop()
        await b.later(2 * FRESH_SECONDS)
        assert not b.good("b")
        await b.settled()
        assert (b.source.asked, b.good("a"), b.clock.getDelayedCalls()) == (1, True, [])


async def test_a_stop_in_the_middle_ends_the_fetch() -> None:
    async with bench() as b:
        b.source.hang = b""
        with logged(FETCHER) as events:
            started = b.keys.start()
            await until(lambda: b.source.open == 1)
            b.keys.stop()
            await started
            await until(lambda: b.source.open == 0)
        assert (events, b.clock.getDelayedCalls()) == ([], [])


@pytest.mark.parametrize(
    "url",
    [
        "http://accounts.example.com/jwks.json", "http://10.0.0.5/", "ftp://127.0.0.1/", "/jwks.json", "",
        "http://localhost.evil.example/", "http://localhost@evil.example/",
    ],
)  # fmt: skip
def test_a_url_that_anybody_on_the_way_could_answer_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be https://"):
        Keys(Clock(), Verifier([], "notifier", None, 60, 0), [], url, Agent(Clock()))


@pytest.mark.parametrize(
    "url", ["https://accounts.example.com/jwks.json", "http://[::1]:8/", "http://localhost/"]
)
def test_a_url_that_is_safe_is_taken(url: str) -> None:
    Keys(Clock(), Verifier([], "notifier", None, 60, 0), [], url, Agent(Clock()))
