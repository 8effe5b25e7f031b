"""A provider that is stopped in the middle of everything: lines stay open, the kernel takes more, nobody answers."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest
from twisted.internet.threads import deferToThread

from notifier.core.breaker import BreakerRule
from notifier.edge.apns import LIMITS, Apns
from notifier.edge.http2.dial import place, trusted
from notifier.edge.provider_tokens import ApnsTokens
from notifier.edge.signing import es256
from tests.edge.http2.world import pause, reactor
from tests.edge.provider_world import KEY, ONE, P8, TOPIC, kinds, no_canaries_logged, requests, token_of
from tests.sandbox.process import sandbox

TOKENS = [token_of(number) for number in range(20)]
HASTY = msgspec.structs.replace(LIMITS, answer_within=1.0, wait_within=2.0, ping_within=0.5)


@pytest.mark.timeout(60)
async def test_a_provider_that_stands_still_and_comes_back(tmp_path: Path) -> None:
    running = sandbox(tmp_path / "sandbox")
    there = await deferToThread(running.__enter__)
    try:
        at = place(there.endpoints["apns"])
        tokens = ApnsTokens(KEY, es256(P8), time.time, lambda: 0.5)
        apns = Apns(
            reactor, "photos", TOPIC, tokens, time.time, {"production": at, "sandbox": at},
            trusted(there.endpoints["authority"]), HASTY, ONE, BreakerRule(floor=0.1), lambda: 0.01,
        )  # fmt: skip
        with no_canaries_logged():
            assert kinds(await apns.send(requests(TOKENS))) == ["delivered 200"] * 20
            there.pause()
            silent = await apns.send(requests(TOKENS, "n2"))
            assert {each.kind for each in silent} == {"unknown"}, "sent, and nobody knows"
            later = await apns.send(requests(TOKENS, "n3"))
            assert {each.kind for each in later} == {"reconnect_retry"}, (
                "no push is put into a line that stands still"
            )
            there.resume()
            left = TOKENS
            while left:
                outcomes = await apns.send(requests(left, "n4"))
                left = [token for token, each in zip(left, outcomes, strict=True) if each.kind != "delivered"]
                await pause(0.1)
        phones = (await deferToThread(there.call, "GET", "devices"))["devices"]
        assert len(phones) == 20
        assert {phone["shown_twice"] for phone in phones} == {0}
        await apns.stop()
    finally:
        await deferToThread(running.__exit__, None, None, None)
