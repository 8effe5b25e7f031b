"""KIND PORT AUTHORITY COUNT IN_FLIGHT. `apns`, `fcm`: our pool, a push of its own for each; `apns-provider`,
`fcm-provider`: all of edge/apns or edge/fcm, in batches of 100."""

# mypy: allow-untyped-calls
# (twisted.web has no annotations)

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred
from twisted.internet.task import react
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS

from bench.pushers.figures import BODY, FCM_BODY, FCM_PATH, FCM_TOKENS, TOKENS, TOPIC, WARM, Figures
from notifier.core.credentials import ApnsKey
from notifier.core.devices import device_id
from notifier.core.http2 import Limits, Template, constant, secret, varying
from notifier.core.model import Actor, Delivery, Device, Notification, Object
from notifier.core.push import Push as Said
from notifier.core.push import Style, compose, delivery_id
from notifier.core.rate import RateRule
from notifier.core.text import ENGLISH
from notifier.edge.apns import Apns
from notifier.edge.fcm import Fcm
from notifier.edge.http2.dial import Place, endpoint, trusted
from notifier.edge.http2.pool import Pool, Push, Sizes
from notifier.edge.provider_files import service_account_file
from notifier.edge.provider_tokens import ApnsTokens, FcmTokens
from notifier.edge.signing import es256
from notifier.ports import Provider, PushRequest
from notifier.sandbox.credentials import make_credentials

reactor: Any = installed
ONE = Sizes(most=1)
BATCH = 100
TEMPLATE = Template(
    [
        constant(b":method", b"POST"),
        constant(b":scheme", b"https"),
        constant(b":authority", b"api.push.apple.com"),
        varying(b":path", b"/3/device/", private=True),
        secret(b"authorization", b"bearer " + b"j" * 215, indexed=True),
        constant(b"apns-topic", TOPIC.encode()),
        constant(b"apns-push-type", b"alert"),
        constant(b"apns-priority", b"10"),
        varying(b"apns-id"),
        varying(b"apns-expiration"),
        varying(b"apns-collapse-id"),
    ]
)
FCM_TEMPLATE = Template(
    [
        constant(b":method", b"POST"),
        constant(b":scheme", b"https"),
        constant(b":authority", b"fcm.googleapis.com"),
        constant(b":path", FCM_PATH.encode()),
        secret(b"authorization", b"Bearer " + b"y" * 207, indexed=True),
        constant(b"content-type", b"application/json; charset=UTF-8"),
    ]
)
UNPACED = RateRule(most=1e9, start=1.0)


class Bare:
    """The pool, with a new push for each answer."""

    def __init__(self, port: int, authority: str) -> None:
        to = endpoint(reactor, "127.0.0.1", port, trusted(authority))
        self._pool: Pool[float] = Pool(reactor, to, self._ended, Limits(), ONE)
        self._figures = Figures()
        self._left = self._open = 0
        self._number = 0
        self._done: Deferred[None] = Deferred()

    async def run(self, count: int, in_flight: int) -> Figures:
        self._figures, self._left, self._done = Figures(), count, Deferred()
        self._push(in_flight)
        await self._done
        return self._figures

    def _push(self, most: int) -> None:
        """So many more, if so many are left."""
        first, count = self._number + 1, min(most, self._left)
        self._left -= count
        self._open += count
        self._number += count
        self._send([self._request(number) for number in range(first, first + count)])

    def _send(self, pushes: list[Push[float]]) -> None:
        """As edge/apns does: together."""
        refused = self._pool.push_all(pushes)
        assert not refused, f"the pool has not accepted {len(refused)} pushes: {self._pool.fault}"

    def _request(self, number: int) -> Push[float]:
        name = delivery_id(f"n{number}", "d").encode()
        values = (TOKENS[number % len(TOKENS)].encode(), name, b"1790000000", b"like-99")
        return Push(time.perf_counter(), TEMPLATE, values, BODY)

    def _ended(self, results: list[Any]) -> None:
        now = time.perf_counter()
        self._open -= len(results)
        statuses = Counter([getattr(result, "status", type(result).__name__) for result in results])
        self._figures.answered_all(statuses, [now - result.context.context for result in results])
        self._push(len(results))
        if not self._open and not self._left:
            self._done.callback(None)


class BareFcm(Bare):
    """The same with messages for FCM, where only the token in the body differs."""

    def _request(self, number: int) -> Push[float]:
        body = FCM_BODY % FCM_TOKENS[number % len(FCM_TOKENS)].encode()
        return Push(time.perf_counter(), FCM_TEMPLATE, (), body)

    def _send(self, pushes: list[Push[float]]) -> None:
        """As edge/fcm does, which has to space them: one by one."""
        for push in pushes:
            self._pool.push(push)


class Whole:
    """The provider as a lane calls it: what is sent is made within the measured time."""

    def __init__(self, port: int, authority: str) -> None:
        self._provider = self._make(port, authority)
        self._devices = [Device(device_id(token), "apns", "photos", token, 0) for token in TOKENS]

    def _make(self, port: int, authority: str) -> Provider:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        tokens = ApnsTokens(ApnsKey("ABC123DEFG", "TEAM123456"), es256(pem), time.time, lambda: 0.5)
        at = Place("127.0.0.1", port)
        return Apns(
            reactor, "photos", TOPIC, tokens, time.time, {"production": at, "sandbox": at}, trusted(authority),
            Limits(), ONE,
        )  # fmt: skip

    async def run(self, count: int, in_flight: int) -> Figures:
        figures = Figures()
        starts = iter(range(0, count, BATCH))

        async def lane() -> None:
            for first in starts:
                began = time.perf_counter()
                outcomes = await self._provider.send([self._request(n) for n in range(first, first + BATCH)])
                took = time.perf_counter() - began
                for outcome in outcomes:
                    figures.answered(str(outcome.status or outcome.reason), took)

        lanes = [Deferred.fromCoroutine(lane()) for _ in range(max(1, in_flight // BATCH))]
        for each in lanes:
            await each
        return figures

    def _request(self, number: int) -> PushRequest:
        device = self._devices[number % len(self._devices)]
        said = _said(f"n{number}")
        return PushRequest(Delivery("7", said.notification, number, device, said.deadline), said)


class WholeFcm(Whole):
    """edge/fcm, which is not held back: it would take a minute to reach its rate."""

    def __init__(self, port: int, authority: str) -> None:
        super().__init__(port, authority)
        self._devices = [Device(device_id(token), "fcm", "photos", token, 0) for token in FCM_TOKENS]

    def _make(self, port: int, authority: str) -> Provider:
        trust = trusted(authority)
        with tempfile.TemporaryDirectory(prefix="notifier-bench-") as folder:
            file = make_credentials(Path(folder)).service_account
            account, sign = service_account_file(file, token_url=f"https://127.0.0.1:{port}/token")
        agent = Agent(reactor, BrowserLikePolicyForHTTPS(trustRoot=trust))
        tokens = FcmTokens(reactor, account, sign, time.time, lambda: 0.5, agent)
        at = Place("127.0.0.1", port)
        return Fcm(
            reactor, "photos", account.project_id, tokens, time.time, at, trust, sizes=ONE, rate=UNPACED
        )


KINDS: dict[str, type[Bare | Whole]] = {
    "apns": Bare, "apns-provider": Whole, "fcm": BareFcm, "fcm-provider": WholeFcm,
}  # fmt: skip


def _said(name: str) -> Said:
    """A push for each notification, as it is in life; making it is the lane's own work and measured too."""
    now = int(time.time() * 1000)
    actor, photo = Actor("42", "ana"), Object("photo", "99")
    one = Notification(name, "like", (actor,), 3, now, photo, None, "like-99", "12.ab", 7)
    return compose(one, Style(), ENGLISH, 3, now + 3_600_000)


async def main(kind: type[Bare | Whole], port: int, authority: str, count: int, in_flight: int) -> None:
    client = kind(port, authority)
    await client.run(WARM, in_flight)
    (await client.run(count, in_flight)).print()


if __name__ == "__main__":
    chosen, port, authority, count, in_flight = sys.argv[1:]

    def run(_reactor: object) -> Deferred[None]:
        return Deferred.fromCoroutine(main(KINDS[chosen], int(port), authority, int(count), int(in_flight)))

    react(run)
