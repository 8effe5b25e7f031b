"""Phones for the contract: devices, a provider that answers as it is told, and a process that sends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence

from twisted.internet.defer import Deferred

from notifier.core.devices import device_id
from notifier.core.gate import Gate, GateRule
from notifier.core.intake import REASONS
from notifier.core.lanes import BURIALS, Lane
from notifier.core.model import Delivery, Device, Outcome
from notifier.edge.device_store import DeviceMoves, DeviceSteps
from notifier.metrics import Metrics
from notifier.ports import PushRequest
from notifier.sending import Due, Looks, Sender, labels
from tests.contract.world import World

APNS, FCM = Lane("demo", "apns"), Lane("demo", "fcm")
OK = Outcome("delivered", "apns", 200, "")
GONE = Outcome("drop_token", "apns", 410, "Unregistered", None, "token", "forget")
DOWN = Outcome("retry", "apns", 503, "ServiceUnavailable", None, "provider")
WRONG = Outcome("drop_message", "apns", 400, "PayloadEmpty")


def phone(name: str = "p", lane: Lane = APNS, registered: int = 1_000, app: str = "") -> Device:
    """A device by a short name."""
    token = name.encode().hex().ljust(64, "0") if lane.provider == "apns" else f"fcm-token-{name}"
    return Device(device_id(token), lane.provider, app or lane.app, token, registered)


class FakeProvider:
    """Answers each request by `answer`; `sent` has the deliveries. `gate`: what a send waits for, if anything."""

    longest = 30.0

    def __init__(self, answer: Callable[[Delivery], Outcome] = lambda _: OK) -> None:
        self.answer, self.sent = answer, list[Delivery]()
        self.requests: list[PushRequest] = []
        self.gate: Callable[[], Awaitable[None]] | None = None

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        self.requests += requests
        self.sent += [request.delivery for request in requests]
        outcomes = [self.answer(request.delivery) for request in requests]
        if self.gate is not None:
            await self.gate()
        return outcomes

    def told(self) -> list[str]:
        """Device ids that were sent to, since the last call."""
        found, self.sent = [one.device.id for one in self.sent], []
        return found


class Process:
    """One process that sends on one lane."""

    def __init__(
        self, world: World, provider: FakeProvider, lane: Lane = APNS, name: str = "one", rule: GateRule | None = None,
        shard: int = 0,
    ) -> None:  # fmt: skip
        self.world, self.provider = world, provider
        self.log = world.pushes(lane, name, shard)
        self.metrics = Metrics({"dead_letters": (*REASONS, *BURIALS, "handover"), **labels([APNS, FCM])})
        self.gate = Gate(rule or GateRule(), self.clock())
        self.reports: list[str] = []
        self.sender = Sender(
            self.log, lane, self.gate, provider, world.devices(), Looks(), self.metrics, self.clock,
            lambda: 0.5, self.reports.append,
        )  # fmt: skip
        self.due = Due(world.due(shard), self.metrics, self.clock)

    def clock(self) -> float:
        return self.world.now() / 1000

    async def run(self) -> None:
        """Until nothing is left to do now."""
        for _ in range(50):
            if not await self.sender.once():
                return
        raise AssertionError("the sender does not come to rest")


def begin(work: Awaitable[object]) -> Deferred[object]:
    """Start, and do not wait."""

    async def run() -> object:
        return await work

    return Deferred.fromCoroutine(run())


def steps(world: World) -> DeviceSteps:
    """The steps of a token's way, to be taken one by one."""
    devices = world.devices()
    assert isinstance(devices, DeviceMoves)
    return devices.steps


async def enlist(world: World, user: str, devices: Iterable[Device]) -> None:
    for device in devices:
        assert await world.devices().restore(user, device)  # which keeps the time they have
