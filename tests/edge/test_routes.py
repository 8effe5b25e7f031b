"""Requests of the API are counted by call and class of status, and nothing a client sends adds a label."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from notifier.edge import routes
from notifier.edge.api import Api
from notifier.metrics import Metrics
from tests.client import token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey

CALLS = [
    (b"GET", b"/v1/inbox", "inbox"),
    (b"HEAD", b"/v1/inbox", "inbox"),
    (b"DELETE", b"/v1/inbox/a%2Fb", "delete"),
    (b"GET", b"/v1/inbox/unread", "unread"),
    (b"POST", b"/v1/inbox/unread", "other"),
    (b"OPTIONS", b"/v1/inbox", "preflight"),
    (b"BREW", b"/v1/inbox", "other"),
    (b"GET", b"/../../etc/passwd", "other"),
]


@pytest.mark.parametrize(("method", "path", "name"), CALLS)
def test_a_request_is_one_of_the_calls(method: bytes, path: bytes, name: str) -> None:
    assert routes.route(method, path) == name
    assert routes.label(method, path, 404) in routes.LABELS


def test_every_address_of_the_api_has_a_name() -> None:
    rules = [rule for rule in Api.app.url_map.iter_rules() if "<" not in rule.rule]
    assert rules
    for rule in rules:
        (method,) = (rule.methods or set()) - {"HEAD"}
        assert routes.route(method.encode(), rule.rule.encode()) != "other", rule


def test_two_labels_are_exported_apart() -> None:
    metrics = Metrics({"api_requests": routes.LABELS})
    metrics.api_requests.count("inbox 2xx", 3)
    metrics.api_requests.count("strange 9xx")
    text = metrics.render().decode()
    assert 'notifier_api_requests_total{route="inbox",status="2xx"} 3.0' in text
    assert 'notifier_api_requests_total{route="other",status="other"} 1.0' in text
    assert 'notifier_api_requests_total{route="events",status="5xx"} 0.0' in text


def test_requests_are_counted(tmp_path: Path, valkey: Valkey, redis_url: str) -> None:
    with Daemon(tmp_path, redis_url) as daemon:
        base = f"http://127.0.0.1:{daemon.port('api')}"
        headers = {"Authorization": f"Bearer {token('ana')}"}
        for path in ("/v1/inbox?limit=1", "/v1/inbox", "/v1/inbox/unread"):
            with urllib.request.urlopen(urllib.request.Request(base + path, headers=headers), timeout=20):
                pass
        for path in ("/v1/inbox", "/v1/nowhere"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(base + path, timeout=20)
            refused.value.close()
        with socket.create_connection(("127.0.0.1", daemon.port("api"))) as client:
            client.sendall(b"POST /v1/inbox/read HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n")
            assert client.recv(12) == b"HTTP/1.1 413"

        def counted() -> dict[str, float]:
            return {
                name.removeprefix("api_requests_total"): value
                for name, value in daemon.metrics().items()
                if name.startswith("api_requests_total") and value
            }

        wanted = {
            '{route="inbox",status="2xx"}': 2,
            '{route="inbox",status="4xx"}': 1,
            '{route="unread",status="2xx"}': 1,
            '{route="read",status="4xx"}': 1,
            '{route="other",status="4xx"}': 1,
        }
        wait_until(lambda: counted() == wanted, 5, lambda: str(counted()))
