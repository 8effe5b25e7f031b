"""Every row of the tables of outcomes: said by the sandbox over TLS, heard by the sender, and what Redis holds then.

The tables stand here once more, from what Apple and Google write, and not from those of the product.
"""

# mypy: allow-untyped-calls

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from email.utils import formatdate
from typing import Any, Final, NamedTuple

import msgspec
import pytest

from notifier.core.devices import device_id
from notifier.core.http2 import Limits
from notifier.core.lanes import Lane
from notifier.core.model import Device, Outcome
from notifier.core.outcomes import APNS, FCM, GCM
from notifier.edge.apns import LIMITS as APNS_LIMITS
from notifier.edge.client_certificate import ClientCertificate
from notifier.edge.embedded import free_port
from notifier.edge.fcm import LIMITS as FCM_LIMITS
from notifier.edge.http2.dial import Place
from notifier.ports import Provider, PushRequest
from notifier.sandbox.exchange import Answer, Link, Request, json_answer
from tests.contract.phones import Process
from tests.contract.world import Reader, RedisWorld, event, people
from tests.edge.http2.world import PAPERS
from tests.edge.provider_world import android, token_of
from tests.phones.listeners import Stage

U: Final = people(1)[0]
GOOD: Final = 3  # devices beside the one that the row is about
BAD: Final = "abad1dea"  # what its token begins with
REGISTERED: Final = 1_700_000_000_000  # ms
LANES: Final = {"apns": Lane("demo", "apns"), "fcm": Lane("demo", "fcm"), "gcm": Lane("demo", "fcm")}
CERTIFICATE: Final = ClientCertificate(PAPERS, (), frozenset(), 0.0, 4e9)
NEVER: Final = "Wed, 21 Oct 2099 07:28:00 GMT"


class Later(NamedTuple):
    """Sent again in `least` to `most` s, with these counts; `then`: what follows if the answer is the same again."""

    least: float
    most: float
    tries: int = 0
    free: int = 0
    doubts: int = 0
    then: Later | str | None = None


DONE: Final = "done"
FORGOTTEN: Final = "forgotten"
REJECTED, EXPIRED = "rejected", "expired"  # dead letters of this reason
# Nothing counts while somebody must act; a provider's token is renewed once, then somebody must.
MEND: Final = Later(60, 90)
RENEW: Final = Later(0, 1, free=1, then=Later(60, 90, free=1))
RECONNECT: Final = Later(0, 1, free=1, then=Later(0, 1, free=2))
DOUBT: Final = Later(60, 90, doubts=1, then=FORGOTTEN)
APPLE_DOWN: Final = Later(
    2, 5, tries=1, then=Later(900, 1_800, tries=2)
)  # "after 15 minutes", one quick before
APPLE_BUSY: Final = Later(60, 300, tries=1, then=Later(60, 300, tries=2))
GOOGLE_DOWN: Final = Later(10, 20, tries=1, then=Later(10, 30, tries=2))  # never sooner than 10 s
GOOGLE_BUSY: Final = Later(60, 90, tries=1)  # never sooner than 60 s
UNKNOWN: Final = Later(1, 3, tries=1, then=Later(1, 5, tries=2))

Follows = Later | str
APPLE: Final[Mapping[int, Mapping[Follows, str]]] = {
    200: {DONE: ""},
    400: {
        REJECTED: "BadCollapseId BadExpirationDate BadMessageId BadPriority DuplicateHeaders InvalidPushType"
        " MissingDeviceToken PayloadEmpty BadChannelId CannotCreateChannelConfig ChannelNotRegistered"
        " FeatureNotEnabled MissingChannelId MissingPushType",
        DOUBT: "BadDeviceToken DeviceTokenNotForTopic",
        MEND: "BadTopic MissingTopic TopicDisallowed",
        RECONNECT: "IdleTimeout",
    },
    403: {
        MEND: "BadCertificate BadCertificateEnvironment Forbidden InvalidProviderToken MissingProviderToken"
        " UnrelatedKeyIdInToken BadEnvironmentKeyIdInToken BadEnvironmentKeyInToken NobodyKnowsThis",
        RENEW: "ExpiredProviderToken",
    },
    404: {REJECTED: "BadPath"},
    405: {REJECTED: "MethodNotAllowed"},
    410: {FORGOTTEN: "Unregistered ExpiredToken", REJECTED: "NobodyKnowsThis"},
    413: {REJECTED: "PayloadTooLarge"},
    418: {REJECTED: "NobodyKnowsThis"},
    429: {APPLE_BUSY: "TooManyRequests", Later(60, 300, tries=1): "TooManyProviderTokenUpdates"},
    500: {APPLE_DOWN: "InternalServerError NobodyKnowsThis"},
    502: {APPLE_DOWN: "NobodyKnowsThis"},
    503: {APPLE_DOWN: "ServiceUnavailable", RECONNECT: "Shutdown"},
}
GOOGLE: Final[Mapping[int, Mapping[Follows, str]]] = {
    200: {DONE: ""},
    302: {MEND: "html"},
    400: {
        REJECTED: "INVALID_ARGUMENT OUT_OF_RANGE html",
        DOUBT: "INVALID_ARGUMENT:token",
        MEND: "FAILED_PRECONDITION",
    },
    401: {RENEW: "UNAUTHENTICATED", MEND: "THIRD_PARTY_AUTH_ERROR html"},
    403: {MEND: "PERMISSION_DENIED html", DOUBT: "SENDER_ID_MISMATCH"},
    404: {FORGOTTEN: "UNREGISTERED", MEND: "NOT_FOUND html"},
    409: {GOOGLE_DOWN: "ABORTED"},
    413: {REJECTED: "html"},
    429: {
        GOOGLE_BUSY: "QUOTA_EXCEEDED RESOURCE_EXHAUSTED html",
        Later(
            60, 90, tries=1, then=Later(60, 120, tries=2)
        ): "QUOTA_EXCEEDED:device RESOURCE_EXHAUSTED:device",
    },
    499: {GOOGLE_DOWN: "CANCELLED"},
    500: {GOOGLE_DOWN: "INTERNAL UNKNOWN html"},
    502: {GOOGLE_DOWN: "html"},
    503: {GOOGLE_DOWN: "UNAVAILABLE html"},
    504: {GOOGLE_DOWN: "DEADLINE_EXCEEDED"},
}

# An answer of 200 has a word for each token; others are about the request, in which the one device is alone.
GATEWAY: Final[Mapping[int, Mapping[Follows, str]]] = {
    200: {
        DONE: "",
        REJECTED: "MissingRegistration InvalidParameters MessageTooBig InvalidDataKey InvalidTtl NobodyKnowsThis",
        FORGOTTEN: "NotRegistered",
        DOUBT: "InvalidRegistration MismatchSenderId",
        MEND: "InvalidPackageName InvalidApnsCredential",
        GOOGLE_DOWN: "Unavailable InternalServerError",
        GOOGLE_BUSY: "TopicsMessageRateExceeded",
        Later(60, 90, tries=1, then=Later(60, 120, tries=2)): "DeviceMessageRateExceeded",
    },
    400: {REJECTED: ""},
    401: {MEND: ""},
    403: {MEND: ""},
    404: {MEND: ""},
    410: {MEND: ""},
    429: {GOOGLE_BUSY: ""},
    500: {GOOGLE_DOWN: ""},
    503: {GOOGLE_DOWN: ""},
}


class Row(NamedTuple):
    """An answer for one device, and what must follow. `how`: more of the sandbox's rule."""

    lane: str
    status: int
    reason: str
    follows: Follows
    how: Mapping[str, Any] = {}
    registered: int = REGISTERED
    name: str = ""

    def __repr__(self) -> str:
        return self.name or f"{self.lane}-{self.status}-{self.reason or 'ok'}"


def rows_of(lane: str, table: Mapping[int, Mapping[Follows, str]]) -> Iterator[Row]:
    for status, meanings in table.items():
        for follows, reasons in meanings.items():
            for reason in reasons.split(" "):
                yield Row(lane, status, reason, follows)


def retry_afters() -> Iterator[Row]:
    """Seconds or a date; behind the deadline of the push, which is an hour away, there is nothing to wait for."""
    fcm = ("fcm", 503, "UNAVAILABLE")
    yield Row(*fcm, Later(30, 41, tries=1), {"retry_after": "30"}, name="fcm-503-seconds")
    yield Row(*fcm, Later(10, 20, tries=1), {"retry_after": "1"}, name="fcm-503-too-few-seconds")
    yield Row(*fcm, Later(590, 611, tries=1), {"retry_after": "600 s on"}, name="fcm-503-date")
    yield Row(*fcm, EXPIRED, {"retry_after": NEVER}, name="fcm-503-date-after-the-deadline")
    yield Row(*fcm, GOOGLE_DOWN, {"retry_after": "soon"}, name="fcm-503-retry-after-nonsense")
    gcm = ("gcm", 503, "")
    yield Row(*gcm, Later(30, 41, tries=1), {"retry_after": "30"}, name="gcm-503-seconds")
    yield Row(*gcm, Later(590, 611, tries=1), {"retry_after": "600 s on"}, name="gcm-503-date")
    busy = ("fcm", 429, "QUOTA_EXCEEDED")
    yield Row(*busy, Later(120, 151, tries=1), {"retry_after": "120"}, name="fcm-429-seconds")
    yield Row(*busy, Later(290, 331, tries=1), {"retry_after": "300 s on"}, name="fcm-429-date")
    yield Row(
        "apns",
        429,
        "TooManyRequests",
        Later(77, 137, tries=1),
        {"retry_after": "77"},
        name="apns-429-seconds",
    )


def reborn() -> Iterator[Row]:
    """Registered anew after the moment from which on Apple calls it dead: not dead."""
    since = {"timestamp_ms": REGISTERED}
    for reason in ("Unregistered", "ExpiredToken"):
        follows = Later(60, 300, tries=1, then=Later(60, 300, tries=2))
        yield Row(
            "apns", 410, reason, follows, since, REGISTERED + 1, f"apns-410-{reason}-before-registration"
        )


def faults() -> Iterator[Row]:
    """No answer: of what may have been processed the same is sent again, under the same name; the rest is no try.

    ended: the provider's certificate. refused: ours, by the provider.
    """
    for lane in ("apns", "fcm"):
        unknown = UNKNOWN if lane == "apns" else GOOGLE_DOWN
        for action in ("hang", "reset", "close"):
            yield Row(lane, 0, action, unknown, {"action": action})
        yield Row(lane, 0, "refuse", RECONNECT, {"action": "refuse"})
        yield Row(lane, 0, "goaway", DONE, {"action": "goaway"})
        yield Row(lane, 0, "slow", DONE, {"delay_ms": 300})
        for wrong in ("unreachable", "untrusted", "ended"):
            yield Row(lane, 0, wrong, RECONNECT)
    yield Row("apns", 0, "refused", RECONNECT)


ROWS: Final = [
    *rows_of("apns", APPLE),
    *rows_of("fcm", GOOGLE),
    *rows_of("gcm", GATEWAY),
    *retry_afters(),
    *reborn(),
    *faults(),
]


def test_every_answer_that_the_product_knows_stands_in_the_rows() -> None:
    for lane, table in (("apns", APNS), ("fcm", FCM), ("gcm", GCM)):
        told = {(row.status, row.reason) for row in ROWS if row.lane == lane}
        assert table.keys() <= told, table.keys() - told
    assert len({repr(row) for row in ROWS}) == len(ROWS)


class Script:
    """Answers as FCM for one device, as Google's own words have it; all else is the sandbox's."""

    def __init__(self, inner: Any, answer: Answer) -> None:
        self.inner, self.said = inner, answer

    def answer(self, request: Request, link: Link) -> Answer:
        if BAD.encode() in request.body:
            return self.said
        found: Answer = self.inner.answer(request, link)
        return found


def google(row: Row, fields: Mapping[str, str]) -> Answer:
    """An error as Google writes it; what is behind the colon of a reason stands in the details."""
    if row.reason == "html":
        return Answer(
            row.status, b"<html><title>Error</title></html>", {"content-type": "text/html", **fields}
        )
    code, _, about = row.reason.partition(":")
    text = {
        "token": "The registration token is not a valid FCM registration token",
        "device": "of the device.",
    }
    error: dict[str, Any] = {
        "code": row.status,
        "status": code,
        "message": text.get(about, "said"),
        "details": [],
    }
    if code not in ("NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED"):
        kind = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
        error["details"].append({"@type": kind, "errorCode": code})
    said = json_answer(row.status, {"error": error})
    return msgspec.structs.replace(said, fields={**said.fields, **fields})


class Noted:
    """A provider, and the counts with which the one device was sent to."""

    def __init__(self, inner: Provider, device: str) -> None:
        self.inner, self.device, self.longest = inner, device, inner.longest
        self.counts: list[tuple[int, int, int]] = []

    async def send(self, requests: Sequence[PushRequest]) -> Sequence[Outcome]:
        for one in (request.delivery for request in requests):
            if one.device.id == self.device:
                self.counts.append((one.tries, one.free, one.doubts))
        return await self.inner.send(requests)


class Case:
    """One person with some phones on a lane, one of which is answered as the row says."""

    def __init__(self, stage: Stage, real: RedisWorld, row: Row) -> None:
        self.stage, self.there, self.real, self.row = stage, stage.there, real, row
        self.lane = LANES[row.lane]
        make = token_of if row.lane == "apns" else android
        alone = {"locale": "de"} if row.lane == "gcm" else {}  # other words: a request of its own
        self.bad = msgspec.structs.replace(self._device(make(0, BAD), row.registered), **alone)
        self.good = [self._device(make(number), REGISTERED) for number in range(1, GOOD + 1)]
        self.process = Process(real, Noted(self._provider(), self.bad.id), self.lane)  # type: ignore[arg-type]
        self.comments = 0

    def _device(self, token: str, registered: int) -> Device:
        return Device(device_id(token), self.lane.provider, self.lane.app, token, registered)

    def _provider(self, to: Place | None = None, **more: Any) -> Provider:
        if self.row.lane == "gcm":
            gateway: Provider = self.stage.gateway.client(self.stage.port)
            return gateway
        hasty: Limits = APNS_LIMITS if self.row.lane == "apns" else FCM_LIMITS
        if self.row.reason == "hang":
            hasty = msgspec.structs.replace(hasty, answer_within=0.3)
        made: Provider = (self.there.apns if self.row.lane == "apns" else self.there.fcm)(
            hasty, to=to, **more
        )
        return made

    def use(self, provider: Provider) -> Noted:
        """Another provider, as after a reload."""
        noted = Noted(provider, self.bad.id)
        self.process.sender.provider = noted
        self.process.gate.renew(self.process.clock())
        return noted

    async def comment(self) -> None:
        self.comments += 1
        await Reader(self.real).deliver(event("comment", to=U, thing=str(self.comments)))
        await self.process.run()

    async def again(self) -> None:
        """All that waits is due now."""
        await self.real.hurry()
        while await self.process.due.once():
            await self.process.run()

    def script(self) -> None:
        """From here on the one device is answered as the row says."""
        row, how = self.row, dict(self.row.how)
        after = how.get("retry_after", "")
        if after.endswith(" s on"):
            how["retry_after"] = formatdate(time.time() + int(after.split(" ")[0]), usegmt=True)
        if row.reason in ("unreachable", "untrusted"):
            to = Place("127.0.0.1", free_port()) if row.reason == "unreachable" else None
            self.use(self._provider(to, trust=None))
        elif (listener := self.stage.failing.get(f"{row.lane}-{row.reason}")) is not None:
            access = {"access": CERTIFICATE} if row.reason == "refused" else {}
            self.use(self._provider(listener.place, trust=listener.trust, **access))
        elif row.lane == "gcm":
            self._gateway(how)
        elif not row.status:
            self.there.rule(row.lane, BAD, **how)
        elif row.lane == "apns":
            self.there.rule("apns", BAD, status=row.status, reason=row.reason, **how)
        elif row.status != 200:
            fields = {"retry-after": how["retry_after"]} if "retry_after" in how else {}
            factory = self.there.sandbox.factories["fcm"]
            factory.provider = Script(self.there.sandbox.fcm, google(row, fields))

    def _gateway(self, how: Mapping[str, str]) -> None:
        row, gateway = self.row, self.stage.gateway
        fields = {"Retry-After": how["retry_after"]} if "retry_after" in how else {}
        gateway.about = BAD
        gateway.said = row.reason if row.status == 200 else Answer(row.status, b"{}", fields)

    def mended(self) -> Noted:
        """The provider answers as it should, and is dialled anew."""
        unscript(self.stage)
        return self.use(self._provider())

    # -- what must be there

    async def left(self) -> int:
        """Entries of the lane that nobody has settled."""
        return (await self.process.log.depth()).entries

    async def devices(self) -> set[str]:
        return {device.id for device in await self.real.devices().of(U)}

    async def has_forgotten(self) -> None:
        assert await self.devices() == {device.id for device in self.good}
        (dead,) = await self.real.dead_tokens()
        assert (dead.user, dead.device.id, dead.device.token) == (U, self.bad.id, self.bad.token)
        assert await self.real.owner(self.bad.id) == ""
        assert await self.real.waiting() == {}

    async def has_kept_all(self) -> None:
        assert await self.devices() == {device.id for device in (self.bad, *self.good)}
        assert await self.real.dead_tokens() == []
        assert await self.real.owner(self.bad.id) == U

    async def letters(self) -> list[tuple[str, str]]:
        """(reason, device) of everything that was buried."""
        keys = await self.real.calls.call("KEYS", "dead:*")
        reasons = sorted(key.decode().rpartition(":")[2] for key in keys)
        found = [(reason, await self.real.letters(reason)) for reason in reasons]
        return [(reason, letter.device) for reason, letters in found for letter in letters]

    def shown(self, device: Device) -> int:
        """Pushes that a phone has shown; none of them twice, however often it was sent."""
        phone = self.there.sandbox.phones.get(device.token)
        if phone is None:
            return 0
        assert phone.shown_twice == 0
        return len(phone.shown)


def unscript(stage: Stage) -> None:
    stage.there.sandbox.script.clear()
    stage.there.sandbox.factories["fcm"].provider = stage.there.sandbox.fcm
    stage.gateway.about = ""


@pytest.fixture
def clean(stage: Stage) -> Iterator[Stage]:
    stage.there.sandbox.phones.clear()
    yield stage
    unscript(stage)


@pytest.mark.parametrize("row", ROWS, ids=repr)
async def test_what_follows(clean: Stage, real: RedisWorld, row: Row) -> None:
    case = Case(clean, real, row)
    for device in case.good:
        assert await real.devices().restore(U, device)
    await case.comment()  # all is well: the credentials are good, and the guard has heard so
    assert [case.shown(device) for device in case.good] == [1] * GOOD
    assert await real.devices().restore(U, case.bad)
    case.script()
    began = real.now()
    await case.comment()
    assert await case.left() == 0, "an entry waits in `due` and not in hand"
    await _follows(case, row.follows, began)
    await _ends(case, row.follows)


async def _follows(case: Case, follows: Follows | None, began: int) -> None:
    """What Redis holds after an answer, and after the same answer again."""
    name = f"{U} {await _notification(case)} {case.bad.id}"
    waiting = await case.real.waiting()
    if isinstance(follows, Later):
        assert name in waiting
        at = waiting[name]
        assert began + follows.least * 1000 <= at <= case.real.now() + follows.most * 1000, (
            at - began
        ) / 1000
        assert await case.letters() == []
        await case.has_kept_all()
        if follows.then is not None:
            began = case.real.now()
            await case.again()
            await _follows(case, follows.then, began)
        return
    assert name not in waiting
    if follows == FORGOTTEN:
        await case.has_forgotten()
        assert await case.letters() == []
        return
    await case.has_kept_all()
    assert await case.letters() == ([] if follows == DONE else [(follows, case.bad.id)])


async def _ends(case: Case, follows: Follows) -> None:
    """The provider is well again: what waits arrives, with the counts that it has by then; the others lack nothing."""
    noted = case.mended()
    last = follows
    while isinstance(last, Later) and last.then is not None:
        last = last.then
    await case.again()
    assert await case.real.waiting() == {}
    assert await case.left() == 0
    assert [case.shown(device) for device in case.good] == [2] * GOOD
    if isinstance(last, Later):
        assert noted.counts == [(last.tries, last.free, last.doubts)]
        assert case.shown(case.bad) == 1
    else:
        assert noted.counts == []
        assert case.shown(case.bad) == int(last == DONE)


async def _notification(case: Case) -> str:
    """The id of the last row in the inbox."""
    flat = await case.real.calls.call("HGETALL", f"inbox:{{0}}:{U}")
    fields = dict(zip(flat[::2], flat[1::2], strict=True))
    last = max(int(name) for name in fields if name.isdigit())
    return str(fields[b"%d" % last].decode().split(" ", 4)[3])
