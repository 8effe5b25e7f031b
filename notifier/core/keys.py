"""Redis key names, and which shard a user lives on. All keys of a person carry the hash tag of their shard."""

from collections.abc import Iterable
from typing import Final
from zlib import crc32

FRONT_DOOR: Final = "notifier:events"
GROUP: Final = "notifier"
PRESSURE: Final = "notifier:pressure"
SETUP: Final = "notifier:setup"
CONTROL: Final = "notifier:control"
PROCESSES: Final = "notifier:processes"

# The hash tag that puts the front door's lease and dead letters into the front door's own slot.
FRONT_TAG: Final = "{" + FRONT_DOOR + "}"


def shard_of(user: str, shards: int) -> int:
    """The shard of a user: 0..shards-1, the same in every process and for ever."""
    return crc32(user.encode()) % shards


def tag(shard: int) -> str:
    """The hash tag of a shard."""
    return f"{{{shard}}}"


def events(shard: int, shards: int) -> str:
    """The stream of a shard; with one shard the front door itself."""
    return FRONT_DOOR if shards == 1 else f"events:{tag(shard)}"


def lease(tagged: str) -> str:
    """Who reads the stream of this tag."""
    return f"lease:{tagged}"


def marks(tagged: str, hour: int, bucket: int) -> str:
    """A set of idempotency marks, by the hour of the event's own time."""
    return f"seen:{tagged}:{hour}:{bucket}"


def inbox(user: str, shards: int) -> str:
    return f"inbox:{tag(shard_of(user, shards))}:{user}"


def revoked(user: str, shards: int) -> str:
    """Tokens of this user issued until this second are void."""
    return f"revoked:{tag(shard_of(user, shards))}:{user}"


def dead_letters(tagged: str, reason: str) -> str:
    """A stream of events that could not be applied, one per reason so that each is capped alone."""
    return f"dead:{tagged}:{reason}"


def bell(tagged: str, incarnation: str) -> str:
    """The channel on which a process hears changes for its people on one shard."""
    return f"bell:{tagged}:{incarnation}"


def wake(tagged: str) -> str:
    """The channel on which the reader of a shard hears that the router has appended."""
    return f"wake:{tagged}"


def slot(name: str) -> str:
    """Who goes by this consumer name."""
    return f"slot:{name}"


def devices(user: str, shards: int) -> str:
    """A person's devices by id, and in `lanes` which lanes these have."""
    return f"dev:{tag(shard_of(user, shards))}:{user}"


def owner(device: str, shards: int) -> str:
    """Whose a device is, by its id, which is a hash of its token."""
    return f"owner:{tag(shard_of(device, shards))}:{device}"


def owners(devices: Iterable[str], shard: int) -> list[str]:
    """The same for devices that are of one shard."""
    start = f"owner:{tag(shard)}:"
    return [start + device for device in devices]


def pushes(tagged: str, lane: object) -> str:
    """The stream of a lane."""
    return f"push:{tagged}:{lane}"


def lanes(tagged: str) -> str:
    """A set: the names of all lanes that anybody's devices have had, so that one that nobody reads is found."""
    return f"pushes:{tagged}"


def renamed(user: str, device: str, shards: int) -> str:
    """The device that a gateway has given another token, as which it is listed now; for as long as a push may wait."""
    return f"renamed:{tag(shard_of(user, shards))}:{user}:{device}"


def due(tagged: str) -> str:
    """What is to be sent later, by when it is due (ms)."""
    return f"due:{tagged}"


def later(tagged: str) -> str:
    """What the members of `due` stand for."""
    return f"later:{tagged}"


def dead_tokens(tagged: str) -> str:
    """A stream of devices that were forgotten on a provider's word."""
    return f"tokens:dead:{tagged}"


def lanes_bell(tagged: str) -> str:
    """The channel on which senders hear that one of their lanes has something to send."""
    return f"lanes:{tagged}"
