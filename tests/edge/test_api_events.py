"""POST /v1/events at real daemons: what is accepted is in Redis, what is not says why."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, fail, succeed

from notifier.core import intake
from notifier.core.intake import Intake
from notifier.core.tokens import REASONS, Identity
from notifier.edge.api import Problem
from notifier.edge.events_api import Publisher, id_of, split
from notifier.edge.redis import ReplyError
from notifier.edge.throttle import Buckets
from notifier.metrics import Metrics
from notifier.ports import Unavailable
from tests.client import token
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

LIKE = {"type": "like", "actor": {"id": "42"}, "to": ["7"]}
MIB = 1 << 20


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict[str, str]
    json: Any

    @property
    def problem(self) -> str:
        assert self.headers["content-type"] == "application/problem+json"
        return str(self.json["type"].rpartition(":")[2])

    @property
    def told(self) -> list[tuple[Any, ...]]:
        """(status, reason if there is one) of each event."""
        return [tuple(r[name] for name in ("status", "reason") if name in r) for r in self.json["results"]]


def service(**claims: Any) -> str:
    return token("web", scope="publish", **claims)


def ask(
    daemon: Daemon, body: Any = None, bearer: str | None = "", path: str = "/v1/events", method: str = "POST",
    **headers: str,
) -> Reply:  # fmt: skip
    fields = {"Content-Type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
    if bearer is not None:
        fields["Authorization"] = f"Bearer {bearer or service()}"
    content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    link = HTTPConnection("127.0.0.1", daemon.port("api"), timeout=15)
    try:
        link.request(method, path, content, fields)
        answer = link.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        said = answer.read()
        return Reply(answer.status, found, json.loads(said) if said else None)
    finally:
        link.close()


def daemon_of(folder: Path, server: Valkey, **settings: dict[str, object]) -> Daemon:
    given: Settings = settings
    return Daemon(folder, server.url, given)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Daemon]:
    valkey.call("FLUSHALL")
    valkey.call("FLUSHALL")  # another module may have set it up differently
    with daemon_of(tmp_path_factory.mktemp("events"), valkey) as daemon:
        yield daemon


def rows(daemon: Daemon, user: str, count: int) -> list[Any]:
    """The rows of an inbox once there are so many, oldest first."""
    found: list[Any] = []

    def look() -> bool:
        reply = ask(daemon, None, token(user), "/v1/inbox?limit=100", "GET")
        found[:] = reversed(reply.json["rows"])
        return len(found) >= count

    wait_until(look, 10, lambda: f"{len(found)} rows")
    return found


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


# -- what is accepted


def test_one_event(daemon: Daemon) -> None:
    reply = ask(daemon, {**LIKE, "to": ["one"]})
    assert (reply.status, reply.headers["content-type"], reply.told) == (
        202,
        "application/json",
        [("accepted",)],
    )
    (row,) = rows(daemon, "one", 1)
    assert reply.json["results"][0]["id"] == row["id"]
    assert row["id"].startswith("x:")


def test_an_id_of_its_own_is_kept_and_a_repeat_changes_nothing(daemon: Daemon) -> None:
    event = {**LIKE, "to": ["named"], "id": "like-1", "time": now()}
    for _ in range(2):
        assert ask(daemon, event).json == {"results": [{"id": "like-1", "status": "accepted"}]}
    ask(daemon, {**LIKE, "to": ["named"], "id": "like-2", "time": now()})
    assert [row["id"] for row in rows(daemon, "named", 2)] == ["like-1", "like-2"]


def test_a_batch_is_answered_in_order_and_one_bad_event_spoils_nothing(daemon: Daemon) -> None:
    events = [
        {**LIKE, "to": ["batch"], "text": "0"},
        {**LIKE, "to": []},
        {**LIKE, "to": ["batch"], "text": "1"},
        {"type": "poke", "actor": {"id": "42"}, "to": ["batch"]},
        7,
        {**LIKE, "to": ["batch"], "id": "a", "time": "2020-01-01T00:00:00Z"},
        {**LIKE, "to": ["batch"], "text": "x" * 20_000},
        {**LIKE, "to": ["batch"], "id": "no-time"},
        {**LIKE, "to": ["batch"], "text": "2"},
    ]
    reply = ask(daemon, {"events": events})
    assert reply.status == 202
    assert reply.told == [
        ("accepted",), ("rejected", "schema"), ("accepted",), ("rejected", "unknown_type"), ("rejected", "schema"),
        ("rejected", "stale"), ("rejected", "too_large"), ("rejected", "id_without_time"), ("accepted",),
    ]  # fmt: skip
    assert {r.get("reason") for r in reply.json["results"]} - {None} <= set(intake.REASONS)
    assert [r["id"] for r in reply.json["results"]][4:8] == [None, "a", None, "no-time"]
    assert all(r["detail"] for r in reply.json["results"] if r["status"] == "rejected")
    assert [row["text"] for row in rows(daemon, "batch", 3)] == ["0", "1", "2"]
    assert daemon.get("/metrics")[1].count(b'notifier_dead_letters_total{reason="schema"} 0.0') == 1


def test_a_thousand_at_once_keep_their_order(daemon: Daemon) -> None:
    events = [{**LIKE, "to": [f"u{n % 20}"], "text": str(n)} for n in range(1000)]
    reply = ask(daemon, {"events": events})
    assert (reply.status, reply.told) == (202, [("accepted",)] * 1000)
    for user in range(0, 20, 7):
        assert [row["text"] for row in rows(daemon, f"u{user}", 50)] == [
            str(n) for n in range(user, 1000, 20)
        ]


def test_what_stands_in_the_stream_is_what_was_sent(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    """No second encoder comes between producer and consumer."""
    raw = b'{"type" : "like","actor":{"id":"42","more":[1.50]},\n "to":["7"], "text":"\\u00e9 \xc3\xa9"}'
    with daemon_of(tmp_path, valkey) as daemon:
        daemon.pause()
        valkey.call("SET", "lease:{0}", "somebody-else")  # nobody hands over meanwhile
        daemon.resume()
        assert ask(daemon, b" " + raw + b"\n").told == [("accepted",)]
        assert ask(daemon, b'{"events": [' + raw + b" ]}").told == [("accepted",)]
        entries: Any = valkey.call("XRANGE", "notifier:events", "-", "+")
        ours = [fields[1] for _, fields in entries if b"1.50" in fields[1]]
        assert ours == [raw, raw]


def test_events_are_counted(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    with daemon_of(tmp_path, valkey) as daemon:
        ask(daemon, {"events": [LIKE, LIKE, {}]})
        found = daemon.metrics()
        assert found['api_events_total{status="accepted"}'] == 2
        assert found['api_events_total{status="rejected"}'] == 1


# -- what is not


@pytest.mark.parametrize(
    ("body", "where"),
    [
        (b"", "#"), (b"{", "#"), (b"[]", "#"), (b"7", "#"), (b"[" * 9000, "#"), (b"\xff", "#"),
        ({"events": []}, "#/events"), ({"events": {}}, "#/events"), ({"events": None}, "#/events"),
        ({"events": [LIKE], "more": 1}, "#"), ({"events": [LIKE] * 1001}, "#/events"),
    ],
)  # fmt: skip
def test_a_request_that_is_none(daemon: Daemon, body: Any, where: str) -> None:
    reply = ask(daemon, body)
    assert (reply.status, reply.problem, reply.json["errors"][0]["pointer"]) == (
        400,
        "invalid-request",
        where,
    )


def test_who_may_publish(daemon: Daemon) -> None:
    cases = [
        (None, 401, "not-authenticated"),
        ("a.b.c", 401, "invalid-token"),
        (token("web", -60, scope="publish"), 401, "expired-token"),
        (token("web"), 403, "missing-scope"),
        (token("web", scope="inbox"), 403, "missing-scope"),
        (token("web", scope=""), 403, "missing-scope"),
    ]
    for bearer, status, problem in cases:
        reply = ask(daemon, LIKE, bearer)
        assert (reply.status, reply.problem) == (status, problem)
        assert reply.headers["www-authenticate"].startswith("Bearer")
    assert ask(daemon, None, service(), "/v1/inbox", "GET").problem == "missing-scope"
    assert ask(daemon, LIKE, token("web", scope="inbox publish")).status == 202


def test_a_service_can_be_revoked(daemon: Daemon, valkey: Valkey) -> None:
    valkey.call("SET", "revoked:{0}:web", int(time.time()) - 10, "EX", 60)
    try:
        assert ask(daemon, LIKE, service(iat=int(time.time()) - 20)).problem == "revoked-token"
        assert ask(daemon, LIKE).status == 202
    finally:
        valkey.call("DEL", "revoked:{0}:web")


def test_content_must_be_json(daemon: Daemon) -> None:
    reply = ask(daemon, LIKE, Content_Type="text/plain")
    assert (reply.status, reply.problem) == (415, "not-json")


def test_two_mebibytes_are_taken_from_a_service_and_from_nobody_else(daemon: Daemon) -> None:
    pad = b" " * (2 * MIB - 200)
    assert ask(daemon, pad + json.dumps(LIKE).encode()).status == 202
    reply = ask(daemon, pad + b" " * 200 + json.dumps(LIKE).encode())
    assert (reply.status, reply.problem) == (413, "too-large")
    assert "api.events_bytes" in reply.json["detail"]
    for bearer, status, problem in ((None, 401, "not-authenticated"), (token("web"), 403, "missing-scope")):
        reply = ask(daemon, pad, bearer)
        assert (reply.status, reply.problem) == (status, problem)
    assert ask(daemon, b" " * 65_537, token("7"), "/v1/inbox/read").problem == "too-large"


def test_a_stranger_is_refused_before_the_content_comes(daemon: Daemon) -> None:
    """Four thousand connections with two mebibytes each would be all the memory there is."""
    with socket.create_connection(("127.0.0.1", daemon.port("api")), timeout=20) as client:
        client.sendall(b"POST /v1/events HTTP/1.1\r\nHost: a\r\nContent-Length: 2000000\r\n\r\n")
        assert client.recv(65536).startswith(b"HTTP/1.1 401 ")


def test_while_the_backlog_is_over_its_limit_producers_wait(daemon: Daemon, valkey: Valkey) -> None:
    valkey.call("SET", "notifier:pressure", 1_000_001, "EX", 10)
    try:
        reply = ask(daemon, LIKE)
        assert (reply.status, reply.problem, reply.headers["retry-after"]) == (429, "backlog", "5")
    finally:
        valkey.call("DEL", "notifier:pressure")
    assert ask(daemon, LIKE).status == 202
    assert daemon.metrics()['api_limited_total{limit="backlog"}'] == 1


def test_without_a_store(tmp_path: Path, own_server: Valkey) -> None:
    with daemon_of(tmp_path, own_server) as daemon:
        own_server.call("CONFIG", "SET", "maxmemory", 1)
        reply = ask(daemon, {"events": [{**LIKE, "id": "a", "time": now()}, {}, LIKE]})
        assert (reply.status, reply.problem, reply.headers["retry-after"]) == (503, "unavailable", "1")
        assert reply.told == [("failed",), ("rejected", "schema"), ("failed",)]
        assert [r["id"] for r in reply.json["results"]] == ["a", None, None]
        own_server.kill()
        reply = ask(daemon, LIKE)
        assert (reply.status, reply.problem, "results" in reply.json) == (503, "unavailable", False)


class Half:
    """A connection that answers three questions, one append, refuses the next and then breaks."""

    def __init__(self, last: Exception) -> None:
        stamp = str(int(time.time())).encode()
        self.answers: list[Any] = [[stamp, b"0"], None, None, b"5-1", ReplyError("OOM no"), last]

    def call(self, *command: Any) -> Deferred[Any]:
        answer = self.answers.pop(0)
        return fail(answer) if isinstance(answer, Exception) else succeed(answer)


def publisher(last: Exception) -> Publisher:
    calls: Any = Half(last)
    metrics = Metrics({"auth_failures": (*REASONS, "revoked")})
    return Publisher(calls, Intake(("like",), 86_400_000, 300_000, 16_384, 1000), metrics, 1)


WHO = Identity("web", 1, 2, frozenset({"publish"}))
THREE = json.dumps({"events": [LIKE, LIKE, {**LIKE, "id": "c", "time": now()}]}).encode()


async def test_what_is_known_of_each_is_told() -> None:
    with pytest.raises(Problem) as caught:
        await publisher(Unavailable("gone")).publish(THREE, WHO)
    assert caught.value.kind == "unavailable"
    assert [(r.id, r.status) for r in caught.value.results] == [
        ("x:5-1", "accepted"), (None, "failed"), ("c", "unknown"),
    ]  # fmt: skip


async def test_a_fault_of_ours_is_no_reason_to_try_again() -> None:
    with pytest.raises(ReplyError):
        await publisher(ReplyError("WRONGTYPE")).publish(THREE, WHO)


# -- how often


def test_a_person_may_ask_so_often_and_a_service_more(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    limits: dict[str, object] = {"requests_per_user": 0.5, "requests_per_user_burst": 3}
    with daemon_of(tmp_path, valkey, limits=limits) as daemon:
        replies = [ask(daemon, None, token("7"), "/v1/inbox/unread", "GET") for _ in range(4)]
        assert [reply.status for reply in replies] == [200, 200, 200, 429]
        assert replies[3].problem == "too-many-requests"
        assert 1 <= int(replies[3].headers["retry-after"]) <= 2
        assert ask(daemon, None, token("8"), "/v1/inbox/unread", "GET").status == 200
        assert [ask(daemon, LIKE).status for _ in range(10)] == [202] * 10
        assert daemon.metrics()['api_limited_total{limit="person"}'] == 1


def test_an_address_may_ask_so_often_whoever_it_says_it_is(
    tmp_path: Path, valkey: Valkey, redis_url: str
) -> None:
    limits: dict[str, object] = {"requests_per_address": 0.5, "requests_per_address_burst": 3}
    with daemon_of(tmp_path, valkey, limits=limits) as daemon:

        def get(address: str, bearer: str | None = None) -> int:
            return ask(daemon, None, bearer, "/v1/inbox", "GET", X_Forwarded_For=address).status

        assert [get("192.0.2.1") for _ in range(4)] == [401, 401, 401, 429]
        assert get("192.0.2.1", token("7")) == 429
        assert get("192.0.2.2", token("7")) == 200
        # one household of IPv6 is one address
        assert [get(f"2001:db8::{n}") for n in range(4)] == [401, 401, 401, 429]
        # behind a trusted proxy itself nobody is counted; a lie in front of it does not help
        assert get("192.0.2.9, 192.0.2.1") == 429
        many = [ask(daemon, LIKE, X_Forwarded_For="192.0.2.3").status for _ in range(8)]
        assert many == [202] * 8
        large = b" " * 100_000
        assert ask(daemon, large, None, X_Forwarded_For="192.0.2.1").problem == "too-many-requests"


def test_buckets_are_bursts_and_then_a_rate() -> None:
    buckets = Buckets(2.0, 4)
    assert [buckets.take("a", 10.0) for _ in range(4)] == [0.0] * 4
    assert buckets.take("a", 10.0) == pytest.approx(0.5)
    assert buckets.take("b", 10.0) == 0.0
    assert buckets.take("a", 10.5) == 0.0
    assert buckets.take("a", 10.5) > 0
    buckets.give_back("a")
    assert buckets.take("a", 10.5) == 0.0
    assert [buckets.take("a", 99.0) for _ in range(4)] == [0.0] * 4


def test_buckets_forget_who_has_a_full_one() -> None:
    buckets = Buckets(1.0, 2, most=3)
    for name in "abc":
        buckets.take(name, 0.0)
    buckets.take("d", 5.0)
    assert len(buckets) == 1
    for name in "efg":  # all in use: whoever came first goes
        buckets.take(name, 5.0)
    assert len(buckets) == 3


# -- what is pure


def test_events_are_cut_out_as_they_are() -> None:
    assert split(b' {"type": "x"} ') == [b'{"type": "x"}']
    assert split(b'{"events": [{"a" : 1.0} , [], "x"]}') == [b'{"a" : 1.0}', b"[]", b'"x"']


@pytest.mark.parametrize("raw", [b"7", b"[]", b'{"id":7}', b"\xff", b"{}", b'{"id":"' + b"x" * 201 + b'"}'])
def test_an_id_that_cannot_be_told(raw: bytes) -> None:
    assert id_of(raw) is None
