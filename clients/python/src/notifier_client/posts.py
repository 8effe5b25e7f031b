"""Marks on their way over the HTTP API, beside an event stream. Needs the extra `sse`."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpx

from notifier_client.backoff import Backoff
from notifier_client.inbox import Inbox
from notifier_client.marks import Marks
from notifier_client.transport import CLOSING, OURS, Message

PASSING: Final = frozenset((401, 429))  # of what a token lacks the stream says so itself, by its end
RETRY_AFTER: Final = 3600.0  # seconds, the longest Retry-After that is obeyed; a longer one counts as this
log = logging.getLogger("notifier_client")


class Posts:
    """One request at a time. One that fails in a way that may pass is made again by itself, after what the server
    asks for and a wait with jitter; marks that are made meanwhile join it. What never gets through is made again after
    the next resume, as on a WebSocket: the client's own marks keep it.

    api      address of the HTTP API, without a path
    marks    the client's: they forget what is refused for good
    backoff  how long to wait; what it has counted is not ours
    patience seconds for an answer
    """

    def __init__(
        self, http: httpx.AsyncClient, api: str, inbox: Inbox, marks: Marks, backoff: Backoff, patience: float
    ) -> None:
        self._http, self._api, self._inbox, self._marks = http, api, inbox, marks
        self._backoff, self._patience = replace(backoff, tries=0), patience
        self._waiting = Marks()
        self._work: asyncio.Task[None] | None = None
        self._leaving = asyncio.Event()

    def say(self, message: Message) -> None:
        inbox = self._inbox
        if message["type"] == "read":
            self._waiting.read(inbox.unread_of(message["ids"]))
        elif inbox.epoch is not None:
            self._waiting.seen(inbox.epoch, message["seq"])
        self._waiting.settle(inbox)
        # Aside: while an answer is waited for, the stream is read on.
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._run())

    async def say_the_rest(self) -> None:
        """We close: what has been marked just now may still arrive. What must wait is left to the client's marks."""
        self._leaving.set()
        if self._work is not None:
            await asyncio.wait([self._work], timeout=CLOSING)

    async def close(self) -> None:
        if self._work is not None:
            self._work.cancel()
            await asyncio.gather(self._work, return_exceptions=True)

    async def _run(self) -> None:
        while self._waiting:
            wait = await self._round()
            if wait is None:
                self._backoff.reset()
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(wait + self._backoff.next()):
                        await self._leaving.wait()
                        return

    async def _round(self) -> float | None:
        """Say all that waits; the most seconds that the server asks to wait until the rest, None if there is none."""
        marks, self._waiting = self._waiting, Marks()  # the new ones: what is made meanwhile
        marks.settle(self._inbox)
        wait: float | None = None
        for message in marks.due():
            after = await self._said(message, marks.epoch)
            if after is None:
                marks.forget(message)
            else:
                wait = max(wait or 0.0, after)
            if wait:  # one that fails keeps no other waiting, but who names a time means all
                break
        marks.join(self._waiting)
        self._waiting = marks
        return wait

    async def _said(self, message: Message, epoch: str | None) -> float | None:
        """One request: None if no more is to be done, else the seconds that the server asks to wait before the next."""
        kind = message["type"]
        content = {"ids": message["ids"]} if kind == "read" else {"epoch": epoch, "seq": message["seq"]}
        try:
            async with asyncio.timeout(self._patience):
                answer = await self._http.post(f"{self._api}/v1/inbox/{kind}", json=content)
        except (httpx.HTTPError, TimeoutError) as fault:
            log.info("a mark did not get through: %r", fault)
            return 0.0
        if answer.is_success:
            return None
        said = f"{answer.status_code} {answer.text[:200]}"
        if _passing(answer):
            log.info("a mark did not get through: %s", said)
            return _retry_after(answer)
        log.warning("a mark was refused: %s", said)
        self._marks.forget(message)
        return None


def _passing(answer: httpx.Response) -> bool:
    """May it be another answer next time? That of a proxy may."""
    if answer.status_code >= 500 or answer.status_code in PASSING:
        return True
    try:
        problem: Any = answer.json()
    except ValueError:
        return True
    return not (isinstance(problem, dict) and str(problem.get("type", "")).startswith(OURS))


def _retry_after(answer: httpx.Response) -> float:
    """The seconds that an answer asks to wait (RFC 9110 section 10.2.3: seconds, or a date); 0 if it does not."""
    said = answer.headers.get("Retry-After", "")
    try:
        if said.isdecimal():
            wait = float(said)
        else:
            wait = (parsedate_to_datetime(said).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0.0
    return min(max(wait, 0.0), RETRY_AFTER)
