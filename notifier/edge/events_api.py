"""Events over HTTP: what POST /v1/events takes is judged by the rules of the front door, then appended to it.
An event is told as accepted only after Redis has answered for it."""

# mypy: allow-untyped-calls
# (Failure has no annotations)

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, Struct, UnsetType
from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from notifier.core import keys
from notifier.core.intake import Intake, Rejected
from notifier.core.tokens import Identity
from notifier.edge.api import PASSING, Problem, invalid, revoked
from notifier.edge.redis import Connection, ReplyError
from notifier.metrics import Metrics
from notifier.ports import Unavailable

MOST_EVENTS: Final = 1000
PRESSURE_SECONDS: Final = 5  # after which a producer that was told to wait may look again

Status = Literal["accepted", "rejected", "failed", "unknown"]


class Result(Struct, frozen=True):
    """What became of one event. `id`: its own, or the one it got; null for one without, that was not appended.

    failed: not appended, though nothing is wrong with it. unknown: Redis did not answer; it may be appended.
    """

    id: str | None
    status: Status
    reason: str | UnsetType = UNSET
    detail: str | UnsetType = UNSET


class _Named(Struct, frozen=True):
    id: str | None = None


_members: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_named: Final = msgspec.json.Decoder(_Named).decode


def split(content: bytes) -> list[bytes]:
    """The events of a request, each as it was written: one, or those of `events`. Raises Problem."""
    try:
        members = _members(content)
    except (ValueError, RecursionError) as error:
        said = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise invalid(f'send an event, or {{"events": [...]}}: {said}', pointer="#") from None
    if "events" not in members:
        return [content.strip()]
    if len(members) > 1:
        raise invalid("beside `events` there may be nothing", pointer="#")
    try:
        events = _items(members["events"])
    except (ValueError, RecursionError):
        raise invalid("`events` must be a list of events", pointer="#/events") from None
    if not 1 <= len(events) <= MOST_EVENTS:
        raise invalid(f"`events` must hold 1 to {MOST_EVENTS} events, not {len(events)}", pointer="#/events")
    return [bytes(event) for event in events]


def id_of(raw: bytes) -> str | None:
    """The id that an event gives itself, if one can be read that fits into an answer."""
    try:
        found = _named(raw).id
    except (ValueError, RecursionError):
        return None
    return found if found is not None and len(found) <= 200 else None


class Publisher:
    """Appends to the front door. `intake` judges beforehand; the consumer judges again, by the same rules."""

    def __init__(self, calls: Connection, intake: Intake, metrics: Metrics, shards: int) -> None:
        self.calls, self.intake, self.metrics, self.shards = calls, intake, metrics, shards

    async def publish(self, content: bytes, who: Identity) -> list[Result]:
        """What became of each event, in order. Raises Problem, Unavailable, ReplyError.

        When all that could be appended are, nothing is raised; otherwise the problem holds the results.
        """
        events = split(content)
        now = await self._admit(who)
        found: list[Result | None] = [self._judge(event, now) for event in events]
        places = [at for at, result in enumerate(found) if result is None]
        answers = await self._append([events[at] for at in places])
        for at, (done, answer) in zip(places, answers, strict=True):
            found[at] = _told(id_of(events[at]), answer if done else answer.value)
        results = [result for result in found if result is not None]
        for result in results:
            self.metrics.api_events.count(result.status)
        faults = [answer for done, answer in answers if not done]
        if faults:
            _raise(faults, results)
        return results

    async def _admit(self, who: Identity) -> int:
        """The server's clock (ms), unless the producer must wait or its token is void. One round trip."""
        asked = [
            self.calls.call("TIME"),
            self.calls.call("GET", keys.PRESSURE),
            self.calls.call("GET", keys.revoked(who.user, self.shards)),
        ]
        answers: Any = await DeferredList(asked, consumeErrors=True)
        for done, answer in answers:
            if not done:
                answer.raiseException()
        (second, micro), pressure, void = (answer for _, answer in answers)
        if void is not None and who.issued <= int(void):
            self.metrics.auth_failures.count("revoked")
            raise revoked()
        if pressure is not None:
            self.metrics.api_limited.count("backlog")
            raise Problem(
                "backlog", "the backlog is over its limit; send the same request again after Retry-After",
                Retry_After=str(PRESSURE_SECONDS),
            )  # fmt: skip
        return int(second) * 1000 + int(micro) // 1000

    def _judge(self, event: bytes, now: int) -> Result | None:
        """A rejection, or None for what may be appended."""
        found = self.intake.decode(event, f"{now}-0")
        if isinstance(found, Rejected):
            return Result(id_of(event), "rejected", found.reason, found.detail)
        return None

    async def _append(self, events: Sequence[bytes]) -> Sequence[tuple[bool, Any]]:
        """Pipelined: one connection keeps their order."""
        asked: list[Deferred[Any]] = [
            self.calls.call("XADD", keys.FRONT_DOOR, "*", "event", event) for event in events
        ]
        answers: Any = await DeferredList(asked, consumeErrors=True)
        return answers  # type: ignore[no-any-return]  # a Deferred tells no type


def _told(own: str | None, answer: object) -> Result:
    if isinstance(answer, bytes):
        return Result(own if own is not None else "x:" + answer.decode(), "accepted")
    # An error reply says that nothing was appended; a connection that ended says nothing.
    return Result(own, "failed" if isinstance(answer, ReplyError) else "unknown")


def _raise(faults: Sequence[Failure], results: Sequence[Result]) -> None:
    """Raises what the first fault is; where another try can help, with the results."""
    passing = all(
        isinstance(fault.value, Unavailable) or getattr(fault.value, "code", "") in PASSING
        for fault in faults
    )
    if not passing:
        next(fault for fault in faults if not isinstance(fault.value, Unavailable)).raiseException()
    raise Problem(
        "unavailable",
        "not every event was appended: `results` says which; send the others again. One that is unknown may have "
        "been appended: send it again only if it has an id",
        results=results,
        Retry_After="1",
    )
