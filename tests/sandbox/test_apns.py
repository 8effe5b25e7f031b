"""The fake APNs refuses what Apple refuses, in Apple's words."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from notifier.sandbox.apns import Apns, Key
from notifier.sandbox.exchange import Answer, Link, Request
from notifier.sandbox.phones import Phones
from notifier.sandbox.script import Rule, Script

NOW = 1_800_000_000.0
TOKEN = "0a" * 32
ID = "123e4567-e89b-12d3-a456-42661417400a"
KEY = ec.generate_private_key(ec.SECP256R1())
BODY = {
    "aps": {"alert": {"title": "ana", "body": "liked your photo"}, "badge": 3, "sound": "default"},
    "nid": "n1",
}


def provider_token(
    made: float = NOW, team: str = "TEAM123456", kid: str = "KEY1234567", alg: str = "ES256"
) -> str:
    key = KEY if alg == "ES256" else "s" * 32
    return jwt.encode({"iss": team, "iat": int(made)}, key, alg, {"kid": kid})


def request(
    changes: Mapping[str, str | None] = {}, body: object = BODY, token: str = TOKEN, method: str = "POST"
) -> Request:
    fields: dict[str, str | None] = {
        "authorization": f"bearer {provider_token()}",
        "apns-topic": "com.example.photos",
        "apns-push-type": "alert",
        "apns-priority": "10",
        "apns-id": ID,
        **changes,
    }
    given = {name: value for name, value in fields.items() if value is not None}
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Request(method, f"/3/device/{token}", given, raw, NOW)


def reason(answer: Answer) -> str:
    return str(json.loads(answer.body)["reason"])


@pytest.fixture
def apns() -> Apns:
    return Apns(Phones(), Script())


def test_a_good_push_is_shown(apns: Apns) -> None:
    link = Link()
    answer = apns.answer(request({"apns-collapse-id": "photo:1"}), link)
    assert (answer.status, answer.body, answer.fields["apns-id"]) == (200, b"", ID)
    assert link.proven
    phone = apns.phones.get(TOKEN)
    assert phone is not None
    assert phone.badge == 3
    assert [(each.title, each.text, each.data) for each in phone.shown.values()] == [
        ("ana", "liked your photo", {"nid": "n1"})
    ]


REFUSALS: list[tuple[dict[str, str | None], object, str, int]] = [
    ({"authorization": None}, BODY, "MissingProviderToken", 403),
    ({"authorization": "bearer nonsense"}, BODY, "InvalidProviderToken", 403),
    ({"authorization": f"bearer {provider_token(alg='HS256')}"}, BODY, "InvalidProviderToken", 403),
    ({"authorization": f"bearer {provider_token(NOW - 3601)}"}, BODY, "ExpiredProviderToken", 403),
    ({"authorization": f"bearer {provider_token(NOW + 600)}"}, BODY, "ExpiredProviderToken", 403),
    ({"apns-id": "1234"}, BODY, "BadMessageId", 400),
    ({"apns-push-type": "loud"}, BODY, "InvalidPushType", 400),
    ({"apns-topic": None}, BODY, "MissingTopic", 400),
    ({"apns-push-type": "voip"}, BODY, "BadTopic", 400),
    ({"apns-priority": "7"}, BODY, "BadPriority", 400),
    ({"apns-push-type": "background"}, BODY, "BadPriority", 400),
    ({"apns-expiration": "tomorrow"}, BODY, "BadExpirationDate", 400),
    ({"apns-collapse-id": "é" * 33}, BODY, "BadCollapseId", 400),
    ({}, b"", "PayloadEmpty", 400),
    ({}, b"{", "PayloadEmpty", 400),
    ({}, {"aps": {"alert": "x" * 4096}}, "PayloadTooLarge", 413),
]


@pytest.mark.parametrize(("changes", "body", "why", "status"), REFUSALS)
def test_what_is_refused(
    apns: Apns, changes: dict[str, str | None], body: object, why: str, status: int
) -> None:
    answer = apns.answer(request(changes, body), Link())
    assert (answer.status, reason(answer)) == (status, why)
    assert apns.phones.get(TOKEN) is None


@pytest.mark.parametrize(
    ("path", "method", "why"),
    [
        (TOKEN, "GET", "MethodNotAllowed"),
        ("", "POST", "MissingDeviceToken"),
        ("0A", "POST", "BadDeviceToken"),
        ("a/b", "POST", "BadPath"),
    ],
)
def test_paths_and_methods(apns: Apns, path: str, method: str, why: str) -> None:
    assert reason(apns.answer(request(token=path, method=method), Link())) == why


def test_a_certificate_needs_no_token_and_no_topic(apns: Apns) -> None:
    assert (
        apns.answer(request({"authorization": None, "apns-topic": None}), Link(certificate=True)).status
        == 200
    )


def test_a_connection_belongs_to_one_team(apns: Apns) -> None:
    link = Link()
    assert apns.answer(request(), link).status == 200
    other = {"authorization": f"bearer {provider_token(team='OTHER12345')}"}
    assert reason(apns.answer(request(other), link)) == "Forbidden"


def test_known_keys_are_verified(apns: Apns) -> None:
    apns.keys["KEY1234567"] = Key("TEAM123456", KEY.public_key())
    assert apns.answer(request(), Link()).status == 200
    apns.keys["KEY1234567"] = Key("TEAM123456", ec.generate_private_key(ec.SECP256R1()).public_key())
    assert reason(apns.answer(request(), Link())) == "InvalidProviderToken"


def test_a_topic_of_another_app(apns: Apns) -> None:
    apns = Apns(Phones(), Script(), frozenset({"com.example.other"}))
    assert reason(apns.answer(request(), Link())) == "DeviceTokenNotForTopic"


def test_410_has_a_timestamp_in_milliseconds(apns: Apns) -> None:
    answer = apns.answer(request(token="bad410" + "0" * 58), Link())
    assert (answer.status, json.loads(answer.body)) == (
        410,
        {"reason": "Unregistered", "timestamp": int(NOW * 1000)},
    )


def test_an_answer_that_never_comes_may_or_may_not_have_been_processed(apns: Apns) -> None:
    apns.script.add(Rule("apns", action="reset", times=1))
    apns.script.add(Rule("apns", action="refuse", times=1))
    assert apns.answer(request(), Link()).action == "reset"
    assert apns.phones.accepted["ios"] == 1  # reset: it was
    assert apns.answer(request(), Link()).action == "refuse"
    assert apns.phones.accepted["ios"] == 1  # refused: it was not


def test_times_are_the_sandboxs_own(apns: Apns) -> None:
    assert abs(NOW - time.time()) > 3600, "the test's clock is not the machine's, or this proves nothing"
    assert apns.answer(request(), Link()).status == 200
