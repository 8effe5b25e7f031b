"""A lane is one app at one provider: what lies in its stream, what a row says of a push, and why one is not sent."""

import re
from collections.abc import Iterable
from typing import Final, Literal, TypeAlias, get_args

from msgspec import Struct

from notifier.core import retry
from notifier.core.model import Delivery, Device, Notification, Provider

# off: never. offline: when the person has no socket at handover. always: whether or not.
Policy: TypeAlias = Literal["off", "offline", "always"]
POLICIES: Final[tuple[Policy, ...]] = get_args(Policy)

# row: it is there and nobody has seen it. trimmed: dropped by the inbox's cap. forgotten: there is no inbox.
# broken: what is stored cannot be read.
Standing: TypeAlias = Literal["row", "retracted", "seen", "read", "trimmed", "forgotten", "broken"]

# Why an entry is done without being sent, and why one is buried.
Drop: TypeAlias = Literal["retracted", "seen", "read", "no_device"]
DROPS: Final[tuple[Drop, ...]] = get_args(Drop)
BURIALS: Final = (*retry.REASONS, "trimmed", "forgotten", "unreadable", "bug")

VERSION: Final = "1"
ALL: Final = "-"  # where an entry names no device
_entry: Final = re.compile(rf"{VERSION} (\S+) (\S+) (\d+) (\S+) (\d+) (\d+) (\d+)", re.ASCII).fullmatch
_other_version: Final = re.compile(rf"(?!{VERSION} )\d+ ", re.ASCII).match


class Lane(Struct, frozen=True, gc=False, order=True):
    """One app at one provider; its name is "<app>:<provider>"."""

    app: str
    provider: Provider

    def __str__(self) -> str:
        return f"{self.app}:{self.provider}"

    @property
    def label(self) -> str:
        """The values of a metric's labels `app provider`."""
        return f"{self.app} {self.provider}"


_NOWHERE: Final = "(unconfigured)"  # in the place of an app that only devices know
UNCONFIGURED: Final = tuple(f"{_NOWHERE} {provider}" for provider in ("apns", "fcm", "other"))


def unconfigured(lane: str) -> str:
    """The label of a lane, by its name, that no app of this configuration sends on."""
    label = f"{_NOWHERE} {lane.rpartition(':')[2]}"
    return label if label in UNCONFIGURED else UNCONFIGURED[-1]


class Rule(Struct, frozen=True, gc=False):
    """What one type of event asks of phones; `ttl`: ms from the event's acceptance to the deadline."""

    policy: Policy = "off"
    ttl: int = 86_400_000

    def stored(self, accepted: int) -> int:
        """As a row item of handover says it: 0 = off, the deadline (ms) = always, the same below 0 = offline."""
        if self.policy == "off":
            return 0
        return accepted + self.ttl if self.policy == "always" else -(accepted + self.ttl)


OFF: Final = Rule()


class PushEntry(Struct, frozen=True, gc=False):
    """One push to make: a notification for a person's devices on a lane; a retry names its one device.

    `id`: in the stream. `deadline`: ms. The counts are those of Delivery.
    """

    id: str
    user: str
    notification: str
    deadline: int
    device: str = ""
    tries: int = 0
    free: int = 0
    doubts: int = 0

    @property
    def queued(self) -> int:
        """When it was appended, ms."""
        return int(self.id.partition("-")[0])

    def as_text(self) -> str:
        """As it is stored: "<version> <user> <notification> <deadline> <device or -> <tries> <free> <doubts>"."""
        return (
            f"{VERSION} {self.user} {self.notification} {self.deadline} {self.device or ALL}"
            f" {self.tries} {self.free} {self.doubts}"
        )

    def delivery(self, device: Device, seq: int) -> Delivery:
        """This notification on its way to one device; `seq`: of the row now."""
        return Delivery(
            self.user, self.notification, seq, device, self.deadline, self.tries, self.free, self.doubts
        )


def parse(entry_id: str, text: str) -> PushEntry | None:
    """An entry as it is stored; None for a version that a newer process wrote. Raises ValueError for a broken one."""
    match = _entry(text)
    if match is None:
        if _other_version(text):
            return None
        raise ValueError(f"not a push entry: {text[:80]!r}")
    user, notification, deadline, device, tries, free, doubts = match.groups()
    named = "" if device == ALL else device
    return PushEntry(entry_id, user, notification, int(deadline), named, int(tries), int(free), int(doubts))


class Row(Struct, frozen=True, gc=False):
    """A row of an inbox as a push finds it; only one that still stands ("row") has more than a seq.

    `epoch`: of its place; `record`: as it is stored, or why it is broken; `unread`: rows in the whole inbox. `told`:
    what the record says, where this process has just written it, and need not read it again.
    """

    standing: Standing
    seq: int = 0
    epoch: str = ""
    record: str = ""
    unread: int = 0
    told: Notification | None = None


def lanes_of(devices: Iterable[Device]) -> str:
    """The lanes of a person's devices, as their hash holds it."""
    return " ".join(sorted({f"{device.app}:{device.provider}" for device in devices}))


def dropped(row: Row, has_devices: bool) -> Drop | None:
    """Why a push is done without being sent; None: it is not."""
    if row.standing in ("retracted", "seen", "read"):
        return row.standing
    return None if has_devices else "no_device"


def buried(row: Row, deadline: int, now: int, has_devices: bool) -> tuple[str, str] | None:
    """(reason, detail) of an entry that can never be sent as it should; None: it can, or there is nobody to send it
    to. deadline, now: ms."""
    if row.standing == "trimmed":
        return "trimmed", "the inbox has dropped its row for newer ones"
    if row.standing == "forgotten":
        return "forgotten", "there is no inbox of this person any more"
    if row.standing == "broken":
        return "unreadable", row.record[:500]
    if row.standing == "row" and has_devices and now >= deadline:
        return "expired", "its deadline came before it was sent"
    return None
