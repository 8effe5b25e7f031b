"""The API over real sockets and a real Valkey, with tokens that a real Ed25519 key has signed."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.logger import globalLogPublisher

from notifier.config import Api, Config
from notifier.config import Inbox as InboxSettings
from notifier.core import intake, keys
from notifier.core.backlog import Backlog
from notifier.core.inbox import Page, Place
from notifier.core.intake import Intake
from notifier.core.tokens import REASONS, Key, Verifier
from notifier.edge.api import KINDS, api_site, cursor_of, cursor_place, pointer
from notifier.edge.bus import RedisBus
from notifier.edge.http import LINGER_SECONDS
from notifier.edge.keyring import public_check
from notifier.edge.push_store import PushGifts
from notifier.edge.redis import Address, Connection, ReplyError, Subscription
from notifier.edge.store import RedisInbox, RedisLog, Rules, Scripts
from notifier.metrics import Metrics
from notifier.pipeline import Fanout
from tests import reactor
from tests.servers import Valkey

KEY = Ed25519PrivateKey.generate()
OTHER_KEY = Ed25519PrivateKey.generate()
PAGE = "https://app.example"
ANA = "ana"


def token(user: str = ANA, signed_by: Ed25519PrivateKey = KEY, **claims: Any) -> str:
    now = int(time.time())
    claims = {"sub": user, "aud": "notifier", "iat": now - 1, "exp": now + 600} | claims
    return jwt.encode(claims, signed_by, "EdDSA", headers={"kid": "k"})


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def problem(self) -> str:
        """The kind of a problem document, after a look at the document."""
        assert self.headers["content-type"] == "application/problem+json"
        found = self.json
        assert found["status"] == self.status
        kind = str(found["type"].removeprefix("urn:problem-type:notifier:"))
        assert (found["status"], found["title"]) == KINDS[kind]
        assert found["detail"]
        return kind


class Server:
    """The API on a real port over a real store, and the way of an event into it."""

    def __init__(self, url: str, **settings: Any) -> None:
        self.settings = {"origins": (PAGE,), **settings}
        self.config = Config(api=Api(**self.settings), inbox=InboxSettings(page=10))
        self.metrics = Metrics(
            {"auth_failures": (*REASONS, "scope", "revoked"), "dead_letters": intake.REASONS}
        )
        self.verifier = Verifier(
            [Key("k", "EdDSA", public_check("EdDSA", KEY.public_key()))], "notifier", None, 86_400, 0
        )
        self.address = Address.parse(url)
        reactor.run(self._start)

    async def _start(self) -> None:
        from twisted.internet import reactor as installed

        running: Any = installed
        self.calls = Connection(running, self.address, "commands", self.metrics, lambda line: None)
        self.calls.start()
        await self.calls.ready()
        rules, scripts = Rules(buckets=1), Scripts()
        self.inbox = RedisInbox(self.calls, scripts, rules, "test")
        stream = RedisLog(
            self.calls,
            scripts,
            rules,
            keys.FRONT_DOOR,
            keys.tag(0),
            "test",
            lambda: "test",
            lambda *_: _never(),
            RedisBus(
                Subscription(running, self.address, "bell", self.metrics, lambda line: None),
                1,
                "test",
                self.metrics,
            ),
            PushGifts(),
        )
        backlog = Backlog(
            Intake(("like", "comment", "follow"), rules.window, 300_000, 16_384, 1000), keys.tag(0), 1
        )
        self.fanout = Fanout(stream, backlog, self.metrics, running.seconds, lambda line: None, 15.0)
        self.site: Any = api_site(running, self.inbox, self.verifier, self.config, self.metrics)
        self.listener: Any = running.listenTCP(0, self.site, interface="127.0.0.1")
        self.port: int = self.listener.getHost().port

    def stop(self) -> None:
        async def stop() -> None:
            await self.listener.stopListening()
            await self.calls.stop()

        reactor.run(stop)

    def give(self, *events: dict[str, Any], to: str = ANA) -> None:
        """Hand events over to an inbox. Each has an id and an actor unless it says so."""

        async def give() -> None:
            for event in events:
                made = {"type": "like", "actor": {"id": "bo"}, "to": [to], "time": _now()} | event
                await self.calls.call("XADD", keys.FRONT_DOOR, "*", "event", json.dumps(made))
            for _ in range(20 + len(events) // 5):
                await self.fanout.once()

        reactor.run(give)

    def likes(self, count: int, first: int = 0) -> None:
        """Rows n0, n1, … each about a photo of its own."""
        self.give(
            *({"id": f"n{n}", "object": {"type": "photo", "id": str(n)}} for n in range(first, first + count))
        )

    def raw(self, request: bytes) -> bytes:
        """What comes back until the server hangs up."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as client:
            client.sendall(request)
            return b"".join(iter(lambda: client.recv(65536), b""))

    def ask(
        self, path: str, method: str = "GET", body: Any = None, bearer: str | None = "", **headers: str
    ) -> Reply:
        """One request with ana's token, or the one given; None sends none. Underscores in names are dashes."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        if bearer is not None:
            fields["Authorization"] = f"Bearer {bearer or token()}"
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            fields.setdefault("Content-Type", "application/json")
        link = HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            link.request(method, path, body, fields)
            answer = link.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, found, answer.read())
        finally:
            link.close()


@contextmanager
def failures() -> Iterator[list[BaseException]]:
    """The exceptions that anybody logs meanwhile, also through Twisted's old log."""
    found: list[BaseException] = []

    def observe(event: Any) -> None:
        failure = event.get("log_failure") or event.get("failure")
        if failure is not None:
            found.append(failure.value)

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


async def _never() -> None:
    raise AssertionError("nobody waits here")


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@pytest.fixture
def server(redis_url: str) -> Iterator[Server]:
    server = Server(redis_url)
    yield server
    server.stop()


# The inbox --------------------------------------------------------------------------------------------------


def test_an_empty_inbox(server: Server) -> None:
    reply = server.ask("/v1/inbox")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["content-length"] == str(len(reply.body))
    found = reply.json
    assert found.pop("epoch").startswith("0.")
    assert found == {"seq": 0, "floor": 0, "seen": 0, "unread": 0, "rows": [], "cursor": None}


def test_rows_have_all_that_a_notification_has_newest_first(server: Server) -> None:
    server.give({"id": "a", "type": "follow", "actor": {"id": "42", "name": "bo \u2603"}})
    server.give({"id": "b", "type": "comment", "text": 'hi "you"', "object": {"type": "photo", "id": "9"}})
    found = server.ask("/v1/inbox").json
    assert (found["seq"], found["unread"], found["cursor"]) == (2, 2, None)
    comment, follow = found["rows"]
    assert follow == {
        "seq": 1, "id": "a", "kind": "follow", "actors": [{"id": "42", "name": "bo \u2603"}], "count": 1,
        "time": follow["time"], "read": False, "seen": False,
    }  # fmt: skip
    assert (comment["text"], comment["object"]) == ('hi "you"', {"type": "photo", "id": "9"})


def test_everybody_has_an_inbox_of_their_own(server: Server) -> None:
    server.likes(1)
    assert server.ask("/v1/inbox", bearer=token("bo")).json["rows"] == []
    assert len(server.ask("/v1/inbox").json["rows"]) == 1


def test_pages_follow_each_other_without_gap_or_repeat(server: Server) -> None:
    server.likes(25)
    ids, path = [], "/v1/inbox?limit=10"
    for expected in (10, 10, 5):
        found = server.ask(path).json
        assert len(found["rows"]) == expected
        ids += [row["id"] for row in found["rows"]]
        path = f"/v1/inbox?limit=10&cursor={found['cursor']}"
    assert path.endswith("cursor=None")
    assert ids == [f"n{n}" for n in reversed(range(25))]


def test_the_last_page_has_no_cursor_even_when_it_is_full(server: Server) -> None:
    server.likes(4)
    found = server.ask("/v1/inbox?limit=2").json
    found = server.ask(f"/v1/inbox?limit=2&cursor={found['cursor']}").json
    assert ([row["id"] for row in found["rows"]], found["cursor"]) == (["n1", "n0"], None)


def test_the_default_limit_is_fifty(server: Server) -> None:
    server.likes(60)
    assert len(server.ask("/v1/inbox").json["rows"]) == 50


@pytest.mark.parametrize("limit", ["0", "101", "-1", "x", "", "1.0", "1e1", "%31%00", "٣", "9" * 30])
def test_a_bad_limit_is_named(server: Server, limit: str) -> None:
    reply = server.ask(f"/v1/inbox?limit={quote(limit, safe='%')}")
    assert (reply.status, reply.problem) == (400, "invalid-request")
    assert reply.json["errors"] == [
        {"parameter": "limit", "detail": "`limit` must be a whole number from 1 to 100"}
    ]


@pytest.mark.parametrize(
    "path", ["/v1/inbox?limit=1&limit=2", "/v1/sync?after=0&after=0", "/v1/inbox?cursor=%ff"]
)
def test_a_parameter_given_twice_or_not_in_utf8_is_named(server: Server, path: str) -> None:
    reply = server.ask(path)
    assert reply.problem == "invalid-request"
    assert reply.json["errors"][0]["parameter"] in path


@pytest.mark.parametrize("cursor", ["x", "", "####", "MTox", "NS5hYmM6MA", "MTIuYWI6LTE", "a" * 4000])
def test_a_cursor_that_is_none_of_ours_is_named(server: Server, cursor: str) -> None:
    reply = server.ask(f"/v1/inbox?cursor={quote(cursor)}")
    assert (reply.status, reply.problem) == (400, "invalid-request")
    assert reply.json["errors"][0]["parameter"] == "cursor"


def test_a_cursor_ends_with_its_epoch(server: Server) -> None:
    server.likes(3)
    cursor = server.ask("/v1/inbox?limit=1").json["cursor"]
    reactor.run(lambda: server.calls.call("DEL", keys.inbox(ANA, 1)))
    server.likes(3, first=10)
    reply = server.ask(f"/v1/inbox?cursor={cursor}")
    assert (reply.status, reply.problem) == (410, "gone-cursor")


# Following --------------------------------------------------------------------------------------------------


def test_sync_gives_what_a_socket_gets(server: Server) -> None:
    server.likes(2)
    first = server.ask("/v1/sync").json
    assert (first["result"], first["seq"], first["unread"], first["more"]) == ("load", 2, 2, False)
    assert [(c["type"], c["seq"], c["id"]) for c in first["changes"]] == [
        ("notification", 1, "n0"),
        ("notification", 2, "n1"),
    ]
    server.ask("/v1/inbox/n0", "DELETE")
    server.likes(1, first=2)
    later = server.ask(f"/v1/sync?epoch={first['epoch']}&after={first['seq']}").json
    assert (later["result"], later["seq"], later["epoch"]) == ("resume", 4, first["epoch"])
    deleted, row = later["changes"]
    assert deleted == {"type": "deleted", "seq": 3, "ids": ["n0"], "unread": 2, "floor": 0}
    assert (row["type"], row["seq"], row["id"], row["unread"]) == ("notification", 4, "n2", 2)
    again = server.ask(f"/v1/sync?epoch={later['epoch']}&after={later['seq']}").json
    assert (again["result"], again["changes"]) == ("resume", [])


@pytest.mark.parametrize("path", ["/v1/sync", "/v1/sync?after=0"])
def test_a_long_load_is_continued_after_the_last_seq(server: Server, path: str) -> None:
    server.likes(25)
    ids, rounds = [], 0
    while True:
        found = server.ask(path).json
        ids += [change["id"] for change in found["changes"]]
        rounds += 1
        if not found["more"]:
            break
        path = f"/v1/sync?epoch={found['epoch']}&after={found['changes'][-1]['seq']}"
    assert (rounds, ids) == (3, [f"n{n}" for n in range(25)])


def test_a_place_from_before_the_first_row_is_followed_from(server: Server) -> None:
    empty = server.ask("/v1/sync").json
    server.likes(1)
    found = server.ask(f"/v1/sync?epoch={empty['epoch']}&after={empty['seq']}").json
    assert (found["result"], len(found["changes"])) == ("resume", 1)


@pytest.mark.parametrize(
    "query", ["epoch=1.abc&after=1", "epoch=nonsense&after=1", "after=7", "epoch=&after=3"]
)
def test_a_place_that_is_gone_is_a_resync_with_all_rows(server: Server, query: str) -> None:
    server.likes(2)
    found = server.ask(f"/v1/sync?{query}").json
    assert (found["result"], [c["id"] for c in found["changes"]]) == ("resync", ["n0", "n1"])


@pytest.mark.parametrize("query", ["epoch=1.abc", "after=-1", "after=x", "epoch=1.abc&after="])
def test_half_a_place_is_refused(server: Server, query: str) -> None:
    reply = server.ask(f"/v1/sync?{query}")
    assert reply.problem == "invalid-request"
    assert reply.json["errors"][0]["parameter"] == "after"


# Marks ------------------------------------------------------------------------------------------------------


def test_seen(server: Server) -> None:
    server.likes(3)
    epoch = server.ask("/v1/inbox/unread").json["epoch"]
    reply = server.ask("/v1/inbox/seen", "POST", {"epoch": epoch, "seq": 2})
    assert reply.status == 200
    assert reply.json == {"changed": 1, "epoch": epoch, "seq": 4, "floor": 0, "seen": 2, "unread": 3}
    assert [row["seen"] for row in server.ask("/v1/inbox").json["rows"]] == [False, True, True]
    assert server.ask("/v1/inbox/seen", "POST", {"epoch": epoch, "seq": 2}).json["changed"] == 0
    assert server.metrics.marks["seen"] == 1


def test_a_seq_of_another_epoch_marks_nothing(server: Server) -> None:
    server.likes(1)
    for epoch in ("1.abc", "0.0"):
        reply = server.ask("/v1/inbox/seen", "POST", {"epoch": epoch, "seq": 1})
        assert (reply.status, reply.json["changed"], reply.json["seen"]) == (200, 0, 0)


def test_read_by_ids(server: Server) -> None:
    server.likes(3)
    reply = server.ask("/v1/inbox/read", "POST", {"ids": ["n1", "nobody"]})
    assert (reply.status, reply.json["changed"], reply.json["unread"]) == (200, 1, 2)
    assert [row["read"] for row in server.ask("/v1/inbox").json["rows"]] == [False, True, False]


def test_read_up_to_a_seq(server: Server) -> None:
    server.likes(3)
    epoch = server.ask("/v1/inbox").json["epoch"]
    assert server.ask("/v1/inbox/read", "POST", {"epoch": epoch, "seq": 2}).json["unread"] == 1
    assert server.ask("/v1/inbox/unread").json["unread"] == 1


@pytest.mark.parametrize(
    "nid", ["n1", "like:42/photo/99", "/a", "..", "a%2Fb", "unread", "read", "a?b#c+d", "*"]
)
def test_delete_by_any_id(server: Server, nid: str) -> None:
    server.give({"id": nid}, {"id": "other", "type": "comment"})
    path = f"/v1/inbox/{quote(nid, safe='')}"
    reply = server.ask(path, "DELETE")
    assert (reply.status, reply.json["changed"], reply.json["unread"]) == (200, 1, 1)
    assert [row["id"] for row in server.ask("/v1/inbox").json["rows"]] == ["other"]
    assert server.ask(path, "DELETE").json["changed"] == 0


def test_marks_on_no_inbox_change_nothing(server: Server) -> None:
    assert server.ask("/v1/inbox/x", "DELETE").json["changed"] == 0
    assert server.ask("/v1/inbox/read", "POST", {"ids": ["x"]}).json["changed"] == 0


@pytest.mark.parametrize("nid", ["\x01seen", "\x01read", "seq", "birth"])
def test_no_id_reaches_what_is_no_row(server: Server, nid: str) -> None:
    server.likes(2)
    epoch = server.ask("/v1/inbox").json["epoch"]
    server.ask("/v1/inbox/seen", "POST", {"epoch": epoch, "seq": 1})
    server.ask("/v1/inbox/read", "POST", {"ids": ["n0"]})
    before = server.ask("/v1/inbox").json
    assert server.ask(f"/v1/inbox/{quote(nid, safe='')}", "DELETE").json["changed"] == 0
    assert server.ask("/v1/inbox").json == before


@pytest.mark.parametrize(
    ("path", "body", "where"),
    [
        ("seen", b"", "#"),
        ("seen", b"{", "#"),
        ("seen", b"\xff", "#"),
        ("seen", b"[" * 9000, "#"),
        ("seen", [], "#"),
        ("seen", {"epoch": "1.a"}, "#"),
        ("seen", {"epoch": "1.a", "seq": "1"}, "#/seq"),
        ("seen", {"epoch": "1.a", "seq": -1}, "#/seq"),
        ("seen", {"epoch": "1.a", "seq": 1.5}, "#/seq"),
        ("seen", {"epoch": "1.a", "seq": 2**53}, "#/seq"),
        ("seen", {"epoch": 1, "seq": 1}, "#/epoch"),
        ("seen", {"epoch": "nonsense", "seq": 1}, "#/epoch"),
        ("seen", {"epoch": "1.a", "seq": 1, "sequence": 1}, "#"),
        ("read", {}, "#"),
        ("read", {"seq": 1}, "#"),
        ("read", {"epoch": "1.a"}, "#"),
        ("read", {"ids": ["a"], "seq": 1, "epoch": "1.a"}, "#"),
        ("read", {"ids": ["a"], "epoch": "1.a"}, "#"),
        ("read", {"ids": "a"}, "#/ids"),
        ("read", {"ids": ["a", 7]}, "#/ids/1"),
        ("read", {"ids": ["a", "b", ""]}, "#/ids/2"),
        ("read", {"ids": ["a b"]}, "#/ids/0"),
        ("read", {"ids": ["a"] * 401}, "#/ids"),
    ],
)
def test_bad_content_is_named(server: Server, path: str, body: Any, where: str) -> None:
    reply = server.ask(f"/v1/inbox/{path}", "POST", body, Content_Type="application/json; charset=utf-8")
    assert (reply.status, reply.problem) == (400, "invalid-request")
    assert reply.json["errors"][0]["pointer"] == where


@pytest.mark.parametrize(
    "kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
)
def test_content_must_be_json(server: Server, kind: str | None) -> None:
    fields = {"Content-Type": kind} if kind else {}
    reply = server.ask("/v1/inbox/read", "POST", b'{"ids": []}', **fields)
    assert (reply.status, reply.problem, reply.headers["accept"]) == (415, "not-json", "application/json")


# Who asks ---------------------------------------------------------------------------------------------------

EVERYWHERE = [
    ("GET", "/v1/inbox", None),
    ("GET", "/v1/sync", None),
    ("GET", "/v1/inbox/unread", None),
    ("POST", "/v1/inbox/seen", {"epoch": "1.a", "seq": 1}),
    ("POST", "/v1/inbox/read", {"ids": ["n0"]}),
    ("DELETE", "/v1/inbox/n0", None),
]


@pytest.mark.parametrize(("method", "path", "body"), EVERYWHERE)
def test_nobody_gets_in_without_a_good_token(server: Server, method: str, path: str, body: Any) -> None:
    server.likes(1)
    now = int(time.time())
    cases = [
        (None, 401, "not-authenticated", "Bearer"),
        (token(signed_by=OTHER_KEY), 401, "invalid-token", 'Bearer error="invalid_token"'),
        (token(exp=now - 60, iat=now - 99), 401, "expired-token", 'Bearer error="invalid_token"'),
        ("x", 401, "invalid-token", 'Bearer error="invalid_token"'),
        (token(scope="events"), 403, "missing-scope", 'Bearer error="insufficient_scope", scope="inbox"'),
    ]
    for bearer, status, problem, challenge in cases:
        reply = server.ask(path, method, body, bearer)
        assert (reply.status, reply.problem, reply.headers["www-authenticate"]) == (
            status,
            problem,
            challenge,
        )
    counted = server.metrics.auth_failures
    assert [counted[reason] for reason in ("signature", "expired", "malformed", "scope")] == [1, 1, 1, 1]
    assert server.ask("/v1/inbox").json["unread"] == 1


@pytest.mark.parametrize(("method", "path", "body"), EVERYWHERE)
def test_a_revoked_token_gets_and_changes_nothing(server: Server, method: str, path: str, body: Any) -> None:
    server.likes(1)
    old = token(iat=int(time.time()) - 5)
    reactor.run(lambda: server.inbox.revoke(ANA))
    reply = server.ask(path, method, body, old)
    assert (reply.status, reply.problem) == (401, "revoked-token")
    assert server.metrics.auth_failures["revoked"] == 1
    left: Any = reactor.run(lambda: server.inbox.page(ANA, 0, 10, int(time.time()) + 9))
    assert (left.seq, left.unread, len(left.records)) == (1, 1, 1)


def test_a_token_from_after_the_revocation_is_good(server: Server) -> None:
    before = int(time.time())
    reactor.run(lambda: server.inbox.revoke(ANA))
    assert server.ask("/v1/inbox", bearer=token(iat=before)).problem == "revoked-token"
    time.sleep(1.1)  # tokens count in seconds
    assert server.ask("/v1/inbox", bearer=token(iat=int(time.time()))).status == 200


@pytest.mark.parametrize("value", ["", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "{token}"])
def test_what_is_no_bearer_token(server: Server, value: str) -> None:
    reply = server.ask("/v1/inbox", bearer=None, Authorization=value.format(token=token()))
    assert (reply.status, reply.problem) == (401, "not-authenticated")


def test_the_scheme_has_no_case_and_two_headers_are_none(server: Server) -> None:
    assert server.ask("/v1/inbox", bearer=None, Authorization=f"bEARER  {token()}").status == 200
    line = f"Authorization: Bearer {token()}\r\n"
    request = f"GET /v1/inbox HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{line}{line}\r\n"
    assert server.raw(request.encode()).startswith(b"HTTP/1.1 401 ")


def test_the_token_is_not_taken_from_the_address(server: Server) -> None:
    assert server.ask(f"/v1/inbox?access_token={token()}&token={token()}", bearer=None).status == 401


# Addresses and methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/inbox/", "/V1/inbox", "/v1//inbox", "/v1/%69nbox", "/x", "*"]
)
@pytest.mark.parametrize("bearer", ["", None])
def test_everything_else_is_not_found(server: Server, path: str, bearer: str | None) -> None:
    reply = server.ask(path, bearer=bearer)
    assert (reply.status, reply.problem) == (404, "not-found")


@pytest.mark.parametrize(
    ("path", "method", "allowed"),
    [
        ("/v1/inbox", "POST", "GET, HEAD"),
        ("/v1/inbox", "OPTIONS", "GET, HEAD"),
        ("/v1/inbox", "BREW", "GET, HEAD"),
        ("/v1/sync", "DELETE", "GET, HEAD"),
        ("/v1/inbox/seen", "GET", "DELETE, POST"),
        ("/v1/inbox/n1", "GET", "DELETE"),
    ],
)
def test_other_methods_are_told_which_are_allowed(
    server: Server, path: str, method: str, allowed: str
) -> None:
    reply = server.ask(path, method)
    assert (reply.status, reply.problem, reply.headers["allow"]) == (405, "method-not-allowed", allowed)


@pytest.mark.parametrize(
    "path", ["/v1/inbox", "/v1/sync", "/v1/inbox/unread", "/v1/nothing", "/v1/inbox?limit=0"]
)
def test_head_has_the_same_fields_and_no_content(server: Server, path: str) -> None:
    wanted, found = server.ask(path), server.ask(path, "HEAD")
    assert (found.status, found.body, found.headers.keys()) == (wanted.status, b"", wanted.headers.keys())
    assert found.headers["content-length"] == str(len(wanted.body))


@pytest.mark.parametrize("path", ["/v1/inbox", "/v1/inbox?limit=0", "/nothing"])
def test_every_answer_is_guarded_and_names_no_software(server: Server, path: str) -> None:
    headers = server.ask(path).headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
    assert not {"server", "set-cookie", "transfer-encoding"} & headers.keys()


def test_a_connection_serves_many_requests(server: Server) -> None:
    link = HTTPConnection("127.0.0.1", server.port, timeout=20)
    link.connect()
    own = link.sock
    for path, status in (
        ("/v1/inbox", 200),
        ("/nothing", 404),
        ("/v1/inbox?limit=x", 400),
        ("/v1/sync", 200),
    ):
        link.request("GET", path, headers={"Authorization": f"Bearer {token()}"})
        answer = link.getresponse()
        answer.read()
        assert (answer.status, link.sock) == (status, own)
    link.close()


@pytest.mark.parametrize("host", ["", "Host: a\r\nHost: b\r\n"])
def test_exactly_one_host(server: Server, host: str) -> None:
    reply = server.raw(f"GET /v1/inbox HTTP/1.1\r\n{host}Connection: close\r\n\r\n".encode())
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"exactly one Host" in reply


@pytest.mark.parametrize("host", [b"\xff", b"a b", b"xn--\xe9", b"." * 300, b"[::1"])
def test_no_host_confuses_the_router(server: Server, host: bytes) -> None:
    line = f"Authorization: Bearer {token()}\r\n".encode()
    reply = server.raw(
        b"GET /v1/inbox HTTP/1.1\r\nConnection: close\r\nHost: " + host + b"\r\n" + line + b"\r\n"
    )
    assert reply.startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("name", [b"Authorization", b"Origin", b"Content-Type", b"Cookie", b"X-\x7f"])
def test_no_header_breaks_anything(server: Server, name: bytes) -> None:
    line = b"\r\n" + name + b": \xff\xfe\r\n\r\n"
    reply = server.raw(b"POST /v1/inbox/read HTTP/1.1\r\nHost: a\r\nConnection: close" + line)
    assert int(reply.split()[1]) in (400, 401)


@pytest.mark.parametrize("garbage", [b"GET\r\n\r\n", b"\x16\x03\x01\r\n\r\n", b"GET /\xe9 HTTP/1.1\r\n\r\n"])
def test_garbage_names_no_software_either(server: Server, garbage: bytes) -> None:
    reply = server.raw(garbage)
    assert reply.startswith(b"HTTP/1.1 400 ")
    assert b"wisted" not in reply


# CORS -------------------------------------------------------------------------------------------------------


def test_a_listed_page_may_call_and_a_cache_is_told(server: Server) -> None:
    for path in ("/v1/inbox", "/v1/inbox?limit=0", "/nothing"):
        headers = server.ask(path, Origin=PAGE).headers
        assert (headers["access-control-allow-origin"], headers["vary"]) == (PAGE, "Origin")
        assert "access-control-allow-credentials" not in headers


ORIGINS = [
    "https://app.example.evil",
    "https://evil",
    "http://app.example",
    "null",
    "https://app.example:8443",
    "*",
]


@pytest.mark.parametrize("origin", ORIGINS)
def test_another_page_may_not(server: Server, origin: str) -> None:
    headers = server.ask("/v1/inbox", Origin=origin).headers
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "Origin"
    reply = server.ask("/v1/inbox", "OPTIONS", None, None, Origin=origin, Access_Control_Request_Method="GET")
    assert (reply.status, reply.problem) == (403, "foreign-origin")
    assert "access-control-allow-methods" not in reply.headers


def test_preflight(server: Server) -> None:
    reply = server.ask(
        "/v1/inbox/read", "OPTIONS", None, None, Origin=PAGE,
        Access_Control_Request_Method="POST", Access_Control_Request_Headers="authorization,content-type",
    )  # fmt: skip
    assert (reply.status, reply.body) == (204, b"")
    headers = reply.headers
    assert headers["access-control-allow-origin"] == PAGE
    assert headers["access-control-allow-methods"] == "GET, HEAD, POST, PUT, DELETE"
    assert headers["access-control-allow-headers"] == "Authorization, Content-Type, Last-Event-ID"
    assert headers["access-control-max-age"] == "7200"
    assert not {"content-type", "content-length", "transfer-encoding"} & headers.keys()


def test_any_page_where_the_list_says_so(redis_url: str) -> None:
    server = Server(redis_url, origins=("*",))
    headers = server.ask("/v1/inbox", Origin="https://anywhere.example").headers
    server.stop()
    assert headers["access-control-allow-origin"] == "*"
    assert "vary" not in headers


def test_no_page_by_default(redis_url: str) -> None:
    server = Server(redis_url, origins=())
    headers = server.ask("/v1/inbox", Origin=PAGE).headers
    server.stop()
    assert not [name for name in headers if name.startswith("access-control")]


# Bounds -----------------------------------------------------------------------------------------------------

LARGE = [
    "Content-Length: 65537\r\n\r\n",
    "Content-Length: 99999999999\r\nExpect: 100-continue\r\n\r\n",
    "Content-Length: 65537\r\n\r\n" + "x" * 65537,
    "Transfer-Encoding: chunked\r\n\r\n" + ("4000\r\n" + "x" * 0x4000 + "\r\n") * 5 + "0\r\n\r\n",
    "Content-Length: 8000000\r\n\r\n" + "x" * 8_000_000,
]


@pytest.mark.parametrize("rest", LARGE, ids=["announced", "expect", "sent", "chunked", "in-flight"])
def test_large_content_is_refused_once_and_the_refusal_arrives(server: Server, rest: str) -> None:
    head = f"POST /v1/inbox/read HTTP/1.1\r\nHost: a\r\nOrigin: {PAGE}\r\n{rest}"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(head.encode())
        reply = b"".join(iter(lambda: client.recv(65536), b""))
    head_, _, body = reply.partition(b"\r\n\r\n")
    assert reply.startswith(b"HTTP/1.1 413 Content Too Large\r\n")
    assert reply.count(b"HTTP/1.1") == 1
    assert json.loads(body)["type"].endswith("too-large")
    for line in (
        b"Connection: close",
        b"Content-Type: application/problem+json",
        f"-Origin: {PAGE}".encode(),
    ):
        assert line + b"\r\n" in head_
    assert server.ask("/v1/inbox").status == 200


def test_what_comes_after_a_refusal_is_dropped(server: Server) -> None:
    with failures() as logged, socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST /v1/inbox/read HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n")
        for part in (b"x" * 65537, b"GET /v1/inbox HTTP/1.1\r\nHost: a\r\n\r\n"):
            client.sendall(part)
            time.sleep(0.1)
        reply = b"".join(iter(lambda: client.recv(65536), b""))
    assert (reply.count(b"HTTP/1.1"), reply.split()[1], logged) == (1, b"413", [])


def test_a_client_that_never_ends_its_refused_request_is_cut_off(server: Server) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        client.sendall(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000000\r\n\r\n")
        began, cut = time.monotonic(), False
        while not cut and time.monotonic() - began < 5:
            try:
                client.sendall(b"x")
            except OSError:
                cut = True
            time.sleep(0.02)
        assert cut
        assert time.monotonic() - began < LINGER_SECONDS + 1


def test_content_up_to_the_limit_is_taken(server: Server) -> None:
    body = json.dumps({"ids": ["x"]}).encode().ljust(65_536)
    assert server.ask("/v1/inbox/read", "POST", body, Content_Type="application/json").status == 200
    chunks = b"8\r\n" + body[:8] + b"\r\n8\r\n" + body[8:16] + b"\r\n0\r\n\r\n"
    head = (
        f"Authorization: Bearer {token()}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n"
    )
    request = f"POST /v1/inbox/read HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{head}\r\n".encode() + chunks
    assert server.raw(request).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    "header", ["X: " + "a" * 9000, "\r\n".join(f"X-{n}: 1" for n in range(60))], ids=["bytes", "number"]
)
def test_large_headers_are_refused(server: Server, header: str) -> None:
    assert server.raw(f"GET /v1/inbox HTTP/1.1\r\nHost: a\r\n{header}\r\n\r\n".encode()).startswith(
        b"HTTP/1.1 400 "
    )


# Trouble ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "path", "body"), EVERYWHERE)
def test_without_a_store_the_answer_is_503(own_server: Valkey, method: str, path: str, body: Any) -> None:
    server = Server(own_server.url)
    own_server.kill()
    reply = server.ask(path, method, body)
    server.stop()
    assert (reply.status, reply.problem, reply.headers["retry-after"]) == (503, "unavailable", "1")
    assert b"127.0.0.1" not in reply.body


@pytest.mark.timeout(60)
def test_a_store_that_says_nothing_is_503_too_and_the_api_recovers(own_server: Valkey) -> None:
    server = Server(own_server.url)
    server.calls.timeout = 0.5
    own_server.pause()
    try:
        assert server.ask("/v1/inbox").problem == "unavailable"
    finally:
        own_server.resume()
    until = time.monotonic() + 30
    while (reply := server.ask("/v1/inbox")).status != 200 and time.monotonic() < until:
        time.sleep(0.05)
    server.stop()
    assert reply.status == 200


class Broken:
    """An inbox of which every call fails."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def page(self, *_: object) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (ReplyError("LOADING Redis is loading the dataset in memory"), "unavailable"),
        (ReplyError("OOM command not allowed"), "unavailable"),
        (ReplyError("WRONGTYPE hunter2"), "internal"),
        (RuntimeError("hunter2"), "internal"),
    ],
)
def test_a_failure_is_logged_and_not_shown(server: Server, error: Exception, problem: str) -> None:
    inbox: Any = Broken(error)
    broken = api_site(server.site.reactor, inbox, server.verifier, server.config, server.metrics)
    server.site.resource = broken.resource
    with failures() as logged:
        reply = server.ask("/v1/inbox")
    assert (reply.problem, reply.json["detail"].count("hunter2")) == (problem, 0)
    assert logged == ([error] if problem == "internal" else [])


def test_a_client_that_goes_away_leaves_nothing_behind(own_server: Valkey) -> None:
    server = Server(own_server.url)
    own_server.pause()
    with failures() as logged:
        try:
            link = socket.create_connection(("127.0.0.1", server.port), timeout=20)
            request = f"GET /v1/inbox HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token()}\r\n\r\n"
            link.sendall(request.encode())
            time.sleep(0.2)
            link.close()
            time.sleep(0.2)
        finally:
            own_server.resume()
        # Its question has been asked: the answer must not go to the next one.
        assert server.ask("/v1/inbox/unread").json["unread"] == 0
        assert server.site.connections <= 1
        server.stop()
    assert logged == []


# What is pure -----------------------------------------------------------------------------------------------


def test_pointers() -> None:
    assert [pointer(path) for path in ("", ".seq", ".ids[3]", "[0].a_b[...]")] == [
        "#",
        "#/seq",
        "#/ids/3",
        "#/0/a_b",
    ]


def test_a_cursor_is_read_as_it_was_written() -> None:
    page = Page(17, "0123456789abcdef", 9, 0, 0, 0, True, ((9, ""), (7, "")))
    assert cursor_place(cursor_of(page) or "") == Place(17, "0123456789abcdef", 7)
    assert cursor_of(Page(17, "ab", 9, 0, 0, 0, False, ((9, ""),))) is None
