"""Provider tokens, on a clock of the test's own; Google's from a real HTTP server that fails in many ways."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any

import jwt as pyjwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.client import Agent
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from notifier.core.credentials import APNS_RENEWAL, ApnsKey, ServiceAccount, _AccountFile
from notifier.core.grant import GrantError, _Granted
from notifier.core.http2 import secret
from notifier.edge.provider_tokens import ANSWER_SECONDS, MAX_BYTES, ApnsTokens, FcmTokens, _Held
from notifier.edge.signing import es256, rs256
from tests.edge.fetched import logged, served
from tests.edge.http2.world import until

RUNNING: Any = installed
FETCHER = "notifier.edge.provider_tokens"
START = 1_795_335_933.0
P256 = ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)
SIGN_APPLE = es256(P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
SIGN_GOOGLE = rs256(RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
ACCOUNT = ServiceAccount("photos-1", "push@photos-1.iam.gserviceaccount.com", "k1", b"", "set by the bench")


# Apple -------------------------------------------------------------------------------------------------------


class Apple:
    """Provider tokens on a clock; every draw is 0.5, so they are renewed after 47.5 minutes."""

    def __init__(self) -> None:
        self.now = START
        self.tokens = ApnsTokens(
            ApnsKey("ABC123DEFG", "TEAM123456"), SIGN_APPLE, lambda: self.now, lambda: 0.5
        )

    def issued(self) -> float:
        claims = pyjwt.decode(
            self.tokens.token(), P256.public_key(), ["ES256"], options={"verify_iat": False}
        )
        assert claims["iss"] == "TEAM123456"
        return claims["iat"] - START  # type: ignore[no-any-return]


def test_apples_token_is_kept_for_47_and_a_half_minutes() -> None:
    apple = Apple()
    token = apple.tokens.token()
    assert pyjwt.get_unverified_header(token) == {"alg": "ES256", "kid": "ABC123DEFG"}
    apple.now += 2849
    assert apple.tokens.token() == token
    apple.now += 1
    assert apple.issued() == 2850
    assert apple.issued() == 2850


def test_a_clock_that_was_set_back_makes_another() -> None:
    apple = Apple()
    apple.issued()
    apple.now -= 1000
    assert apple.issued() == -1000


def test_a_token_that_was_good_is_not_made_anew_within_twenty_minutes() -> None:
    apple = Apple()
    token = apple.tokens.token()
    apple.tokens.accepted()
    apple.now += 1199
    assert not apple.tokens.refused(token)
    assert apple.tokens.token() == token
    apple.now += 1
    assert apple.tokens.refused(token)
    assert apple.issued() == 1200
    apple.now += 1
    assert not apple.tokens.refused(apple.tokens.token()), (
        "one for one that was refused, not one for each push"
    )
    assert apple.issued() == 1200
    apple.now += 1199
    assert apple.tokens.refused(apple.tokens.token())
    assert apple.issued() == 2400


def test_a_token_that_never_was_good_is_made_anew_at_once() -> None:
    apple = Apple()
    token = apple.tokens.token()
    apple.now += 5
    assert apple.tokens.refused(token)
    assert apple.issued() == 5


def test_an_old_token_that_is_refused_late_does_not_cost_the_new_one() -> None:
    apple = Apple()
    old = apple.tokens.token()
    apple.now += 3000
    new = apple.tokens.token()
    assert apple.tokens.refused(old)
    assert apple.tokens.token() == new


# Google ------------------------------------------------------------------------------------------------------


class Endpoint(Resource):
    """A token endpoint that checks what it is asked and answers as it is told."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.code = 200
        self.body: bytes | None = None
        self.date: Callable[[], str] = str
        self.hang = False
        self.cut = False
        self.assertions: list[dict[str, Any]] = []
        self.held: list[Any] = []

    def render_POST(self, request: Any) -> Any:
        self.asked += 1
        assert request.args[b"grant_type"] == [b"urn:ietf:params:oauth:grant-type:jwt-bearer"]
        options: Any = {"verify_exp": False, "verify_iat": False, "verify_aud": False}
        claims = pyjwt.decode(request.args[b"assertion"][0], RSA.public_key(), ["RS256"], options=options)
        self.assertions.append(claims)
        if self.hang:
            request.notifyFinish().addErrback(lambda _: None)
            self.held.append(request)
            return NOT_DONE_YET
        if self.cut:
            request.setHeader("content-length", "100")
            request.write(b'{"access_token":')
            request.transport.loseConnection()
            return NOT_DONE_YET
        request.setResponseCode(self.code)
        request.setHeader("date", self.date())
        if 300 <= self.code < 400:
            request.setHeader("location", "/elsewhere")
        return self.answer()

    def render_GET(self, request: Any) -> bytes:
        raise AssertionError("a redirect was followed")

    def answer(self) -> bytes:
        if self.body is not None:
            return self.body
        return json.dumps({"access_token": f"token-{self.asked}", "expires_in": 3600}).encode()

    def release(self) -> None:
        for request in self.held:
            request.write(self.answer())
            request.finish()
        self.held = []


class Bench:
    """Tokens and the endpoint that they come from; every draw is 0, so they are renewed after 50 minutes."""

    def __init__(self, endpoint: Endpoint, port: int) -> None:
        self.endpoint = endpoint
        self.clock = Clock()
        endpoint.date = lambda: format_datetime(
            datetime.fromtimestamp(START + self.clock.seconds(), UTC), usegmt=True
        )
        self.skew = 0.0
        account = msgspec.structs.replace(ACCOUNT, token_uri=f"http://127.0.0.1:{port}/token")
        self.account = account
        self.tokens = FcmTokens(self.clock, account, SIGN_GOOGLE, self.now, lambda: 0.0, Agent(RUNNING))

    def now(self) -> float:
        return START + self.skew + self.clock.seconds()

    def ask(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self.tokens.token())

    async def fault(self) -> GrantError:
        with pytest.raises(GrantError) as caught:
            await self.ask()
        return caught.value

    async def renewed(self, asked: int) -> None:
        await until(lambda: self.endpoint.asked == asked and self.tokens._running is None)


@asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    endpoint = Endpoint()
    async with served(endpoint) as port:
        made = Bench(endpoint, port)
        try:
            yield made
        finally:
            made.tokens.stop()
            endpoint.release()


async def test_a_token_is_fetched_once_and_kept() -> None:
    async with bench() as b:
        assert await b.ask() == "token-1"
        b.clock.advance(2999)
        assert await b.ask() == "token-1"
        assert b.endpoint.asked == 1
        assert b.tokens.fault() == ""
        (claims,) = b.endpoint.assertions
        assert claims == b.account.claims(START)


async def test_many_who_ask_at_once_make_one_request() -> None:
    async with bench() as b:
        b.endpoint.hang = True
        waiting = [b.ask() for _ in range(100)]
        waiting[0].addErrback(lambda _: "given up")
        await until(lambda: b.endpoint.asked == 1)
        waiting[0].cancel()
        b.endpoint.release()
        assert {await each for each in waiting[1:]} == {"token-1"}
        assert await waiting[0] == "given up"
        assert b.endpoint.asked == 1


async def test_while_it_is_renewed_the_old_one_is_given_out() -> None:
    async with bench() as b:
        await b.ask()
        b.clock.advance(3000)
        b.endpoint.hang = True
        assert [await b.ask() for _ in range(3)] == ["token-1"] * 3
        await until(lambda: b.endpoint.asked == 2)
        b.endpoint.release()
        await b.renewed(2)
        assert await b.ask() == "token-2"


async def test_an_old_token_outlives_an_outage_until_its_end() -> None:
    async with bench() as b:
        await b.ask()
        b.endpoint.code = 500
        b.clock.advance(3000)
        assert await b.ask() == "token-1"
        await b.renewed(2)
        assert await b.ask() == "token-1"
        assert b.endpoint.asked == 2, "it was asked again too soon"
        b.clock.advance(599)
        assert await b.ask() == "token-1"
        await b.renewed(3)
        b.clock.advance(2)
        assert (await b.fault()).fault == "later"
        b.endpoint.code = 200
        b.clock.advance(60)
        assert (await b.ask()).startswith("token-")


async def test_after_failures_it_waits_longer_and_longer() -> None:
    async with bench() as b:
        b.endpoint.code = 503
        for asked, seconds in enumerate((1, 2, 4, 8, 16, 32, 60, 60), start=1):
            assert str(await b.fault()) == "answered 503"
            assert b.endpoint.asked == asked
            b.clock.advance(seconds - 0.1)
            assert str(await b.fault()) == "answered 503"
            assert b.endpoint.asked == asked
            b.clock.advance(0.1)


BAD = [
    (500, b"", "later", "answered 500"),
    (302, b"", "unreadable", "answered 302"),
    (200, b"<html>", "unreadable", "something else"),
    (200, b"{}", "unreadable", "something else"),
    (200, b"x" * (MAX_BYTES + 1), "later", "more than 65536 bytes"),
    (400, b'{"error":"invalid_grant"}', "refused", "invalid_grant: the key was deleted"),
    (401, b'{"error":"invalid_client"}', "refused", "does not exist"),
]


@pytest.mark.parametrize(("code", "body", "fault", "said"), BAD)
async def test_a_bad_answer_is_told_once_and_mended(code: int, body: bytes, fault: str, said: str) -> None:
    async with bench() as b:
        b.endpoint.code, b.endpoint.body = code, body
        with logged(FETCHER) as events:
            error = await b.fault()
            assert error.fault == fault
            assert said in str(error)
            assert said in b.tokens.fault()
            b.clock.advance(60)
            assert said in str(await b.fault())
            b.endpoint.code, b.endpoint.body = 200, None
            b.clock.advance(120)
            assert await b.ask() == "token-3"
        assert [event["log_level"].name for event in events] == ["warn", "info"]
        assert b.tokens.fault() == ""


async def test_a_fault_that_lasts_is_told_every_ten_minutes() -> None:
    async with bench() as b:
        b.endpoint.code = 503
        with logged(FETCHER) as events:
            for _ in range(30):
                await b.fault()
                b.clock.advance(60)
        assert len(events) == 3
        assert b.endpoint.asked == 30


async def test_a_refusal_is_not_asked_for_again_within_a_minute() -> None:
    async with bench() as b:
        b.endpoint.code, b.endpoint.body = 400, b'{"error":"invalid_grant"}'
        await b.fault()
        b.clock.advance(59.9)
        assert (await b.fault()).fault == "refused"
        assert b.endpoint.asked == 1
        b.clock.advance(0.1)
        await b.fault()
        assert b.endpoint.asked == 2


async def test_a_clock_that_is_wrong_is_named() -> None:
    async with bench() as b:
        b.endpoint.code, b.endpoint.body = 400, b'{"error":"invalid_grant"}'
        b.skew = 7200.0
        assert "clock is 7200 s ahead" in str(await b.fault())
        b.skew = -7200.0
        b.clock.advance(60)
        assert "clock is 7200 s behind" in str(await b.fault())
        b.skew = -60.0
        b.clock.advance(60)
        assert str(await b.fault()).endswith("this machine's clock is wrong")


async def test_no_answer_is_waited_for_in_vain() -> None:
    async with bench() as b:
        b.endpoint.hang = True
        asking = b.ask()
        asking.addErrback(lambda failure: failure.value)
        await until(lambda: b.endpoint.asked == 1)
        b.clock.advance(ANSWER_SECONDS)
        error: Any = await asking
        assert isinstance(error, GrantError)
        assert (error.fault, str(error)) == ("later", "no whole answer within 10 s")


async def test_an_answer_that_breaks_off_is_none() -> None:
    async with bench() as b:
        b.endpoint.cut = True
        assert str(await b.fault()) == "the connection was lost before the end"
        b.endpoint.cut = False
        b.clock.advance(1)
        assert await b.ask() == "token-2"


async def test_nobody_there() -> None:
    async with bench() as b:
        listener = RUNNING.listenTCP(0, Site(Endpoint()), interface="127.0.0.1")
        port = listener.getHost().port
        await listener.stopListening()
        account = msgspec.structs.replace(ACCOUNT, token_uri=f"http://127.0.0.1:{port}/token")
        b.tokens = FcmTokens(b.clock, account, SIGN_GOOGLE, b.now, lambda: 0.0, Agent(RUNNING))
        error = await b.fault()
        assert error.fault == "later"
        assert "refused" in str(error)


async def test_a_token_that_fcm_refuses_is_replaced_but_not_every_time() -> None:
    async with bench() as b:
        token = await b.ask()
        assert not b.tokens.refused(token)
        assert await b.ask() == "token-1"
        b.clock.advance(60)
        assert b.tokens.refused(token)
        assert await b.ask() == "token-2"
        assert b.tokens.refused(token), "that one has long been replaced"
        assert await b.ask() == "token-2"
        assert b.endpoint.asked == 2


async def test_who_waits_when_it_stops_hears_of_it() -> None:
    async with bench() as b:
        b.endpoint.hang = True
        asking = b.ask()
        asking.addErrback(lambda failure: failure.value)
        await until(lambda: b.endpoint.asked == 1)
        b.tokens.stop()
        assert isinstance(await asking, GrantError)


def test_no_assertion_goes_where_anybody_could_read_it() -> None:
    for url in ("http://oauth2.googleapis.com/token", "ftp://127.0.0.1/", "token"):
        account = msgspec.structs.replace(ACCOUNT, token_uri=url)
        with pytest.raises(ValueError, match="must be https"):
            FcmTokens(Clock(), account, SIGN_GOOGLE, lambda: START, lambda: 0.0)


async def test_no_token_and_no_assertion_is_logged() -> None:
    async with bench() as b:
        with logged(FETCHER) as events:
            b.endpoint.body = b'{"access_token":"canary token","expires_in":3600}'
            await b.fault()
            b.endpoint.body = None
            b.clock.advance(10)
            await b.ask()
        assert len(events) == 2
        for event in events:
            assert "canary" not in repr(event)
            assert "eyJ" not in repr(event)


def test_no_secret_is_in_what_a_debugger_would_show() -> None:
    shown = [
        repr(_Held("eyJ5ecret", 0.0, 0.5, APNS_RENEWAL)),
        repr(_Granted("5ecret")),
        repr(_AccountFile("service_account", "p", "e", "5ecret")),
        repr(secret(b"authorization", b"bearer 5ecret", indexed=True)),
    ]
    assert not [each for each in shown if "5ecret" in each]
