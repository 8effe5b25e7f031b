"""What Redis holds of streams that do not empty: who reads them, what is pending with whom, and who lives."""

from __future__ import annotations

from typing import Any

import hiredis

from notifier.core import keys
from tests.servers import Valkey

SHOWN = 5  # pending entries of a stream


def names(server: Valkey, pattern: str) -> list[str]:
    found = server.call("KEYS", pattern)
    assert isinstance(found, list)
    return sorted(name.decode() for name in found)


def holders(server: Valkey) -> dict[bytes, str]:
    """Which daemon an incarnation is, by the name in its configuration."""
    found = {}
    for slot in names(server, keys.slot("*")):
        holder = server.call("GET", slot)
        if isinstance(holder, bytes):  # it may just have expired
            found[holder] = slot.removeprefix(keys.slot("")).rsplit("-", 1)[0]
    return found


def diagnosis(server: Valkey) -> list[str]:
    """Lines to print when something is stuck."""
    known = holders(server)
    said = [f"slots: { ({slot: server.call('GET', slot) for slot in names(server, keys.slot('*'))}) }"]
    said.append(f"processes: {server.call('ZRANGE', keys.PROCESSES, '0', '-1', 'WITHSCORES')}")
    for stream in [keys.FRONT_DOOR, *names(server, "events:*")]:
        said += _stream(server, stream, known)
    for letters in names(server, "dead:*"):
        said.append(f"{letters}: {server.call('XLEN', letters)} letters")
    return said


def _stream(server: Valkey, stream: str, known: dict[bytes, str]) -> list[str]:
    tagged = keys.FRONT_TAG if stream == keys.FRONT_DOOR else stream.removeprefix("events:")
    if stream == keys.FRONT_DOOR and not server.call("EXISTS", keys.lease(tagged)):
        tagged = keys.tag(0)  # with one shard the front door is its stream
    holder: Any = server.call("GET", keys.lease(tagged))
    left = server.call("PTTL", keys.lease(tagged))
    who = f"{holder!r} ({known.get(holder, 'in no slot')}), for {left} ms more" if holder else "nobody"
    said = [f"{stream}: {server.call('XLEN', stream)} entries, read by {who}"]
    said.append(f"    first: {server.call('XRANGE', stream, '-', '+', 'COUNT', '1')}")
    for what in (("GROUPS", stream), ("CONSUMERS", stream, keys.GROUP)):
        said += [f"    {what[0].lower()}: {row}" for row in _asked(server, "XINFO", *what)]
    waiting = _asked(server, "XPENDING", stream, keys.GROUP, "-", "+", str(SHOWN))
    said.append(f"    pending (id, consumer, idle ms, times): {waiting}")
    return said


def _asked(server: Valkey, *command: str) -> list[Any]:
    """The answer; an error, as of a stream without a group, tells something as well."""
    try:
        found = server.call(*command)
    except hiredis.ReplyError as error:
        return [error]
    assert isinstance(found, list)
    return found
