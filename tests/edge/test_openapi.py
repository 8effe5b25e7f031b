"""The description of the API is walked: every path and status that it names is made to happen at a real daemon."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import msgspec
import pytest

from notifier.config import Config
from notifier.edge.api import KINDS, Api
from notifier.edge.openapi import OPERATIONS, document, encoded
from notifier.sandbox.credentials import app_toml, make_credentials
from tests.client import token
from tests.daemon import Daemon
from tests.servers import Valkey, missing

ROOT = Path(__file__).parent.parent.parent
METHODS = ("get", "post", "delete", "put")
LIKE = {
    "type": "like",
    "actor": {"id": "42"},
    "to": ["7"],
    "object": {"type": "photo", "id": "9"},
    "text": "x",
}


def test_the_file_is_what_the_code_says() -> None:
    found = (ROOT / "docs/openapi.json").read_bytes()
    assert found == encoded(Config()), "python -m notifier.edge.openapi > docs/openapi.json"


def test_every_route_is_described_and_no_other() -> None:
    routes = {
        (
            method.lower(),
            rule.rule.replace("/devices/<quoted>", "/devices/{token}").replace("<quoted>", "{id}"),
        )
        for rule in Api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == {(operation.method, operation.path) for operation in OPERATIONS}


def test_every_kind_of_problem_is_described_but_those_of_no_address() -> None:
    text = encoded(Config()).decode()
    assert {kind for kind in KINDS if f"`{kind}`" not in text} == {
        "foreign-origin", "not-found", "method-not-allowed",
    }  # fmt: skip


def test_types_of_events_are_those_of_the_configuration() -> None:
    config = msgspec.convert({"events": {"types": ["wave"]}}, Config)
    assert document(config)["components"]["schemas"]["Event"]["properties"]["type"]["enum"] == [
        "wave",
        "unwave",
    ]


# -- every status of every operation


@dataclass(frozen=True)
class Reply:
    status: int
    media: str
    headers: dict[str, str]
    body: bytes


@dataclass
class Site:
    """A daemon whose limits are tight enough to be met."""

    daemon: Daemon
    server: Valkey

    def ask(self, method: str, path: str, body: Any = None, bearer: str | None = "", **fields: str) -> Reply:
        headers = {name.replace("_", "-"): value for name, value in fields.items()}
        if bearer is not None:
            scope = "inbox publish"
            headers["Authorization"] = f"Bearer {bearer or token('7', scope=scope)}"
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        content = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        link = HTTPConnection("127.0.0.1", self.daemon.port("api"), timeout=10)
        try:
            link.request(method, path, content, headers)
            answer = link.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            media = found.get("content-type", "")  # a 204 has none
            said = answer.read1(100) if media == "text/event-stream" else answer.read()
            return Reply(answer.status, media, found, said)
        finally:
            link.close()

    def epoch(self) -> str:
        return str(json.loads(self.ask("GET", "/v1/inbox").body)["epoch"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    limits = {"requests_per_address_burst": 2, "requests_per_address": 0.1, "connections": 1}
    folder = tmp_path_factory.mktemp("openapi")
    with (
        Valkey(folder / "valkey", aof=False) as server,
        Daemon(folder, server.url, {"limits": limits}, more=_an_app(folder)) as daemon,
    ):
        site = Site(daemon, server)
        for _ in range(3):
            assert site.ask("POST", "/v1/events", LIKE).status == 202
        until = time.monotonic() + 30
        while json.loads(site.ask("GET", "/v1/inbox").body)["seq"] < 3 and time.monotonic() < until:
            time.sleep(0.02)
        yield site


def _an_app(folder: Path) -> str:
    """One that nothing is ever sent for."""
    made = make_credentials(folder)
    nowhere = "https://127.0.0.1:9"
    toml = app_toml("photos", made, nowhere, nowhere, nowhere, "")
    types = "".join(f'[types.{kind}]\npush = "off"\n' for kind in ("follow", "like", "comment"))
    return "\n".join(line for line in toml.splitlines() if "authority" not in line) + "\n" + types


BODIES: dict[str, Any] = {
    "registerDevice": {"platform": "apns", "app": "photos"},
    "markSeen": {"epoch": "1.a", "seq": 1},
    "markRead": {"ids": ["n0"]},
    "publish": {"events": [LIKE, {"type": "poke"}]},
}
IDS = {operation.name: operation for operation in OPERATIONS}


def good(site: Site, name: str, **more: Any) -> Reply:
    operation = IDS[name]
    path = operation.path.replace("{id}", "some-id").replace("{token}", "0a" * 32) + more.pop("query", "")
    return site.ask(operation.method.upper(), path, more.pop("body", BODIES.get(name)), **more)


@contextmanager
def broken(site: Site, name: str) -> Iterator[None]:
    """The store holds what no code of ours has written."""
    key = "notifier:events" if name == "publish" else "inbox:{0}:7"
    # In one step, so that no loop of the daemon comes between.
    site.server.call("EVAL", "redis.call('RENAME', KEYS[1], 'kept') redis.call('SET', KEYS[1], 'x')", 1, key)
    try:
        yield
    finally:
        site.server.call("RENAME", "kept", key)


def is_full(site: Site, name: str) -> Reply:
    link = HTTPConnection("127.0.0.1", site.daemon.port("api"), timeout=10)
    link.request("GET", "/v1/stream", headers={"Authorization": f"Bearer {token('7')}"})
    stream = link.getresponse()
    assert stream.status == 200
    try:
        return good(site, name)
    finally:
        stream.close()
        link.close()


def has_expired(site: Site, name: str) -> Reply:
    return good(site, name, bearer=token("7", -60, scope="inbox publish"))


def is_flooded(site: Site, name: str) -> Reply:
    address = f"192.0.2.{sorted(IDS).index(name)}"
    for _ in range(2):
        good(site, name, bearer=None, X_Forwarded_For=address)
    return good(site, name, bearer=None, X_Forwarded_For=address)


def is_broken(site: Site, name: str) -> Reply:
    with broken(site, name):
        return good(site, name)


def is_away(site: Site, name: str) -> Reply:
    if name == "follow":
        return is_full(site, name)
    # The copy of a server that is not there: MASTERDOWN to everything, as in a failover.
    site.server.call("CONFIG", "SET", "replica-serve-stale-data", "no")
    site.server.call("REPLICAOF", "127.0.0.1", 1)
    try:
        return good(site, name)
    finally:
        site.server.call("REPLICAOF", "NO", "ONE")


def is_gone(site: Site, name: str) -> Reply:
    found = json.loads(site.ask("GET", "/v1/inbox?limit=1").body)
    site.server.call("RENAME", "inbox:{0}:7", "aside")
    try:
        return good(site, name, query=f"?cursor={found['cursor']}")
    finally:
        site.server.call("RENAME", "aside", "inbox:{0}:7")


# status -> how to come by it; what is not here is a plain good request
RECIPES: dict[int, Callable[[Site, str], Reply]] = {
    200: good,
    202: good,
    204: good,
    400: lambda site, name: two_hosts(site, name),
    401: has_expired,
    403: lambda site, name: good(site, name, bearer=token("7", scope="other")),
    410: is_gone,
    413: lambda site, name: good(site, name, body=b" " * 2_200_000),
    415: lambda site, name: good(site, name, Content_Type="text/plain"),
    429: is_flooded,
    500: is_broken,
    503: is_away,
}


def two_hosts(site: Site, name: str) -> Reply:
    if IDS[name].body is not None:
        return good(site, name, body=b"{")
    link = HTTPConnection("127.0.0.1", site.daemon.port("api"), timeout=10)
    link.putrequest(IDS[name].method.upper(), IDS[name].path.replace("{id}", "x"))
    link.putheader("Host", "another")
    link.endheaders()
    answer = link.getresponse()
    reply = Reply(answer.status, answer.headers["Content-Type"], {}, answer.read())
    link.close()
    return reply


WALK = [
    (operation["operationId"], int(status))
    for path in document(Config())["paths"].values()
    for operation in path.values()
    for status in operation["responses"]
]


@pytest.mark.parametrize(("name", "status"), WALK, ids=lambda value: str(value))
def test_what_is_described_happens(site: Site, name: str, status: int) -> None:
    reply = RECIPES[status](site, name)
    assert reply.status == status, reply.body
    if status == 204:
        assert reply.body == b""
        assert "content" not in answer_of(name, status)
        return
    schema = schema_of(name, status, reply.media)
    if reply.media != "text/event-stream":
        content = json.loads(reply.body)
        jsonschema.Draft202012Validator(schema).validate(content)
        if status >= 400:
            kind = content["type"].rpartition(":")[2]
            assert f"`{kind}`" in answer_of(name, status)["description"]
            assert (status in (429, 503)) == ("retry-after" in reply.headers)


def answer_of(name: str, status: int) -> Any:
    operation = IDS[name]
    return document(Config())["paths"][operation.path][operation.method]["responses"][str(status)]


def schema_of(name: str, status: int, media: str) -> Any:
    """The schema of an answer, with what it refers to; no member may be one that is not described."""
    components = document(Config())["components"]
    for schema in components["schemas"].values():
        if "properties" in schema and schema["title"] != "Change":
            schema.setdefault("additionalProperties", False)
    return {**answer_of(name, status)["content"][media]["schema"], "components": components}


# -- what nobody thought of


def test_schemathesis(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        missing("schemathesis", "pip install schemathesis")
    limits = {"requests_per_user_burst": 1_000_000, "requests_per_user": 1_000_000}
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    with Daemon(tmp_path, valkey.url, {"limits": limits}) as daemon:
        done = subprocess.run(
            [
                sys.executable, "-m", "schemathesis.cli", "run", f"http://127.0.0.1:{daemon.port('api')}/v1/openapi.json",
                "--checks", checks, "--max-examples", "10", "--seed", "7", "--phases", "examples,coverage,fuzzing",
                # a stream does not end; tests/edge/test_sse.py is about it
                "--exclude-path", "/v1/stream", "--suppress-health-check", "all", "--warnings", "off",
                "-H", f"Authorization: Bearer {token('7', scope='inbox publish')}",
            ],
            cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        assert not [line for line in daemon.lines() if line.get("level") in ("error", "critical")]
