"""The seams: what the pipeline and the edges ask of the world, without saying who answers.
edge/store.py answers over Redis, edge/memory.py in memory; one contract suite holds both (tests/contract)."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Final, Protocol

from msgspec import Struct

from notifier.core.backlog import Batch, Entry
from notifier.core.inbox import Bell, Join, Joined, Mark, Page, Standing
from notifier.core.lanes import PushEntry, Row
from notifier.core.model import Delivery, Device, Outcome, Verdict
from notifier.core.push import Push


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
    """What became of a batch: (index from 1, error) of the pairs that failed, repeats, and the entries read next.

    `given`: by lane, what its sender in this process is given; None: perhaps something, that this answer does not have.
    """

    failures: tuple[tuple[int, str], ...]
    entries: tuple[Entry, ...]
    duplicates: int
    given: Mapping[str, "Given | None"] = {}


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

    def handover(self, batch: Batch, want: int, rooms: Mapping[str, int] = {}) -> Awaitable[Handed]:
        """Apply a batch, acknowledge what it completes, read `want` more entries. Raises GroupLost.

        The bells of this process's own people come with the answer, to whoever listens to the Bus. Those that come off
        the bus may overtake them, and the other way round.

        `rooms`: lanes whose senders in this process take so many entries each, if the batch has pushes for them. When
        this raises, they may have been given some.
        """

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
    """Hears the bells of this process, and is told those that come with the answer to a handover (EventLog). It may
    lose some: the sessions notice. `heard`: shards it listens to now."""

    heard: set[int]

    def listen(
        self,
        bells: Callable[[list[Bell]], None],
        subscribed: Callable[[int], None],
        revoked: Callable[[str], None],
        missed: Callable[[Iterable[str]], None],
    ) -> None:
        """Call `bells` for each message, `subscribed(shard)` after each (re)subscription, `revoked(user)`, and
        `missed(users)` when bells of these people may have been lost."""


# --- Phones --------------------------------------------------------------------------------------------------


class PushRequest(Struct, frozen=True, gc=False):
    """What a provider is asked for: a delivery, and what it says. Devices of one language share the push."""

    delivery: Delivery
    push: Push


# s: what a sender has looked at is too old to send by after so long, and so is a request that has not left so long
# after `send` was called. Its phone may be another person's by then.
FRESH: Final = 5.0


class Provider(Protocol):
    """One provider, as one app is known there. `longest`: s that a `send` may take at most."""

    @property
    def longest(self) -> float: ...

    def send(self, requests: Sequence[PushRequest]) -> Awaitable[Sequence[Outcome]]:
        """Send; one outcome for each, in order. Never raises for what a provider or a network does.

        What has not left within FRESH seconds comes back as not sent, and is looked at anew.
        """


class PushesRead(Struct, frozen=True):
    """Entries of a lane that are this process's to settle now; `lost`: ids deleted while pending.

    `broken`: entries that nobody can read, as (id, what stood there). `newer`: how many more are of a newer version,
    which will claim them. `after`: "" = that is all.
    """

    entries: tuple[PushEntry, ...]
    broken: tuple[tuple[str, bytes], ...] = ()
    lost: tuple[str, ...] = ()
    after: str = ""
    newer: int = 0


class Looked(Struct, frozen=True):
    """What stands behind a push entry: the row, and the devices that are meant.

    `strangers`: devices that the person is still listed with, while they are another's now. `newer`: devices that
    only a process of a newer version can read; they have no token here and are left to it. `damaged`: ids of the
    person's own devices that nobody can read.
    """

    entry: PushEntry
    row: Row
    devices: tuple[Device, ...] = ()
    strangers: tuple[Device, ...] = ()
    newer: tuple[Device, ...] = ()
    damaged: tuple[str, ...] = ()

    @property
    def has_devices(self) -> bool:
        """Whether this person has any device on the lane, one that this process can send to or not."""
        return bool(self.devices or self.newer or self.damaged)


class Look(Struct, frozen=True):
    """What a batch of entries found: at `now` (ms, the server's clock), under `run` of the server."""

    now: int
    run: str
    found: tuple[Looked, ...]


class Seen(Struct, frozen=True):
    """What a handover saw, by entry: at `now` (ms, the server's clock), under `run` of the server.

    Unlike in a Look, the devices are all that the person is listed with: whose they are is still to be asked.
    """

    now: int
    run: str
    found: Mapping[str, Looked]


class Given(Struct, frozen=True):
    """Entries of a lane that a handover has read for the sender in its own process. `seen`: what stands behind those of
    them that it has appended itself, as far as their rows stand and one answer may have so much. `more`: there was not
    room for all that lies in the lane."""

    read: PushesRead
    seen: Seen
    more: bool = False


class Outlet(Protocol):
    """Who sends on one lane of a shard, for who hands over in the same process.

    Each `offer` of room is followed by one `given`, or by `drop`, or by nothing, where the lane got nothing.
    """

    def offer(self) -> int:
        """How many entries it takes from the next handover."""

    def given(self, given: Given, asked: float) -> None:
        """What a handover that began at `asked` (s, of the clock that they share) has read for it."""

    def drop(self) -> None:
        """Something may have been read for it, and is lost: it is to look what it was given."""


class Judged(Struct, frozen=True, gc=False):
    """A delivery and what is to be done with it. `why`: the provider's word, for a device that is forgotten."""

    delivery: Delivery
    verdict: Verdict
    why: str = ""


class Settlement(Struct, frozen=True):
    """What becomes of one entry. `results`: by device. `strangers`: to be taken off this person's list.

    A device that is to be forgotten, and was registered anew meanwhile, is tried again instead.
    `buried`: why the whole entry goes to the dead letters, with `detail`. `run`: under which its row was read.
    """

    entry: PushEntry
    run: str
    results: tuple[Judged, ...] = ()
    strangers: tuple[Device, ...] = ()
    buried: str = ""
    detail: str = ""


class PushesSettled(Struct, frozen=True):
    """What a settlement came to, by entry, in order.

    done; gone: somebody else has settled it, nothing was changed; again: it is decided anew, for the server has
    another run than the row was read under; or the text of an error, after which it stays pending.
    """

    states: tuple[str, ...]


class PushLog(Protocol):
    """The stream of one lane on one shard. Any number of processes read it, each entry is given to one of them."""

    def create(self) -> Awaitable[None]:
        """Make the consumer group at 0, where it is missing."""

    def history(self, want: int, after: str) -> Awaitable[PushesRead]:
        """What this process was given before and has not settled, from `after` ("" = the first). Raises GroupLost."""

    def claim(self, idle_ms: int, want: int, after: str) -> Awaitable[PushesRead]:
        """Take over what nobody has settled for idle_ms. Raises GroupLost."""

    def read(self, want: int) -> Awaitable[PushesRead]:
        """The next entries. Raises GroupLost."""

    def keep(self, held: Mapping[str, int]) -> Awaitable[frozenset[str]]:
        """Entries in hand, each with the ms since it was read or kept: those that are still this process's. They
        count as touched now; nobody else takes them over for as long as after a read."""

    def look(self, entries: Sequence[PushEntry], seen: Seen | None = None) -> Awaitable[Look]:
        """What stands behind entries; in order, all of them. `seen`: what is known of some, which makes the Look as old
        as that is; whoever has lost a device since is looked at again."""

    def settle(self, settlements: Sequence[Settlement]) -> Awaitable[PushesSettled]:
        """Write down what became of entries and acknowledge them."""

    def bury(self, broken: Sequence[tuple[str, bytes]]) -> Awaitable[PushesSettled]:
        """To the dead letters with entries that nobody can read. What fails stays pending and is claimed in time."""

    def depth(self) -> Awaitable[Depth]:
        """How much lies in the stream."""

    def wait(self, seconds: float) -> Awaitable[None]:
        """Return when something may have been appended, at the latest after so many seconds."""

    def ring(self) -> None:
        """There is more than one batch of it: wake another who waits for this lane here."""


class Woken(Struct, frozen=True, gc=False):
    """What waking came to: entries `moved` to their lanes, and how many are `left` to come due.

    `passed`: due too, but another version's, or not to be moved now; `buried`: what nobody can read. `more`: there may
    be more of what is due.
    """

    moved: int
    left: int
    passed: int = 0
    buried: int = 0
    more: bool = False


class Tidied(Struct, frozen=True, gc=False):
    """What tidying came to: why each entry was `buried` that was; `more`: there may be more of them."""

    buried: tuple[str, ...]
    more: bool


class DueLog(Protocol):
    """What is to be sent later, on one shard."""

    def wake(self) -> Awaitable[Woken]:
        """Bring what is due back to its lane; a part of it at a time."""

    def tidy(self) -> Awaitable[Tidied]:
        """Settle what nobody has taken from its lane until long after its deadline; a part of it at a time."""

    def wait(self, seconds: float) -> Awaitable[None]:
        """Return after so many seconds."""


class DevicePage(Struct, frozen=True):
    """Some of all (user, device) pairs; `after`: where the next page begins, "" = that was the last. `newer`: ids of
    devices that only a newer version can read.

    As with SCAN, what is there all the time comes at least once.
    """

    pairs: tuple[tuple[str, Device], ...]
    after: str
    newer: tuple[str, ...] = ()


class Rename(Struct, frozen=True, gc=False):
    """The device `old` of this person has another token now, and is `device`; for `ms` that is known."""

    user: str
    old: str
    device: Device
    ms: int


class Devices(Protocol):
    """Everybody's devices. A token is one device and belongs to one person."""

    def register(self, user: str, device: Device) -> Awaitable[bool]:
        """The device is this person's from now on, and nobody else's; False: somebody else has registered it meanwhile,
        or it has been unregistered.

        When that was the store says, whatever `device.registered` is. Whoever has more than the limit loses those
        registered longest ago.
        """

    def restore(self, user: str, device: Device) -> Awaitable[bool]:
        """The same for a device out of a file, which keeps its time; False too if somebody else has registered it
        since, or if its person has newer ones enough."""

    def unregister(self, user: str, device: str) -> Awaitable[bool]:
        """Take a device (by its id) off this person's list; False: it was not there. Another's stays."""

    def rename(self, user: str, old: str, device: Device, ms: int) -> Awaitable[bool]:
        """The device `old` has another token now, and is `device`; for `ms` that is known. False: one of them is not
        this person's any more."""

    def rename_all(self, renames: Sequence[Rename], seconds: float) -> Awaitable[tuple[str, ...]]:
        """Some people's at a time, for so many seconds: then no more are begun, and what is under way is not waited
        for. Never raises for one that fails; why those failed, or were not finished, that did."""

    def renamed(self, user: str, device: str) -> Awaitable[str]:
        """What has become of a device by `rename`; "" = nothing."""

    def of(self, user: str) -> Awaitable[tuple[Device, ...]]:
        """A person's devices, those registered longest ago first."""

    def page(self, after: str = "") -> Awaitable[DevicePage]:
        """All devices, a page at a time."""
