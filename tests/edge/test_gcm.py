"""A gateway that speaks the JSON of GCM, over HTTP/1.1: what it is sent, and what its answers come to."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from notifier.core.credentials import CredentialError
from notifier.edge import gcm, handshake
from notifier.edge.gcm import Gcm, check_gateway
from notifier.ports import PushRequest
from tests.edge.http2.world import PAPERS, reactor, trust, until
from tests.edge.provider_world import android, kinds, no_canaries_logged, push, requests

PHONES = [android(number) for number in range(6)]
KEY = "5ecret-server-key"


class Gateway(Resource):
    """Answers each token as `says` has it, `delivered` to the others."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.says: dict[str, dict[str, str]] = {}
        self.asked: list[dict[str, Any]] = []
        self.keys: set[str] = set()
        self.status, self.body, self.fields = 200, b"", dict[str, str]()
        self.hang = self.cut = False
        self.held: list[Any] = []

    def render_POST(self, request: Any) -> Any:
        asked = json.loads(request.content.read())
        self.asked.append(asked)
        self.keys.add(request.getHeader("authorization"))
        if self.hang:
            request.notifyFinish().addErrback(lambda _: None)
            self.held.append(request)
            return NOT_DONE_YET
        if self.cut:
            request.transport.abortConnection()
            return NOT_DONE_YET
        request.setResponseCode(self.status)
        for name, value in self.fields.items():
            request.setHeader(name, value)
        tokens = asked.get("registration_ids") or [asked["to"]]
        results = [self.says.get(token, {"message_id": "0:1"}) for token in tokens]
        return self.body or json.dumps({"multicast_id": 1, "results": results}).encode()


@asynccontextmanager
async def gateway() -> AsyncIterator[tuple[Gateway, Gcm]]:
    there = Gateway()
    port = reactor.listenTCP(0, Site(there), interface="127.0.0.1")
    ours = Gcm(
        reactor, "photos", f"http://127.0.0.1:{port.getHost().port}/send", KEY, lambda: 1_795_000_000.0
    )
    with no_canaries_logged():
        try:
            yield there, ours
        finally:
            await ours.stop()
            await port.stopListening()


def asked(phones: list[str] = PHONES, nid: str = "n1") -> list[PushRequest]:
    return requests(phones, nid, provider="fcm")


async def test_devices_of_one_push_share_a_request() -> None:
    async with gateway() as (there, ours):
        outcomes = await ours.send([*asked(), *asked(PHONES[:2], "n2"), *asked(PHONES[:1], "n3")])
        assert kinds(outcomes) == ["delivered 200"] * 9
        assert sorted(len(each.get("registration_ids", [each.get("to")])) for each in there.asked) == [
            1,
            2,
            6,
        ]
        assert there.keys == {f"key={KEY}"}
        names = {len(each.get("registration_ids", [0])): each["data"]["nid"] for each in there.asked}
        assert names == {6: "n1", 2: "n2", 1: "n3"}  # in any order: they are on their way at once


async def test_each_token_has_its_own_outcome_in_order() -> None:
    async with gateway() as (there, ours):
        there.says = {
            PHONES[1]: {"error": "NotRegistered"},
            PHONES[2]: {"message_id": "0:2", "registration_id": "new-token"},
            PHONES[3]: {"error": "Unavailable"},
            PHONES[4]: {"error": "NobodyKnows"},
        }
        outcomes = await ours.send(asked())
        assert kinds(outcomes) == [
            "delivered 200", "drop_token 200 NotRegistered", "delivered 200", "retry 200 Unavailable",
            "drop_message 200 NobodyKnows", "delivered 200",
        ]  # fmt: skip
        assert outcomes[2].replacement_token == "new-token"


@pytest.mark.parametrize(
    ("status", "fields", "outcome"),
    [
        (401, {}, "config_error 401"),
        (400, {}, "drop_message 400"),
        (404, {}, "config_error 404"),
        (503, {"retry-after": "7"}, "retry 503"),
        (302, {"location": "http://127.0.0.1:1/"}, "config_error 302"),
    ],
)
async def test_what_holds_for_all(status: int, fields: dict[str, str], outcome: str) -> None:
    async with gateway() as (there, ours):
        there.status, there.fields = status, fields
        outcomes = await ours.send(asked())
        assert kinds(outcomes) == [outcome] * 6
        assert outcomes[0].retry_after == (7 if "retry-after" in fields else None)
        assert len(there.asked) == 1, "no redirect is followed"


async def test_what_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gcm, "ANSWER_SECONDS", 0.3)
    async with gateway() as (there, ours):
        there.body = b"<html>"
        assert kinds(await ours.send(asked()))[0] == "unknown 200 unreadable"
        there.body = b"x" * 70_000
        assert kinds(await ours.send(asked()))[0] == "unknown 0 garbled"
        there.body, there.cut = b"", True
        assert kinds(await ours.send(asked()))[0] == "unknown 0 lost"
        there.cut, there.hang = False, True
        assert kinds(await ours.send(asked()))[0] == "unknown 0 timeout"


async def test_a_gateway_that_hangs_is_asked_eight_things_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gcm, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(gcm, "FRESH", 0.3)
    async with gateway() as (there, ours):
        there.hang = True
        many = [one for number in range(20) for one in asked(PHONES[:1], f"n{number}")]
        sending = Deferred.fromCoroutine(ours.send(many))
        await until(lambda: len(there.asked) == 8)
        outcomes = await sending
        assert sorted(kinds(outcomes)) == ["reconnect_retry 0 waited"] * 12 + ["unknown 0 timeout"] * 8
        assert len(there.asked) == 8


async def test_nobody_listens() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ours = Gcm(reactor, "photos", f"http://127.0.0.1:{port}/", KEY, lambda: 0.0)
    assert kinds(await ours.send(asked(PHONES[:2]))) == ["reconnect_retry 0 unreachable"] * 2
    elsewhere = Gcm(reactor, "photos", "https://push.invalid/send", KEY, lambda: 0.0)
    assert kinds(await elsewhere.send(asked(PHONES[:2]))) == ["reconnect_retry 0 unreachable"] * 2


class Breaks(Protocol):
    """A gateway that reads a whole request, and then puts into the line what is not TLS, or cuts it."""

    transport: Any

    def __init__(self, read: list[bytes], last: bytes) -> None:
        self.read, self.last = read, last

    def dataReceived(self, data: bytes) -> None:
        self.read.append(data)
        if b"5ecret-000000" in b"".join(self.read):
            if self.last:
                self.transport.transport.write(self.last)
            else:
                self.transport.abortConnection()


LASTS = {
    "garbage": b"\x17\x03\x03\x00\x20" + bytes(32),
    "alert": b"\x15\x03\x03\x00\x02\x02\x50",
    "cut": b"",
}


@pytest.mark.parametrize("how", LASTS)
async def test_a_line_that_breaks_when_all_may_have_been_read(how: str) -> None:
    read: list[bytes] = []
    port = reactor.listenSSL(
        0, Factory.forProtocol(lambda: Breaks(read, LASTS[how])), PAPERS.options(), interface="127.0.0.1"
    )
    url = f"https://localhost:{port.getHost().port}/send"
    ours = Gcm(reactor, "photos", url, KEY, lambda: 0.0, trust())
    try:
        assert kinds(await ours.send(asked(PHONES[:1]))) == ["unknown 0 lost"]
        assert read
    finally:
        await ours.stop()
        await port.stopListening()


@pytest.mark.parametrize("fault", ["stranger", "no TLS", "silent"])
async def test_a_handshake_that_fails_has_carried_nothing(
    fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handshake.HandshakeEndpoint.__init__, "__defaults__", (0.2,))
    read: list[bytes] = []

    class Talks(Protocol):
        transport: Any

        def dataReceived(self, data: bytes) -> None:
            read.append(data)
            if fault == "no TLS":
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    factory = Factory.forProtocol(Talks)
    if fault == "stranger":
        port = reactor.listenSSL(0, factory, PAPERS.options(), interface="127.0.0.1")
    else:
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
    url = f"https://localhost:{port.getHost().port}/send"
    ours = Gcm(reactor, "photos", url, KEY, lambda: 0.0, None if fault == "stranger" else trust())
    try:
        assert kinds(await ours.send(asked(PHONES[:1]))) == ["reconnect_retry 0 unreachable"]
        assert not any(b"5ecret" in data for data in read)
    finally:
        await ours.stop()
        await port.stopListening()


async def test_what_cannot_be_made_to_fit_is_not_sent() -> None:
    async with gateway() as (there, ours):
        said = msgspec.structs.replace(push(), data={"nid": "x" * 5_000})
        (one,) = asked(PHONES[:1])
        outcomes = await ours.send([PushRequest(one.delivery, said)])
        assert kinds(outcomes) == ["drop_message 0 unreadable"]
        assert not there.asked


@pytest.mark.parametrize(
    "url", ["http://example.com/", "ftp://a/", "https://u:p@a/", "https:///x", "https://[", ""]
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(CredentialError):
        check_gateway(url)
