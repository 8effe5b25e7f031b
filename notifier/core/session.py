"""One client's conversation, without the socket: what it may be sent, and what its messages ask for.

        joined (page full, window full)
      +---------------> PAUSED --- acks ---+
      |                                    v
   JOINING <------- want() ------------ BEHIND <--- a gap, another run, a new subscription
      |                                    ^
      +--- joined (complete) ---> LIVE ----+

BEHIND: changes may have been missed, a join is due. JOINING: it is under way, bells are kept. LIVE: each bell
whose seq follows the last one is sent. PAUSED: the client has not acknowledged enough to be sent more history.
"""

from bisect import bisect_right
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec
from msgspec import Struct

from notifier.core import payload
from notifier.core.inbox import NOTIFICATION, Bell, Join, Joined, Mark, MarkKind, Place

BEHIND: Final = 0
JOINING: Final = 1
PAUSED: Final = 2
LIVE: Final = 3

# What a bell means to a session.
SEND: Final = 0
SKIP: Final = 1
JOIN: Final = 2
SLOW: Final = 3

KEPT_BELLS = 64  # that may arrive while a join is under way; beyond, the session joins once more
READ_IDS = 400  # in one `read`; an inbox holds no more rows

# Close codes (docs/websocket.md): 4000-4499 the client reconnects, 4500-4999 it does not.
TOKEN_EXPIRED: Final = 4001
SLOW_CLIENT: Final = 4002
DRAINING: Final = 4003
RATE: Final = 4005
NO_PONG: Final = 4006
NOT_AUTHENTICATED: Final = 4501
FORBIDDEN: Final = 4503
VERSION: Final = 4504
TOO_MANY: Final = 4508
REVOKED: Final = 4509
BAD_MESSAGE: Final = 4510


class Send(Struct, frozen=True, gc=False):
    """Send this text."""

    text: bytes


class Close(Struct, frozen=True, gc=False):
    """Close with this code and reason."""

    code: int
    reason: str


class Authenticate(Struct, frozen=True, gc=False):
    """Verify the token; then the session goes on from `start`, where one was named."""

    token: str
    start: "Start | None"


class Start(Struct, frozen=True, gc=False):
    """From where a client wants to follow: everything (`load`), or what is after a place of its own."""

    load: bool
    place: Place


Effect: TypeAlias = Send | Close | Authenticate | Mark


class Auth(Struct, tag="auth", frozen=True, gc=False):
    token: str
    epoch: str | None = None
    after: int | None = None


class Ack(Struct, tag="ack", frozen=True, gc=False):
    seq: int
    active: bool = False


class Seen(Struct, tag="seen", frozen=True, gc=False):
    seq: int


class Read(Struct, tag="read", frozen=True, gc=False):
    seq: int | None = None
    ids: list[str] | None = None


class Ping(Struct, tag="ping", frozen=True, gc=False):
    pass


class _Any(Struct, frozen=True):
    type: str


Message: TypeAlias = Auth | Ack | Seen | Read | Ping
_KNOWN: Final = frozenset(("auth", "ack", "seen", "read", "ping"))
_decode: Callable[[bytes], Message] = msgspec.json.Decoder(Message).decode
_decode_any = msgspec.json.Decoder(_Any).decode

_NOWHERE: Final = Place(0, "0", 0)
_UNKNOWN: Final = Place(-1, "0", 0)  # a place that no inbox has: the answer is a resync


def decode(text: bytes) -> Message | Send | Close:
    """What a client sent; an error message for a type we do not know, a close for what is no message at all."""
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError) as fault:
        try:
            kind = _decode_any(text).type
        except (msgspec.DecodeError, RecursionError):
            return Close(BAD_MESSAGE, "not a JSON object with a `type`")
        if kind not in _KNOWN:
            # A newer client must be able to talk to an older server.
            return Send(payload.error(BAD_MESSAGE, f"unknown type {kind[:32]!r}"))
        return Close(BAD_MESSAGE, f"{kind}: {fault}"[:120])


def start(epoch: str | None, after: int | None) -> Start | Close | None:
    """The place that a client names with `epoch` and `after`; None when it names none."""
    if after is None:
        return None if epoch is None else Close(BAD_MESSAGE, "`epoch` without `after`")
    if after < 0:
        return Close(BAD_MESSAGE, "`after` is negative")
    if epoch is None:
        return Start(True, _NOWHERE) if after == 0 else Start(False, _UNKNOWN)
    return Start(False, Place.parse(epoch, after) or _UNKNOWN)


class Session:
    """The conversation with one authenticated client.

    `window`: how many notifications may be unacknowledged. The caller sends what comes back, in order.
    """

    __slots__ = (
        "acked",
        "birth",
        "free",
        "grants",
        "greeted",
        "joins",
        "kept",
        "last",
        "owed",
        "run",
        "since",
        "start",
        "state",
        "unacked",
        "user",
        "window",
    )

    def __init__(self, user: str, start: Start | None, window: int) -> None:
        self.user = user
        self.start = start
        self.window = window
        self.state = BEHIND
        self.greeted = False  # `ready` has been sent
        self.owed = False  # an `upto` must follow
        self.birth, self.run, self.last = 0, "0", 0
        self.since = 0  # where a load began that is not complete yet
        self.joins = 0  # how many were asked for: only the newest one's answer counts
        self.acked = 0
        self.grants = (
            0  # receipts that the client has earned: one for each notification, a window's worth at most
        )
        self.free = False  # the message just received was one of them
        self.unacked: list[int] | None = None  # seqs of notifications sent; exists only while there are some
        self.kept: list[Bell] | None = None

    # -- towards the inbox

    def want(self, most: int) -> Join:
        """The join that a session BEHIND needs; it is JOINING from now on. most: records a page."""
        self.state, self.kept = JOINING, None
        self.joins += 1
        room = max(1, min(most, self.window - (len(self.unacked) if self.unacked else 0)))
        if self.start is not None:
            return Join("load" if self.start.load else "resume", self.start.place, room)
        if not self.greeted:
            return Join("fresh", _NOWHERE, 1)
        return Join("resume", Place(self.birth, self.run, self.last), room, self.since)

    def failed(self) -> None:
        """The join did not come back: it is due again."""
        if self.state == JOINING:
            self.state, self.kept = BEHIND, None

    def joined(self, answer: Joined) -> list[bytes]:
        """What to send now that the inbox has answered. Afterwards LIVE, or BEHIND or PAUSED: there is more."""
        texts: list[bytes] = []
        if not self.greeted:
            texts.append(payload.ready(answer))
            self.greeted = True
        elif self._unchanged(answer):
            return self._go_live(answer, texts)
        if answer.result == "resync":
            texts.append(payload.resync("your place in the inbox is no longer known"))
            self.unacked, self.acked = None, 0
        if answer.result in ("load", "resync"):
            self.since = answer.seq
        self.owed = self.owed or answer.result != "fresh"
        self.birth, self.run, self.start = answer.birth, answer.run, None
        self._replay(answer, texts)
        if answer.more:
            self.last = answer.records[-1][0]
            self.state, self.kept = BEHIND if self._room() else PAUSED, None
            return texts
        self.last, self.since = answer.seq, 0
        if self.owed:
            texts.append(payload.upto(answer))
            self.owed = False
        return self._go_live(answer, texts)

    def _unchanged(self, answer: Joined) -> bool:
        same = answer.birth == self.birth and answer.run == self.run and answer.seq == self.last
        return same and answer.result == "resume" and self.start is None and not self.owed

    def _replay(self, answer: Joined, texts: list[bytes]) -> None:
        for seq, record in answer.records:
            texts.append(payload.change(seq, record, answer.unread, answer.floor))
            if record[1] == NOTIFICATION:
                self._sent(seq)

    def _go_live(self, answer: Joined, texts: list[bytes]) -> list[bytes]:
        kept, self.kept, self.state = self.kept, None, LIVE
        for bell in kept or ():
            heard = self.hear(bell.birth, bell.run, bell.seq, bell.record[1] == NOTIFICATION)
            if heard == SEND:
                texts.append(payload.change(bell.seq, bell.record, bell.unread, bell.floor))
            elif heard != SKIP:
                break
        else:
            if not kept or len(kept) < KEPT_BELLS:
                return texts
        # a gap, more bells than were kept, or a window that they have filled: the rest comes with a join
        self.state = BEHIND if self._room() else PAUSED
        return texts

    # -- towards the client

    def hear(self, birth: int, run: str, seq: int, notification: bool) -> int:
        """A change of a LIVE session's inbox: SEND it, SKIP it (old), JOIN (changes were missed), or SLOW."""
        if seq != self.last + 1 or run != self.run or birth != self.birth:
            heard = self._out_of_turn(birth, run, seq)
            if heard != SEND:
                return heard
        if notification:
            if self.unacked is not None and len(self.unacked) >= self.window:
                return SLOW
            self._sent(seq)
        self.last = seq
        return SEND

    def _out_of_turn(self, birth: int, run: str, seq: int) -> int:
        """What a change is that does not simply follow the last one."""
        if run != self.run or birth != self.birth:
            if self.last or self.birth:
                self.state = BEHIND
                return JOIN
            self.birth, self.run = birth, run  # at seq 0 there was no inbox yet: this is its first change
        if seq <= self.last:
            return SKIP
        if seq != self.last + 1:
            self.state = BEHIND
            return JOIN
        return SEND

    def keep(self, bell: Bell) -> None:
        """A change that arrived while the session was JOINING; in other states the next join brings it."""
        if self.state != JOINING:
            return
        if self.kept is None:
            self.kept = [bell]
        elif len(self.kept) < KEPT_BELLS:
            self.kept.append(bell)
        # beyond: the gap behind the last kept one makes the session join again

    def stands(self, birth: int, run: str, seq: int) -> bool:
        """Does the refresh sweep find the inbox where this session is? If not, also when ahead, a join is due."""
        if self.state != LIVE:
            return True
        if birth == self.birth and run == self.run and seq == self.last:
            return True
        self.state = BEHIND
        return False

    def again(self) -> None:
        """Bells may have been missed altogether: join once more."""
        if self.state in (LIVE, JOINING):
            self.state, self.kept = BEHIND, None

    # -- from the client

    def received(self, text: bytes) -> list[Effect]:
        """What a message of the client asks for."""
        message, self.free = decode(text), False
        if isinstance(message, Ack):
            return self._ack(message)
        if isinstance(message, Send | Close):
            return [message]
        if isinstance(message, Ping):
            return [Send(payload.PONG)]
        if isinstance(message, Seen):
            return self._marked("seen", message.seq)
        if isinstance(message, Read):
            return self._read(message)
        place = start(message.epoch, message.after)
        return [place] if isinstance(place, Close) else [Authenticate(message.token, place)]

    def taken(self) -> list[Effect]:
        """All that was sent has arrived: for a client whose transport alone can tell."""
        return self._ack(Ack(self.last)) if self.unacked else []

    def restart(self, place: Start) -> None:
        """The client named a place with a new `auth`: follow from there."""
        self.start, self.state, self.kept = place, BEHIND, None
        self.unacked, self.acked, self.since = None, 0, 0

    def _ack(self, message: Ack) -> list[Effect]:
        if self.grants:
            self.grants, self.free = self.grants - 1, True
        seq = min(message.seq, self.last)  # receipt of what was never sent means nothing
        unacked = self.unacked
        if unacked is not None:
            del unacked[: bisect_right(unacked, seq)]
            if not unacked:
                self.unacked = None
        if self.state == PAUSED and self._room():
            self.state = BEHIND
        effects: list[Effect] = []
        if seq > self.acked:
            self.acked = seq
            effects.append(self._mark("ack", seq))
        if message.active:
            effects += self._marked("seen", seq)
        return effects

    def _read(self, message: Read) -> list[Effect]:
        if (message.seq is None) == (message.ids is None):
            return [Close(BAD_MESSAGE, "read: either `seq` or `ids`")]
        if message.ids is None:
            return self._marked("read", message.seq or 0)
        if len(message.ids) > READ_IDS:
            return [Close(BAD_MESSAGE, f"read: more than {READ_IDS} ids")]
        return [Mark(self.user, "read", "", "0", 0, tuple(message.ids))]

    def _marked(self, kind: MarkKind, seq: int) -> list[Effect]:
        seq = min(seq, self.last)
        return [self._mark(kind, seq)] if seq > 0 else []

    def _mark(self, kind: MarkKind, seq: int) -> Mark:
        return Mark(self.user, kind, str(self.birth), self.run, seq)

    def _sent(self, seq: int) -> None:
        if self.grants < self.window:
            self.grants += 1
        if self.unacked is None:
            self.unacked = [seq]
        else:
            self.unacked.append(seq)

    def _room(self) -> bool:
        return not self.unacked or len(self.unacked) <= self.window // 2
