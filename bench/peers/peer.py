"""What the benches must know of another server: how to start it, how its clients come, how an event reaches it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.harness import Running

Event = Literal["one", "all"]
"""Whom an event is for: one person, or everybody who is connected."""


@dataclass(frozen=True)
class Peer:
    """`start` raises NotInstalled, with the command that installs it, when a program or package is missing."""

    name: str
    start: Callable[[], Running]
    clients: Callable[[Event], Sequence[str]]
    """The generator's options that make its connections clients of this server, ready for such an event."""
    template: Callable[[Event], Path]
    """The generator's template of one publication; it goes to `redis_port` of what `start` gave."""
