"""Bad answers for many devices at once: a tenth of dead tokens is believed, a set-up that is wrong costs none."""

# mypy: allow-untyped-calls

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from notifier.core.devices import device_id
from notifier.core.lanes import Lane
from notifier.core.model import Device
from notifier.core.model import Provider as Wire
from notifier.ports import Provider
from notifier.sandbox.apns import Key
from tests.contract.phones import Process
from tests.contract.world import Reader, RedisWorld, event, people
from tests.edge.provider_world import KEY, World, android, token_of

REGISTERED: Final = 1_700_000_000_000  # ms
ROUNDS: Final = 8  # that what waits may be tried again until all has come to its end


class Patient(Process):
    """A process whose steady clock the test moves on; what is due by Redis's clock is made due by hand."""

    skew = 0.0

    def clock(self) -> float:
        return super().clock() + self.skew


class Audience:
    """`count` people with one phone each, on one lane, and one process that sends to them."""

    def __init__(self, there: World, real: RedisWorld, wire: Wire, count: int) -> None:
        self.there, self.real, self.lane = there, real, Lane("demo", wire)
        self.users = people(count)
        make = token_of if wire == "apns" else android
        self.tokens = {user: make(number) for number, user in enumerate(self.users)}
        self.process = Patient(real, self.provider(), self.lane)  # type: ignore[arg-type]
        self.comments = 0

    def provider(self) -> Provider:
        made: Provider = self.there.apns() if self.lane.provider == "apns" else self.there.fcm()
        return made

    def mended(self) -> None:
        """Another provider, as after a reload."""
        self.process.sender.provider = self.provider()
        self.process.gate.renew(self.process.clock())

    async def enlist(self) -> None:
        for user, token in self.tokens.items():
            one = Device(device_id(token), self.lane.provider, self.lane.app, token, REGISTERED)
            assert await self.real.devices().restore(user, one)

    async def comment(self) -> None:
        self.comments += 1
        await Reader(self.real).deliver(event("comment", to=self.users, thing=str(self.comments)))
        await self.process.run()

    async def later(self, seconds: float = 400.0) -> None:
        """So long later: what waited is tried again."""
        self.process.skew += seconds
        await self.real.hurry()
        while await self.process.due.once():
            await self.process.run()
        await self.process.run()

    async def rest(self) -> None:
        for _ in range(ROUNDS):
            if not await self.real.waiting():
                break
            await self.later()
        assert await self.real.waiting() == {}
        assert (await self.process.log.depth()).entries == 0

    async def enlisted(self) -> set[str]:
        return {user for user in self.users if await self.real.devices().of(user)}

    def shown(self, user: str) -> int:
        phone = self.there.sandbox.phones.get(self.tokens[user])
        if phone is None:
            return 0
        assert phone.shown_twice == 0
        return len(phone.shown)


class Wrong(NamedTuple):
    """How a set-up can be wrong for everybody at once, and how it is mended."""

    wire: Wire
    wrong: Callable[[World], object]
    mend: Callable[[World], object]


def _other_key(there: World) -> None:
    there.knows_keys()
    there.sandbox.apns.keys[KEY.key_id] = Key(
        KEY.team_id, ec.generate_private_key(ec.SECP256R1()).public_key()
    )


def _forget_keys(there: World) -> None:
    there.sandbox.apns.keys.clear()
    there.sandbox.fcm.keys.clear()


def _script(wire: Wire, status: int, reason: str) -> Wrong:
    return Wrong(
        wire,
        lambda there: there.rule(wire, status=status, reason=reason),
        lambda there: there.sandbox.script.clear(),
    )


WRONG: Final = {
    "key": Wrong("apns", _other_key, _forget_keys),
    "topic": Wrong(
        "apns",
        lambda there: setattr(there.sandbox.apns, "topics", frozenset({"com.example.other"})),
        lambda there: setattr(there.sandbox.apns, "topics", frozenset()),
    ),
    "topic-disallowed": _script("apns", 400, "TopicDisallowed"),
    "environment": _script("apns", 400, "BadDeviceToken"),
    "project": Wrong(
        "fcm",
        lambda there: setattr(there.sandbox.fcm, "projects", frozenset({"others"})),
        lambda there: setattr(there.sandbox.fcm, "projects", frozenset()),
    ),
    "sender": _script("fcm", 403, "SENDER_ID_MISMATCH"),
    "not-a-token": _script("fcm", 400, "INVALID_TOKEN"),
    "no-permission": _script("fcm", 403, "PERMISSION_DENIED"),
}


@pytest.fixture
def clean(there: World) -> Iterator[World]:
    there.sandbox.phones.clear()
    yield there
    there.sandbox.script.clear()
    for wrong in WRONG.values():
        wrong.mend(there)


@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("before", ["from-the-start", "after-a-good-time"])
async def test_a_wrong_set_up_costs_no_token_and_no_push(
    clean: World, real: RedisWorld, name: str, before: str
) -> None:
    wrong = WRONG[name]
    audience = Audience(clean, real, wrong.wire, 60)
    await audience.enlist()
    if before == "after-a-good-time":
        await audience.comment()
    wrong.wrong(clean)
    for _ in range(2):
        audience.mended()  # an operator who tries something else, which is as wrong
        await audience.comment()
        for _ in range(3):
            await audience.later()
            assert await audience.enlisted() == set(audience.users)
    assert {audience.shown(user) for user in audience.users} == {audience.comments - 2}
    assert await real.dead_tokens() == []
    wrong.mend(clean)
    audience.mended()
    await audience.later()
    await audience.rest()
    assert {audience.shown(user) for user in audience.users} == {audience.comments}
    assert await audience.enlisted() == set(audience.users)
    assert await real.calls.call("KEYS", "dead:*") == []


@pytest.mark.parametrize("wire", ["apns", "fcm"])
async def test_a_tenth_of_dead_tokens_is_forgotten_and_nobody_else(
    clean: World, real: RedisWorld, wire: Wire
) -> None:
    """Half of them are gone for certain, the others only seem to be: these are asked for twice."""
    audience = Audience(clean, real, wire, 300)
    await audience.enlist()
    await audience.comment()
    dead = dict.fromkeys(audience.users[::20], "gone") | dict.fromkeys(audience.users[10::20], "seem gone")
    gone, seems = (("Unregistered", 410), ("BadDeviceToken", 400)) if wire == "apns" else (
        ("UNREGISTERED", 404), ("INVALID_TOKEN", 400),
    )  # fmt: skip
    for user, how in dead.items():
        reason, status = gone if how == "gone" else seems
        clean.rule(wire, audience.tokens[user], status=status, reason=reason)
    await audience.comment()
    assert await audience.enlisted() == {user for user in audience.users if dead.get(user) != "gone"}
    await audience.rest()
    living = set(audience.users) - dead.keys()
    assert len(living) == 270
    assert await audience.enlisted() == living
    told = await real.dead_tokens()
    assert sorted(one.user for one in told) == sorted(dead)
    assert {one.device.token for one in told} == {audience.tokens[user] for user in dead}
    assert {audience.shown(user) for user in living} == {2}
    asked = len(clean.sandbox.seen)
    clean.sandbox.seen.clear()
    assert asked
    await audience.comment()
    assert {audience.shown(user) for user in living} == {3}
    assert sum(one.provider == wire for one in clean.sandbox.seen) == len(living), (
        "the dead are not asked for again"
    )
    assert await real.calls.call("KEYS", "dead:*") == []
