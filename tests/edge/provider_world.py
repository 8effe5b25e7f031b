"""A sandbox in this process, and our providers pointed at it."""

# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)
from twisted.logger import eventAsText, globalLogPublisher
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

from notifier.core.breaker import BreakerRule
from notifier.core.credentials import ApnsKey, ServiceAccount
from notifier.core.devices import device_id
from notifier.core.http2 import Limits
from notifier.core.model import Actor, Delivery, Device, Environment, Notification, Object, Outcome
from notifier.core.push import Push, Style, compose
from notifier.core.rate import RateRule
from notifier.core.text import ENGLISH
from notifier.edge.apns import LIMITS as APNS_LIMITS
from notifier.edge.apns import Apns
from notifier.edge.fcm import LIMITS as FCM_LIMITS
from notifier.edge.fcm import Fcm
from notifier.edge.http2.dial import Place, place, trusted
from notifier.edge.http2.pool import Sizes
from notifier.edge.provider_tokens import ApnsTokens, FcmTokens
from notifier.edge.signing import es256, rs256
from notifier.ports import PushRequest
from notifier.sandbox import listen
from notifier.sandbox.apns import Key
from notifier.sandbox.script import Rule
from tests.edge.http2.world import reactor, until

P256: Final = ec.generate_private_key(ec.SECP256R1())
RSA: Final = rsa.generate_private_key(65537, 2048)
P8: Final = P256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
PEM: Final = RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
KEY: Final = ApnsKey("ABC123DEFG", "TEAM123456")
TOPIC: Final = "com.example.photos"
PROJECT: Final = "photos-12345"
ACTOR: Final = Actor("42", "ana", None)
PHOTO: Final = Object("photo", "99")
QUICK: Final = Sizes(grow_every=0.01)
ONE: Final = Sizes(most=1, grow_every=0.01)

# Nothing of these may ever be logged: what begins our tokens, and the secrets of their owners.
CANARIES: Final = ("eyJ", "ya29.", "PRIVATE KEY", "5ecret", "bearer ", "Bearer ")


def token_of(number: int, prefix: str = "") -> str:
    """A device token with a canary in it, hexadecimal as Apple's are."""
    return f"{prefix}{'c0ffee5ec2e7' * 4}"[:52] + f"{number:012x}"


def android(number: int, prefix: str = "") -> str:
    return f"{prefix}5ecret-{number:06d}:APA91b{'x' * 100}"


def push(
    nid: str = "n1", style: Style | None = None, *, deadline: int = 3_600, text: str | None = None
) -> Push:
    now = int(time.time() * 1000)
    one = Notification(
        nid, "comment" if text else "like", (ACTOR,), 1, now, PHOTO, text, "like-99", "12.ab", 7
    )
    return compose(one, style or Style(), ENGLISH, 3, now + deadline * 1000)


def requests(
    tokens: Sequence[str], nid: str = "n1", environment: Environment = "production", provider: Any = "apns"
) -> list[PushRequest]:
    """The same push to so many devices."""
    said = push(nid)
    made = []
    for token in tokens:
        device = Device(device_id(token), provider, "photos", token, 0, environment)
        made.append(PushRequest(Delivery("7", nid, 7, device, said.deadline), said))
    return made


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [f"{outcome.kind} {outcome.status} {outcome.reason}".rstrip() for outcome in outcomes]


class World:
    """The sandbox, its clock, and what makes it fail. `now`: what our side takes for the time."""

    def __init__(self, running: listen.Running) -> None:
        self.running = running
        self.sandbox = running.sandbox
        self.trust = trusted(running.endpoints.authority)
        self.skew = 0.0
        self._stops: list[Callable[[], Any]] = []

    def now(self) -> float:
        return time.time() + self.skew

    def rule(self, provider: Any, token: str = "", **how: Any) -> int:
        return self.sandbox.script.add(Rule(provider, token, **how))

    def shown(self, token: str) -> int:
        """Pushes that a phone has shown; none of them twice."""
        phone = self.sandbox.phones.get(token)
        if phone is None:
            return 0
        assert (phone.shown_twice, phone.sounded_twice) == (0, 0)
        return phone.pushes

    def apple_tokens(self) -> ApnsTokens:
        return ApnsTokens(KEY, es256(P8), self.now, lambda: 0.5)

    def knows_keys(self) -> None:
        """From here on the sandbox checks signatures."""
        pem = P256.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        public = load_pem_public_key(pem)
        assert isinstance(public, ec.EllipticCurvePublicKey)
        self.sandbox.apns.keys[KEY.key_id] = Key(KEY.team_id, public)
        self.sandbox.fcm.keys["k1"] = RSA.public_key()

    def apns(
        self, limits: Limits = APNS_LIMITS, access: Any = None, to: Place | None = None, **more: Any
    ) -> Apns:
        at = to or place(self.running.endpoints.apns)
        places: dict[Environment, Place] = {"production": at, "sandbox": at}
        more.setdefault("breaker", BreakerRule(failures=3, floor=0.05, base=0.0))
        more.setdefault("trust", self.trust)
        more.setdefault("sizes", QUICK)
        made = Apns(
            reactor, "photos", TOPIC, access or self.apple_tokens(), self.now, places, limits=limits,
            chance=lambda: 0.01, **more,
        )  # fmt: skip
        self._stops.append(made.stop)
        return made

    def fcm(self, limits: Limits = FCM_LIMITS, to: Place | None = None, **more: Any) -> Fcm:
        uri = self.running.endpoints.token_uri
        account = ServiceAccount(PROJECT, "push@photos.iam.gserviceaccount.com", "k1", PEM, uri)
        agent = Agent(reactor, BrowserLikePolicyForHTTPS(trustRoot=self.trust))
        tokens = FcmTokens(reactor, account, rs256(PEM), self.now, lambda: 0.5, agent)
        more.setdefault("breaker", BreakerRule(failures=3, floor=0.05, base=0.0))
        more.setdefault("rate", RateRule(ramp=0.1, start=1.0))
        more.setdefault("trust", self.trust)
        made = Fcm(
            reactor, "photos", PROJECT, tokens, self.now, to or place(self.running.endpoints.fcm),
            limits=limits, sizes=QUICK, chance=lambda: 0.01, **more,
        )  # fmt: skip
        self._stops.append(made.stop)
        return made

    async def stop(self) -> None:
        for stop in self._stops:
            await stop()
        await self.running.stop()
        await until(lambda: not any(each.connections for each in self.sandbox.factories.values()))


@asynccontextmanager
async def sandboxed(folder: Path) -> AsyncIterator[World]:
    """A sandbox, and at the end the proof that nothing of the canaries was logged."""
    with no_canaries_logged():
        world = World(listen.start(reactor, folder))
        try:
            yield world
        finally:
            await world.stop()


@contextmanager
def no_canaries_logged() -> Iterator[list[str]]:
    lines: list[str] = []

    def note(event: Any) -> None:
        lines.append(f"{eventAsText(event)} {event!r}")

    hear: Any = note
    globalLogPublisher.addObserver(hear)
    try:
        yield lines
    finally:
        globalLogPublisher.removeObserver(hear)
    found = [line for line in lines if any(canary in line for canary in (*CANARIES, "c0ffee"))]
    assert not found, found
