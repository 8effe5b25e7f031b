"""Loops that send, over a real server: handover and what is due wake them, not the poll."""

from __future__ import annotations

from functools import partial

from notifier.core import keys
from notifier.edge.bus import RedisBus
from notifier.edge.doorbells import Doorbells
from notifier.edge.loop import Loop
from notifier.edge.push_store import RedisPushes
from notifier.edge.redis import Subscription
from tests.contract.phones import APNS, DOWN, OK, FakeProvider, Process, enlist, phone
from tests.contract.world import METRICS, TAG, Reader, RedisWorld, event, pause, people

(U,) = people(1)
NEVER = 600.0  # s between polls: longer than any test


async def until(real: RedisWorld, provider: FakeProvider, sent: int) -> None:
    while len(provider.sent) < sent:
        await pause(0.005)


async def test_what_is_appended_wakes_who_sleeps_and_a_stop_is_prompt(real: RedisWorld) -> None:
    from twisted.internet import reactor

    bells = Doorbells(reactor)
    subscription = real._connect(Subscription, "bell")
    bus = RedisBus(subscription, 1, "one", METRICS, bells.heard)
    await subscription.ready()
    while not bus.heard:
        await pause(0.001)
    await enlist(real, U, [phone()])
    provider = FakeProvider()
    process = Process(real, provider)
    log = process.log
    assert isinstance(log, RedisPushes)
    log.wait, log.ring = partial(bells.wait, 0, str(APNS)), partial(bells.ring, 0, str(APNS))
    loops = [Loop(reactor, process.sender, f"{APNS} {n}", NEVER) for n in range(3)]
    for loop in loops:
        loop.start()
    await Reader(real).deliver(event("comment", to=U))
    await until(real, provider, 1)
    provider.answer = lambda _: DOWN
    await Reader(real).deliver(event("comment", to=U, thing="2"))
    await until(real, provider, 2)
    provider.answer = lambda _: OK
    while not await real.waiting():
        await pause(0.005)
    await real.hurry()
    assert (await real.due().wake()).moved == 1
    await until(real, provider, 3)
    assert provider.sent[-1].tries == 1
    for loop in loops:
        loop.halt()
    bells.wake_all()
    for loop in loops:
        await loop.stop()
    assert [loop.fault for loop in loops] == [""] * 3
    assert (await real.calls.call("XPENDING", keys.pushes(TAG, APNS), keys.GROUP))[0] == 0
