"""FCM against the sandbox, over TLS, with its OAuth endpoint: each row of the table of outcomes, tokens, quotas."""

# mypy: allow-untyped-calls

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred

from notifier.core.outcomes import FCM
from notifier.core.rate import RateRule
from notifier.edge.fcm import LIMITS, PATIENCE
from notifier.edge.http2.dial import Place
from notifier.sandbox.exchange import json_answer
from tests.edge.http2.world import pause, until
from tests.edge.provider_world import (
    ONE,
    PROJECT,
    World,
    android,
    kinds,
    no_canaries_logged,
    requests,
    sandboxed,
)

HASTY = msgspec.structs.replace(LIMITS, answer_within=0.4, wait_within=2.0)
PHONES = [android(number) for number in range(40)]


def asked(phones: list[str] = PHONES, nid: str = "n1") -> Any:
    return requests(phones, nid, provider="fcm")


def grants(world: World) -> int:
    return sum(seen.provider == "oauth" for seen in world.sandbox.seen)


async def test_messages_arrive_as_they_were_meant(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.knows_keys()
        assert kinds(await world.fcm().send(asked())) == ["delivered 200"] * len(PHONES)
        phone = world.sandbox.phones.get(PHONES[7])
        assert phone is not None
        (shown,) = phone.shown.values()
        assert (shown.text, shown.data["nid"], phone.badge) == ("ana liked your photo", "n1", 3)
        seen = world.sandbox.seen[-1]
        assert seen.path == f"/v1/projects/{PROJECT}/messages:send"
        assert json.loads(seen.body)["message"]["android"]["priority"] == "HIGH"
        assert grants(world) == 1


async def test_many_at_once_ask_for_one_access_token(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm()
        sends = [Deferred.fromCoroutine(fcm.send(asked([phone]))) for phone in PHONES]
        for send in sends:
            assert kinds(await send) == ["delivered 200"]
        assert grants(world) == 1


# Outcomes ---------------------------------------------------------------------------------------------------


def error(status: int, reason: str) -> dict[str, Any]:
    """An error as Google writes it, for a row of the table; what is behind the colon is in its details."""
    code, _, more = reason.partition(":")
    body: dict[str, Any] = {"code": status, "message": "said", "status": code, "details": []}
    detail = {"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}
    if code not in ("NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED"):
        body["details"].append(detail)
    if more == "token":
        body["message"] = "The registration token is not a valid FCM registration token"
    if more == "device":
        body["message"] = "Quota exceeded for the device."
    return {"error": body}


async def test_every_row_of_the_table_over_the_wire(tmp_path: Path) -> None:
    rows = [row for row in FCM if row[0] != 200]
    by_token = {android(number): row for number, row in enumerate(rows)}
    async with sandboxed(tmp_path) as world:
        factory = world.sandbox.factories["fcm"]

        class Scripted:
            def answer(self, request: Any, link: Any) -> Any:
                status, reason = by_token[json.loads(request.body)["message"]["token"]]
                return json_answer(status, error(status, reason))

        factory.provider = Scripted()
        outcomes = await world.fcm().send(asked(list(by_token)))
        assert [(each.status, each.reason) for each in outcomes] == rows
        for row, outcome in zip(rows, outcomes, strict=True):
            assert (outcome.kind, outcome.scope, outcome.action) == FCM[row]


async def test_the_sandboxs_own_errors(tmp_path: Path) -> None:
    prefixes = {
        "bad400": "drop_token 400 INVALID_ARGUMENT:token",
        "bad401": "reconnect_retry 401 UNAUTHENTICATED",
        "bad403": "drop_token 403 SENDER_ID_MISMATCH",
        "bad404": "config_error 404 NOT_FOUND",
        "bad410": "drop_token 404 UNREGISTERED",
        "bad413": "drop_message 413",
        "bad429": "retry 429 QUOTA_EXCEEDED:device",
        "bad500": "retry 500 INTERNAL",
        "bad503": "retry 503 UNAVAILABLE",
        "bad004": "reconnect_retry 0 refused",
        "bad003": "unknown 0 reset",
    }
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm()
        await fcm.send(asked(PHONES[:1]))
        outcomes = await fcm.send(asked([android(0, prefix) for prefix in prefixes]))
        assert dict(zip(prefixes, kinds(outcomes), strict=True)) == prefixes


async def test_retry_after_as_a_date(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("fcm", status=503, reason="UNAVAILABLE", retry_after="Wed, 21 Oct 2099 07:28:00 GMT")
        (outcome,) = await world.fcm().send(asked(PHONES[:1]))
        assert outcome.retry_after is not None
        assert outcome.retry_after > 86_400


# The access token -------------------------------------------------------------------------------------------


async def test_a_token_that_google_forgot_is_fetched_anew_once(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm()
        await fcm.send(asked(PHONES[:1]))
        world.sandbox.fcm.granted.clear()
        world.skew = 70.0  # what is younger is not asked for anew
        assert kinds(await fcm.send(asked())) == ["delivered 200"] * len(PHONES)
        assert grants(world) == 2
        assert {world.shown(phone) for phone in PHONES[1:]} == {1}


async def test_a_token_that_is_refused_again_is_told(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("fcm", status=401, reason="UNAUTHENTICATED")
        fcm = world.fcm()
        await fcm.send([])
        world.skew = 70.0
        assert kinds(await fcm.send(asked(PHONES[:5]))) == ["reconnect_retry 401 UNAUTHENTICATED"] * 5
        assert grants(world) <= 2
        assert world.sandbox.factories["fcm"].counts.answers == {"401": 10}


async def test_no_push_is_sent_a_third_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("fcm", status=401, reason="UNAUTHENTICATED")
        fcm = world.fcm()
        monkeypatch.setattr(fcm._tokens, "refused", lambda token: True)
        assert kinds(await fcm.send(asked(PHONES[:5]))) == ["reconnect_retry 401 UNAUTHENTICATED"] * 5
        assert world.sandbox.factories["fcm"].counts.answers == {"401": 10}


async def test_a_service_account_that_was_deleted(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("oauth", status=400, reason="invalid_grant")
        with no_canaries_logged() as lines:
            fcm = world.fcm()
            assert kinds(await fcm.send(asked()))[0] == "config_error 403 PERMISSION_DENIED"
            assert any("invalid_grant" in line for line in lines)
        await fcm.send(asked())
        assert grants(world) == 1, "nobody hammers"
        assert world.sandbox.factories["fcm"].counts.requests == 0


async def test_the_token_endpoint_is_down(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        world.rule("oauth", status=503, times=1)
        fcm = world.fcm()
        assert kinds(await fcm.send(asked()))[0] == "reconnect_retry 0 unreachable"
        world.skew += 5
        outcomes: list[str] = []
        while "delivered 200" not in outcomes:  # a pause of 1 to 1.5 s, then it asks again
            outcomes = kinds(await fcm.send(asked(PHONES[:1])))
            await pause(0.1)
        assert grants(world) == 2


# The line and the quota -------------------------------------------------------------------------------------


async def test_goaway_hang_and_a_cut_line(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm(HASTY)
        await fcm.send(asked(PHONES[:1]))
        away = await fcm.send(asked([*PHONES[:20], android(1, "bad005"), *PHONES[20:]], "n2"))
        assert kinds(away) == ["delivered 200"] * 41
        hung = await fcm.send(asked([*PHONES, android(1, "bad002")], "n3"))
        assert kinds(hung) == ["delivered 200"] * 40 + ["unknown 0 timeout"]
        cut = await fcm.send(asked([android(1, "bad006"), *PHONES], "n4"))
        assert cut[0].reason == "lost"
        assert {each.kind for each in cut} <= {"unknown", "delivered"}


@pytest.mark.parametrize("limits", [{"streams": 1}, {"window": 64}])
async def test_a_server_that_lets_little_through(tmp_path: Path, limits: dict[str, int]) -> None:
    async with sandboxed(tmp_path) as world:
        world.sandbox.factories["fcm"].limit(limits)
        assert kinds(await world.fcm().send(asked())) == ["delivered 200"] * len(PHONES)
        assert {world.shown(phone) for phone in PHONES} == {1}


async def test_an_authority_that_nobody_trusts(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm(trust=None)
        assert kinds(await fcm.send(asked())) == ["reconnect_retry 0 unreachable"] * 40
        assert "no authority that is trusted here" in fcm.pool.fault
        assert world.sandbox.factories["fcm"].counts.requests == 0


async def test_a_name_that_does_not_resolve(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm(to=Place("fcm.invalid"))
        assert kinds(await fcm.send(asked(PHONES[:2]))) == ["reconnect_retry 0 unreachable"] * 2


async def test_the_quota_spreads_what_comes_at_once(tmp_path: Path) -> None:
    """A hundred a second: of 40 and 40 the second half waits; 2 000 more wait nowhere but in the lane."""
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm(rate=RateRule(most=100.0, burst=0.4, ramp=60.0, start=1.0))
        first = Deferred.fromCoroutine(fcm.send(asked()))
        await until(lambda: first.called)
        second = Deferred.fromCoroutine(fcm.send(asked(nid="n2")))
        assert not second.called
        assert kinds(await second) == ["delivered 200"] * 40
        many = [android(number) for number in range(100, 100 + int(PATIENCE * 100) + 100)]
        outcomes = await fcm.send(asked(many))
        told = kinds(outcomes)
        taken = told.count("delivered 200")
        assert told == ["delivered 200"] * taken + ["reconnect_retry 0 paced"] * (len(many) - taken)
        assert 0 < taken < len(many)
        assert {outcome.retry_after for outcome in outcomes[taken:]} == {1}


async def test_a_stop_does_not_wait_for_those_whose_turn_has_not_come(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm(rate=RateRule(most=1.0, burst=1.0, ramp=1e6, start=1.0))
        assert kinds(await fcm.send(asked(PHONES[:1]))) == ["delivered 200"]
        waiting = Deferred.fromCoroutine(fcm.send(asked(PHONES[1:2])))
        await pause(0.1)
        before = waiting.called
        stopped = Deferred.fromCoroutine(fcm.stop())
        assert (before, waiting.called) == (False, True)
        assert kinds(await waiting) == ["reconnect_retry 0 refused"]
        assert kinds(await fcm.send(asked(PHONES[2:3]))) == ["reconnect_retry 0 waited"]
        await stopped
        assert world.shown(PHONES[1]) == 0


async def test_a_token_that_comes_late_sends_nothing_that_was_looked_at_before(tmp_path: Path) -> None:
    limits = msgspec.structs.replace(LIMITS, wait_within=0.2)
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm(limits)
        token = fcm._tokens.token

        async def late() -> str:
            await pause(0.5)
            fcm._tokens.token = token  # type: ignore[method-assign]
            return await token()

        fcm._tokens.token = late  # type: ignore[method-assign]
        assert kinds(await fcm.send(asked(PHONES[:3]))) == ["reconnect_retry 0 waited"] * 3
        assert kinds(await fcm.send(asked(PHONES[:3]))) == ["delivered 200"] * 3


async def test_processes_share_the_rate(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        there = [1]
        rate = RateRule(most=200.0, burst=1.0, ramp=1e6, start=1.0)
        fcm = world.fcm(rate=rate, processes=lambda: there[0])
        assert kinds(await fcm.send(asked())) == ["delivered 200"] * 40
        there[0] = 20
        outcomes = kinds(await fcm.send(asked(nid="n2")))
        assert 0 < outcomes.count("delivered 200") < 40
        assert outcomes[-1] == "reconnect_retry 0 paced"


async def test_a_full_queue_of_ours_says_nothing_of_google(tmp_path: Path) -> None:
    async with sandboxed(tmp_path) as world:
        fcm = world.fcm()
        fcm.pool._sizes = msgspec.structs.replace(ONE, waiting=2)
        assert kinds(await fcm.send(asked(PHONES[:1]))) == ["delivered 200"]
        outcomes = kinds(await fcm.send(asked(PHONES[:4])))
        assert outcomes == ["delivered 200"] * 2 + ["reconnect_retry 0 waited"] * 2
