"""Devices over the API, on a real Valkey: who may register what, and whose a token is then."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from notifier.core.devices import App, device_id
from notifier.core.model import Device
from notifier.edge.device_store import RedisDevices
from notifier.edge.store import Rules, Scripts
from tests import reactor
from tests.edge.test_api import PAGE, Server, token

APPLE = "0a" * 32
GOOGLE = "cGhvbmU:APA91bE_-~%=+token-of-a-phone"
APPS = {"photos": App(frozenset(("apns", "fcm"))), "apple": App(frozenset(("apns",)), "sandbox")}
IPHONE = {"platform": "apns", "app": "photos"}


class Site(Server):
    """The API over real devices."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.devices = RedisDevices(self.calls, Scripts(), Rules(devices=2))
        self.site.api.devices, self.site.api.apps = self.devices, APPS

    def of(self, user: str = "ana") -> tuple[Device, ...]:
        async def of() -> tuple[Device, ...]:
            return await self.devices.of(user)

        found: tuple[Device, ...] = reactor.run(of)
        return found


@pytest.fixture
def site(redis_url: str) -> Iterator[Site]:
    site = Site(redis_url)
    yield site
    site.stop()


def test_a_device_is_registered_with_all_that_its_app_tells(site: Site) -> None:
    told = IPHONE | {"locale": "pt_BR", "time_zone": "Europe/Lisbon", "app_version": "7.1"}
    reply = site.ask(f"/v1/devices/{APPLE.upper()}", "PUT", told)
    assert (reply.status, reply.body) == (204, b"")
    (device,) = site.of()
    assert device.registered > 1_700_000_000_000
    assert device == Device(
        device_id(APPLE),
        "apns",
        "photos",
        APPLE,
        device.registered,
        "production",
        "pt-BR",
        "Europe/Lisbon",
        "7.1",
    )


def test_the_environment_that_is_not_told_is_the_apps(site: Site) -> None:
    assert site.ask(f"/v1/devices/{APPLE}", "PUT", {"platform": "apns", "app": "apple"}).status == 204
    assert site.of()[0].environment == "sandbox"


def test_gcm_is_the_older_name_of_fcm(site: Site) -> None:
    quoted = GOOGLE.replace("%", "%25").replace(":", "%3A")
    assert site.ask(f"/v1/devices/{quoted}", "PUT", {"platform": "gcm", "app": "photos"}).status == 204
    (device,) = site.of()
    assert (device.provider, device.token) == ("fcm", GOOGLE)


def test_a_token_is_one_persons(site: Site) -> None:
    assert site.ask(f"/v1/devices/{APPLE}", "PUT", IPHONE).status == 204
    assert site.ask(f"/v1/devices/{APPLE}", "PUT", IPHONE, bearer=token("bo")).status == 204
    assert site.of("ana") == ()
    assert [device.token for device in site.of("bo")] == [APPLE]
    # nor may who had it take it away from who has it
    assert site.ask(f"/v1/devices/{APPLE}", "DELETE").status == 204
    assert len(site.of("bo")) == 1


def test_a_device_that_is_not_there_is_gone_too(site: Site) -> None:
    assert site.ask(f"/v1/devices/{APPLE}", "DELETE").status == 204
    assert site.ask(f"/v1/devices/{APPLE}", "PUT", IPHONE).status == 204
    assert [site.ask(f"/v1/devices/{APPLE.upper()}", "DELETE").status for _ in range(2)] == [204, 204]
    assert site.of() == ()


def test_the_oldest_device_makes_room(site: Site) -> None:
    tokens = [f"{number:064x}" for number in range(3)]
    for each in tokens:
        assert site.ask(f"/v1/devices/{each}", "PUT", IPHONE).status == 204
    assert {device.token for device in site.of()} == set(tokens[1:])


@pytest.mark.parametrize(
    ("address", "body", "where"),
    [
        ("00", IPHONE, {"parameter": "token"}),
        (GOOGLE.replace("%", "%25"), IPHONE, {"parameter": "token"}),
        (APPLE, IPHONE | {"app": "other"}, {"pointer": "#/app"}),
        (APPLE, {"platform": "fcm", "app": "apple"}, {"pointer": "#/platform"}),
        (APPLE, IPHONE | {"platform": "wns"}, {"pointer": "#/platform"}),
        (APPLE, IPHONE | {"environment": "test"}, {"pointer": "#/environment"}),
        (APPLE, IPHONE | {"locale": "?"}, {"pointer": "#/locale"}),
        (APPLE, {"platform": "apns"}, {"pointer": "#"}),
        (APPLE, [], {"pointer": "#"}),
        (APPLE, b"{", {"pointer": "#"}),
        (APPLE, IPHONE | {"x": "x" * 4096}, {"pointer": "#"}),
    ],
)
def test_what_does_not_fit_is_refused_without_repeating_the_token(
    site: Site, address: str, body: Any, where: dict[str, str]
) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    reply = site.ask(f"/v1/devices/{address}", "PUT", content, Content_Type="application/json")
    assert reply.problem == "invalid-request"
    (wrong,) = reply.json["errors"]
    assert {name: wrong[name] for name in where} == where
    assert address.encode() not in reply.body or len(address) < 8
    assert site.of() == ()


def test_it_must_be_json(site: Site) -> None:
    reply = site.ask(f"/v1/devices/{APPLE}", "PUT", json.dumps(IPHONE).encode(), Content_Type="text/plain")
    assert reply.problem == "not-json"


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_only_with_the_token_of_a_person(site: Site, method: str) -> None:
    body = IPHONE if method == "PUT" else None
    assert site.ask(f"/v1/devices/{APPLE}", method, body, bearer=None).problem == "not-authenticated"
    publisher = token("relay", scope="publish")
    assert site.ask(f"/v1/devices/{APPLE}", method, body, bearer=publisher).problem == "missing-scope"


def test_a_revoked_token_changes_nothing(site: Site) -> None:
    assert site.ask(f"/v1/devices/{APPLE}", "PUT", IPHONE).status == 204

    async def revoke() -> None:
        await site.inbox.revoke("ana")

    reactor.run(revoke)
    assert site.ask(f"/v1/devices/{'0b' * 32}", "PUT", IPHONE).problem == "revoked-token"
    assert site.ask(f"/v1/devices/{APPLE}", "DELETE").problem == "revoked-token"
    assert [device.token for device in site.of()] == [APPLE]


def test_a_page_of_an_allowed_origin_may_put(site: Site) -> None:
    asked = {"Origin": PAGE, "Access_Control_Request_Method": "PUT"}
    reply = site.ask(f"/v1/devices/{APPLE}", "OPTIONS", bearer=None, **asked)
    assert reply.status == 204
    assert "PUT" in reply.headers["access-control-allow-methods"]


def test_without_a_store_there_is_no_such_address(site: Site) -> None:
    site.site.api.devices = None
    assert site.ask(f"/v1/devices/{APPLE}", "PUT", IPHONE).problem == "not-found"
