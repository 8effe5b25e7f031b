"""Clients that nobody here wrote, against the sandbox over real TLS: Node's http2 and aioapns; and its control API."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from notifier.sandbox.http2 import PREFACE, Frames
from tests.edge.provider_world import KEY, P8, P256, PROJECT, RSA, TOPIC, android, token_of
from tests.sandbox.process import Sandbox, sandbox
from tests.servers import missing

# Reads {"url", "authority", "requests": [[headers, body]...]}; answers [[status, body, error]...] in order.
NODE = """
import {readFileSync} from "node:fs";
import {connect} from "node:http2";
const asked = JSON.parse(readFileSync(0));
const session = connect(asked.url, {ca: readFileSync(asked.authority)});
let goaways = 0;
session.on("goaway", () => { goaways += 1; });
session.on("error", () => {});
const one = ([headers, body]) => new Promise((done) => {
  const stream = session.request(headers);
  let status = 0;
  const parts = [];
  stream.on("response", (fields) => { status = fields[":status"]; });
  stream.on("data", (part) => parts.push(part));
  stream.on("error", (error) => done([status, "", error.code ?? "error"]));
  stream.on("end", () => done([status, Buffer.concat(parts).toString(), ""]));
  stream.on("close", () => done([status, "", `closed ${stream.rstCode}`]));
  stream.end(body);
});
const answers = [];
if (asked.alone) answers.push(await one(asked.requests.shift()));
answers.push(...await Promise.all(asked.requests.map(one)));
console.log(JSON.stringify({answers, goaways}));
session.destroy();
"""

AIOAPNS = """
import asyncio, json, ssl, sys
from aioapns import APNs, NotificationRequest
from aioapns.connection import APNsProductionClientProtocol
asked = json.load(sys.stdin)
class Here(APNsProductionClientProtocol):
    APNS_SERVER, APNS_PORT = asked["host"], asked["port"]
async def main():
    trust = ssl.create_default_context(cafile=asked["authority"])
    trust.set_alpn_protocols(["h2"])  # left to itself it offers none, and there is no HTTP/2 without (RFC 9113 3.2)
    client = APNs(key=asked["key"], key_id=asked["key_id"], team_id=asked["team_id"], topic=asked["topic"],
                  ssl_context=trust, max_connections=1)
    client.pool.protocol_class = Here
    def push(token):
        return client.send_notification(NotificationRequest(token, {"aps": {"alert": "hello"}}))
    said = [await push(asked["tokens"][0])]
    said += await asyncio.gather(*map(push, asked["tokens"][1:]))
    print(json.dumps([[each.status, each.description or ""] for each in said]))
asyncio.run(main())
"""


@pytest.fixture
def there(tmp_path: Path) -> Iterator[Sandbox]:
    with sandbox(tmp_path / "sandbox") as running:
        yield running


def node(there: Sandbox, to: str, requests: list[Any], *, alone: bool = False) -> Any:
    program = shutil.which("node")
    if program is None:
        missing("node", "not in PATH")
    assert program is not None
    script = Path(there.endpoints["authority"]).with_name("client.mjs")
    script.write_text(NODE)
    asked = {
        "url": there.endpoints[to],
        "authority": there.endpoints["authority"],
        "requests": requests,
        "alone": alone,
    }
    done = subprocess.run(
        [program, script], input=json.dumps(asked).encode(), capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


def signed() -> str:

    return jwt.encode({"iss": KEY.team_id, "iat": int(time.time())}, P256, "ES256", {"kid": KEY.key_id})


def apns(token: str) -> Any:
    headers = {
        ":method": "POST",
        ":path": f"/3/device/{token}",
        "authorization": f"bearer {signed()}",
        "apns-topic": TOPIC,
        "apns-push-type": "alert",
    }
    return [headers, json.dumps({"aps": {"alert": "hello"}})]


def test_node_pushes_to_apns(there: Sandbox) -> None:
    public = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    there.call("PUT", f"keys/apns/{KEY.key_id}", {"pem": public, "team": KEY.team_id})
    good = [token_of(number) for number in range(50)]
    odd = [token_of(0, prefix) for prefix in ("bad410", "bad429", "bad503", "bad003", "bad004")]
    said = node(there, "apns", [apns(token) for token in (*good, *odd)], alone=True)["answers"]
    assert [status for status, _, _ in said] == [200] * 50 + [410, 429, 503, 0, 0]
    assert json.loads(said[50][1])["reason"] == "Unregistered"
    assert json.loads(said[50][1])["timestamp"] > 1_700_000_000_000
    assert "INTERNAL_ERROR" in said[53][2] or "ERR_HTTP2" in said[53][2]
    phone = there.call("GET", f"devices/{good[7]}")
    assert [each["text"] for each in phone["shown"]] == ["hello"]
    assert there.call("GET", "counts")["apns"]["answers"]["200"] == 50


def test_node_is_told_to_go_away_and_is_answered(there: Sandbox) -> None:
    there.call("POST", "script", {"provider": "apns", "token": "c0ffee", "delay_ms": 200})
    requests = [apns(token_of(number)) for number in range(4)]
    requests.insert(2, apns(token_of(0, "bad005")))
    said = node(there, "apns", requests, alone=True)
    assert [status for status, _, _ in said["answers"]] == [200] * 5
    assert said["goaways"] == 1


def test_node_pushes_to_fcm(there: Sandbox) -> None:
    public = RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    there.call("PUT", "keys/fcm/k1", {"pem": public})
    path = f"/v1/projects/{PROJECT}/messages:send"

    def message(token: str, access: str = "nobody's") -> Any:
        headers = {":method": "POST", ":path": path, "authorization": f"Bearer {access}"}
        return [headers, json.dumps({"message": {"token": token, "data": {"a": "b"}}})]

    ((status, body, _),) = node(there, "fcm", [message(android(1))])["answers"]
    assert (status, json.loads(body)["error"]["status"]) == (401, "UNAUTHENTICATED")


def test_aioapns_pushes(there: Sandbox) -> None:
    if importlib.util.find_spec("aioapns") is None:
        missing("aioapns", "not installed (pip install aioapns)")
    host, _, port = there.endpoints["apns"].removeprefix("https://").partition(":")
    asked = {
        "host": host,
        "port": int(port),
        "authority": there.endpoints["authority"],
        "key": P8.decode(),
        "key_id": KEY.key_id,
        "team_id": KEY.team_id,
        "topic": TOPIC,
        "tokens": [
            token_of(0),
            *(token_of(n) for n in range(1, 20)),
            token_of(0, "bad410"),
            token_of(0, "bad400"),
        ],
    }
    done = subprocess.run(
        [sys.executable, "-c", AIOAPNS], input=json.dumps(asked).encode(), capture_output=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout) == [["200", ""]] * 20 + [
        ["410", "Unregistered"],
        ["400", "BadDeviceToken"],
    ]
    assert there.call("GET", "devices")["count"] == 20


@pytest.mark.parametrize("cut", [1, 3, 9, 10, 24, 30, 1000])
def test_a_senders_goaway_is_kept_from_h2_wherever_the_bytes_are_cut(cut: int) -> None:
    def frame(kind: int, payload: bytes) -> bytes:
        return len(payload).to_bytes(3, "big") + bytes((kind, 0, 0, 0, 0, 1)) + payload

    others = [PREFACE, frame(4, b""), frame(1, b"h" * 40), frame(0, b"d" * 70)]
    whole = b"".join((*others[:2], frame(7, b"g" * 8), others[2], frame(7, b"g" * 33), others[3]))
    frames, kept, told = Frames(), b"", 0
    for at in range(0, len(whole), cut):
        data, goaway = frames.feed(whole[at : at + cut])
        kept += data
        told += goaway
    assert kept == b"".join(others)
    assert told == (1 if cut >= len(whole) else 2)


# The control API ----------------------------------------------------------------------------------------------


def test_rules_come_and_go(there: Sandbox) -> None:
    number = there.call("POST", "script", {"provider": "apns", "status": 500, "reason": "X", "times": 1})[
        "number"
    ]
    (standing,) = there.call("GET", "script")["rules"]
    assert (standing["number"], standing["left"]) == (number, 1)
    there.call("DELETE", f"script/{number}")
    assert there.call("GET", "script")["rules"] == []
    for method, path, body, status in (
        ("POST", "script", {"provider": "nobody"}, 400),
        ("DELETE", "script/99", None, 404),
        ("GET", "devices/none", None, 404),
        ("PUT", "limits/nobody", {}, 404),
        ("PUT", "limits/apns", {"streams": "many"}, 400),
        ("GET", "nowhere", None, 404),
    ):
        with pytest.raises(HTTPError) as caught:
            there.call(method, path, body)
        assert caught.value.code == status
        caught.value.close()


def test_secrets_are_not_shown(there: Sandbox) -> None:
    node(there, "apns", [apns(token_of(1))])
    requests = there.call("GET", "requests")
    assert requests["requests"][0]["path"] == f"/3/device/{token_of(1)}"
    assert "eyJ" not in json.dumps(requests)
