"""Our pool, a push of its own for each; or with `provider` in front all of edge/apns, in batches of 100."""

from __future__ import annotations

import sys
import time
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor as installed
from twisted.internet.defer import Deferred

from bench.push.figures import BODY, TOKENS, TOPIC, WARM, Figures
from notifier.core.credentials import ApnsKey
from notifier.core.devices import device_id
from notifier.core.http2 import Limits, Template, constant, secret, varying
from notifier.core.model import Actor, Delivery, Device, Notification, Object
from notifier.core.push import Push as Said
from notifier.core.push import Style, compose, delivery_id
from notifier.core.text import ENGLISH
from notifier.edge.apns import Apns
from notifier.edge.http2.dial import Place, endpoint, trusted
from notifier.edge.http2.pool import Pool, Push, Sizes
from notifier.edge.provider_tokens import ApnsTokens
from notifier.edge.signing import es256
from notifier.ports import PushRequest

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
        for _ in range(in_flight):
            self._push()
        await self._done
        return self._figures

    def _push(self) -> None:
        if not self._left:
            return
        self._left -= 1
        self._open += 1
        self._number += 1
        name = delivery_id(f"n{self._number}", "d").encode()
        values = (TOKENS[self._number % len(TOKENS)].encode(), name, b"1790000000", b"like-99")
        self._pool.push(Push(time.perf_counter(), TEMPLATE, values, BODY))

    def _ended(self, results: list[Any]) -> None:
        now = time.perf_counter()
        for result in results:
            self._open -= 1
            status = str(getattr(result, "status", type(result).__name__))
            self._figures.answered(status, now - result.context.context)
            self._push()
        if not self._open and not self._left:
            self._done.callback(None)


class Whole:
    """The provider as a lane calls it: what is sent is made within the measured time."""

    def __init__(self, port: int, authority: str) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        tokens = ApnsTokens(ApnsKey("ABC123DEFG", "TEAM123456"), es256(pem), time.time, lambda: 0.5)
        at = Place("127.0.0.1", port)
        self._apns = Apns(
            reactor, "photos", TOPIC, tokens, time.time, {"production": at, "sandbox": at}, trusted(authority),
            Limits(), ONE,
        )  # fmt: skip
        self._devices = [Device(device_id(token), "apns", "photos", token, 0) for token in TOKENS]

    async def run(self, count: int, in_flight: int) -> Figures:
        figures = Figures()
        starts = iter(range(0, count, BATCH))

        async def lane() -> None:
            for first in starts:
                began = time.perf_counter()
                outcomes = await self._apns.send([self._request(n) for n in range(first, first + BATCH)])
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
    words = sys.argv[1:]
    chosen = Whole if words[0] == "provider" else Bare
    given = words[1:] if chosen is Whole else words
    running = Deferred.fromCoroutine(main(chosen, int(given[0]), given[1], int(given[2]), int(given[3])))
    running.addErrback(lambda failure: failure.printTraceback())
    running.addBoth(lambda _: reactor.stop())
    reactor.run()
