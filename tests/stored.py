"""What stands in an inbox in Redis, read as its fields are laid out (docs/architecture.md, "The inbox")."""

from __future__ import annotations

import struct
from typing import Final

from msgspec import Struct

from tests.servers import Valkey

_LAYOUT: Final = struct.Struct("<c16s16s12d")


class State(Struct, frozen=True):
    """The field `state`: version, runs, then the numbers, in the order in which they are stored."""

    version: str
    run: str
    prun: str
    birth: int
    start: int
    seq: int
    floor: int
    tail: int
    live: int
    seen: int
    ack: int
    unread: int
    tombs: int
    past: int
    till: int

    @classmethod
    def parse(cls, stored: bytes) -> State:
        version, run, prun, *numbers = _LAYOUT.unpack(stored)
        return cls(version.decode(), run.decode(), prun.decode(), *map(int, numbers))

    def packed(self) -> bytes:
        version, run, prun, *numbers = (getattr(self, name) for name in self.__struct_fields__)
        return _LAYOUT.pack(version.encode(), run.encode(), prun.encode(), *numbers)


NOTHING: Final = State("1", "", "", *([0] * 12))


def state_of(server: Valkey, user: str) -> State:
    """Where a person's inbox stands, NOTHING while there is none. With one shard."""
    stored = server.call("HGET", f"inbox:{{0}}:{user}", "state")
    return State.parse(stored) if isinstance(stored, bytes) else NOTHING
