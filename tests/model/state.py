"""Redis, as far as it matters: values, moves that happen whole or not at all, and a restart that forgets the last."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

from tests.model.nouns import Entry, StreamId
from tests.model.rules import LEASE, Rules

P = ParamSpec("P")
S = TypeVar("S", bound="State")
T = TypeVar("T")


class LeaseLost(Exception):
    """Another process reads this stream."""


class GroupLost(Exception):
    """The consumer group has vanished."""


def move(script: Callable[Concatenate[S, P], T]) -> Callable[Concatenate[S, P], T]:
    """One atomic step: a restart keeps all of it or nothing."""

    @functools.wraps(script)
    def whole(self: S, /, *args: P.args, **kwargs: P.kwargs) -> T:
        self.changes = {}
        try:
            return script(self, *args, **kwargs)
        finally:
            if self.changes:
                self.log.append(self.changes)

    return whole


class State:
    """Values by key; each is replaced, never changed in place. `run`: which start of the server this is."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.now, self.run = 1000, 1
        self.values: dict[Any, Any] = {}
        self.log: list[dict[Any, Any]] = []
        self.changes: dict[Any, Any] = {}
        self._number = 0

    def number(self) -> int:
        """One that was never given out."""
        self._number += 1
        return self._number

    def get(self, key: Any, otherwise: Any = None) -> Any:
        return self.values.get(key, otherwise)

    def put(self, key: Any, value: Any) -> None:
        self.changes.setdefault(key, self.values.get(key))
        self.values[key] = value

    def set_in(self, key: Any, field: Any, value: Any) -> None:
        """One field of a mapping; None removes it."""
        fields = dict(self.get(key, {}))
        if value is None:
            fields.pop(field, None)
        else:
            fields[field] = value
        self.put(key, fields)

    def restart(self, lost: int) -> None:
        """The last `lost` moves never happened; the server has another run."""
        for _ in range(min(lost, len(self.log))):
            for key, before in self.log.pop().items():
                if before is None:
                    self.values.pop(key, None)
                else:
                    self.values[key] = before
        self.run += 1

    # -- leases

    def owns(self, stream: str, who: str) -> bool:
        holder, until = self.get(("lease", stream), ("", 0))
        return bool(holder == who and until > self.now)

    def fence(self, stream: str, who: str) -> None:
        """At the head of every script that moves entries; it keeps the lease as well."""
        if self.owns(stream, who):
            self.put(("lease", stream), (who, self.now + LEASE))
        elif self.rules["fence"]:
            raise LeaseLost

    @move
    def take(self, stream: str, who: str) -> bool:
        """Take the lease, unless another process has it."""
        holder, until = self.get(("lease", stream), ("", 0))
        if holder != who and until > self.now:
            return False
        self.put(("lease", stream), (who, self.now + LEASE))
        return True

    # -- streams

    def entries(self, stream: str) -> list[Entry]:
        """What is left, in order."""
        return [entry for _, entry in sorted(self.get(("stream", stream), {}).items())]

    @move
    def append(self, stream: str, entry: Entry) -> StreamId:
        """XADD; the entry's own id is given here, its source too when it has none."""
        new = (self.now, self.number())
        source = entry.source if entry.source > (0, 0) else new
        self.set_in(("stream", stream), new, entry._replace(id=new, source=source))
        if source == new:
            self.put("g.accepted", (*self.get("g.accepted", ()), (new, entry.event)))
        return new

    def read(self, stream: str, who: str, want: int) -> list[Entry]:
        """XREADGROUP: what nobody was given yet."""
        if self.get(("lost", stream)):
            raise GroupLost
        last = self.get(("read", stream), (0, 0))
        fresh = [entry for entry in self.entries(stream) if entry.id > last][:want]
        for entry in fresh:
            self.set_in(("pending", stream), entry.id, who)
            self.put(("read", stream), entry.id)
        return fresh

    @move
    def claim(self, stream: str, who: str) -> list[Entry]:
        """XAUTOCLAIM: all that is pending, in id order."""
        self.fence(stream, who)
        if self.get(("lost", stream)):
            raise GroupLost
        left = self.get(("stream", stream), {})
        found = [left[each] for each in sorted(self.get(("pending", stream), {})) if each in left]
        for entry in found:
            self.set_in(("pending", stream), entry.id, who)
        return found

    def done(self, stream: str, entry: StreamId) -> None:
        """XACK, and XDEL of what it has found. (The script looks what the group has been given by now where a batch is
        not found as a whole: that differs only if somebody acknowledges by hand, and here is nobody who does.)"""
        if entry in self.get(("pending", stream), {}):
            self.set_in(("pending", stream), entry, None)
            self.set_in(("stream", stream), entry, None)

    @move
    def lose_group(self, stream: str) -> None:
        self.put(("lost", stream), True)
        self.put(("pending", stream), {})

    @move
    def make_group(self, stream: str) -> None:
        """XGROUP CREATE."""
        if self.get(("lost", stream)):
            self.put(("lost", stream), False)
            end = max(self.get(("stream", stream), {}), default=(0, 0))
            self.put(("read", stream), (0, 0) if self.rules["group"] else end)
