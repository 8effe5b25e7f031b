"""The seams: what the pipeline and the edges ask of the world, without saying who answers.
edge/store.py answers over Redis, edge/memory.py in memory; one contract suite holds both (tests/contract)."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

from msgspec import Struct

from notifier.core.backlog import Batch, Entry
from notifier.core.inbox import Bell, Join, Joined, Mark, Page, Standing


class Clock(Protocol):
    """Seconds since 1970."""

    def __call__(self) -> float: ...


class LeaseLost(Exception):
    """Another process reads this stream now: drop what you hold of it."""


class GroupLost(Exception):
    """The consumer group is gone: make it anew, at 0."""


class Unavailable(Exception):
    """The store cannot be reached or did not answer in time. What was asked may or may not have happened."""


class NotMarked(Exception):
    """Marks that an inbox did not take, the others of the call being done."""


class Unburied(Exception):
    """The dead letters do not take an entry that can be applied to nobody: an operator is needed."""


class Claimed(Struct, frozen=True):
    """Pending entries taken over, in id order; `lost`: ids deleted while pending; `after`: "" = that is all."""

    entries: tuple[Entry, ...]
    lost: tuple[str, ...]
    after: str


class Handed(Struct, frozen=True):
    """What became of a batch: (index from 1, error) of the pairs that failed, repeats, and the entries read next."""

    failures: tuple[tuple[int, str], ...]
    entries: tuple[Entry, ...]
    duplicates: int


class Letter(Struct, frozen=True, array_like=True):
    """An entry for the dead letters; `raw` is what the producer appended."""

    reason: str
    detail: str
    source: str
    entry: str
    raw: bytes


class Depth(Struct, frozen=True, gc=False):
    """How much lies in a stream: entries, how old the oldest is (s), and when it was accepted (ms).

    `accepted` of an empty stream is the moment of the look: whatever comes after it is younger.
    """

    entries: int
    oldest: float
    accepted: int


class EventLog(Protocol):
    """A stream of events with one reader at a time. All calls but `take`, `give`, `wait` raise LeaseLost."""

    def take(self) -> Awaitable[bool]:
        """Take the lease, or keep it; False while another process holds it."""

    def give(self) -> Awaitable[None]:
        """Give the lease back."""

    def create(self) -> Awaitable[None]:
        """Make the consumer group at 0, where it is missing."""

    def claim(self, idle_ms: int, after: str) -> Awaitable[Claimed]:
        """Take over what is pending since idle_ms, from `after` ("" = the first). Raises GroupLost."""

    def handover(self, batch: Batch, want: int) -> Awaitable[Handed]:
        """Apply a batch, acknowledge what it completes, read `want` more entries. Raises GroupLost."""

    def read(self, want: int) -> Awaitable[tuple[Entry, ...]]:
        """Read entries without handing any over. Raises GroupLost."""

    def acknowledge(self, ids: Sequence[str], letters: Sequence[Letter]) -> Awaitable[None]:
        """Acknowledge entries that have been routed, and bury those that could not be."""

    def wait(self, seconds: float) -> Awaitable[None]:
        """Return when something may have been appended, at the latest after so many seconds."""

    def sweep(self, before: int = 0) -> Awaitable[bool]:
        """Remove idempotency marks that nothing left can need; True while there is more to do.

        before: when the oldest entry was accepted that has yet to reach this stream (ms), 0 = there is none.
        """

    def depth(self) -> Awaitable[Depth]:
        """How much lies in the stream."""


class Routed(Struct, frozen=True, gc=False):
    """One chunk of an event for one shard: at most 100 people."""

    shard: int
    source: str
    to: tuple[str, ...]
    event: bytes


class Shards(Protocol):
    """Where a router appends."""

    def append(self, chunks: Iterable[Routed]) -> Awaitable[None]:
        """Append all; returns when every shard has answered, raises Unavailable when one has not."""


class Inbox(Protocol):
    """Everybody's inbox."""

    def join(self, user: str, join: Join, issued: int) -> Awaitable[Joined]:
        """Presence, and the records after a place, in one step. issued: when the person's token was made (s)."""

    def sync(self, user: str, join: Join, issued: int) -> Awaitable[Joined]:
        """The same without presence."""

    def page(self, user: str, before: int, most: int, issued: int) -> Awaitable[Page | None]:
        """Rows before a seq (0 = the newest); None when the token has been revoked."""

    def mark(self, marks: Sequence[Mark]) -> Awaitable[list[int]]:
        """Apply marks; how many changes each has made."""

    def refresh(self, users: Sequence[str]) -> Awaitable[dict[str, Standing]]:
        """Renew presence, hear where each inbox stands; one that cannot be read says so (Standing.fault)."""

    def leave(self, users: Sequence[str]) -> Awaitable[None]:
        """These people have no socket here any more."""

    def revoke(self, user: str) -> Awaitable[None]:
        """Void all tokens of a person issued until now, and close their sockets everywhere."""


class Bus(Protocol):
    """Hears the bells of this process. It may lose some: the sessions notice. `heard`: shards it listens to now."""

    heard: set[int]

    def listen(
        self,
        bells: Callable[[list[Bell]], None],
        subscribed: Callable[[int], None],
        revoked: Callable[[str], None],
    ) -> None:
        """Call `bells` for each message, `subscribed(shard)` after each (re)subscription, `revoked(user)`."""
