"""Random schedules, their execution, and the shortest trace that still breaks a promise.

python -m tests.model.explorer [--off RULE,RULE] [--schedules 20000] [--first 0] [--length 60]
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

from tests.model.rules import RULES, Broken, Rules
from tests.model.world import Step, World

WEIGHTS: Final[dict[str, float]] = {
    "event": 10, "repeat": 3, "time": 5, "outage": 0.4, "fault": 1, "restart": 1.2, "lose_group": 0.3, "expire": 0.3,
    "start": 1, "kill": 1.2, "read": 16, "flow": 6, "claim": 1, "forget_marks": 2, "subscribe": 3, "session": 8,
    "bell": 8, "lose_bell": 1.5, "look": 3, "write": 5, "connect": 3, "drop": 1.5, "flap": 1, "rejoin": 2,
    "receive": 8, "mark": 5, "rest": 4,
}  # fmt: skip
ALWAYS: Final = ("event", "read")


# Kinds of steps to favour when a rule is off that chance alone seldom needs.
FOCUS: Final[dict[str, tuple[str, ...]]] = {
    "wait": ("outage", "repeat", "forget_marks", "read"),
    "door": ("outage", "repeat", "forget_marks", "read"),
    "birth": ("expire", "flow", "rest", "drop"),
    "pointers": ("flow", "event"),
    "place": ("mark", "restart", "flow", "event"),
}
_NEW_ROW_DELETED: Final = (
    "event 0 0; flow 0 0; rejoin 0 0; bell 0 0; bell 0 0; receive 0 2; receive 0 2; mark 0 68; "
)
# Traces that chance finds too seldom: where they are played, and the steps.
TRACES: Final[dict[str, tuple[bool, str]]] = {
    # Two events, accepted far apart, are routed twice by a router that dies in between. The shard has done with the
    # first, so that its repeat stands behind the second when old marks are swept.
    "behind": (
        True,
        "event 0 49; outage 0 0; event 0 1; read 1 6; read 1 6; read 1 8; read 1 8; read 0 0; read 0 0; read 0 0; "
        "read 0 0; kill 1 0; time 0 3; read 0 6; read 0 6; read 0 8; read 0 8; read 0 0; read 0 0; read 0 0; "
        "forget_marks 0 0; forget_marks 0 0",
    ),
    # A device is away while another deletes three rows, and then two more.
    "past": (
        False,
        "rest 0 0; event 0 0; event 0 0; event 0 0; flow 0 0; flow 0 0; rest 0 0; drop 1 0; mark 0 64; mark 0 68; "
        "mark 0 72; bell 0 0; bell 0 0; bell 0 0; receive 0 2; " + 2 * _NEW_ROW_DELETED,
    ),
    # Two old rows fill the first page; behind them stand only tombstones, of which some were dropped.
    "since": (
        False,
        "rest 0 0; event 0 0; event 0 0; event 0 0; flow 0 0; flow 0 0; rest 0 0; drop 1 0; mark 0 68; bell 0 0; "
        "receive 0 2; " + 4 * _NEW_ROW_DELETED + "event 0 0; flow 0 0",
    ),
    # A bell is heard after the sessions have joined the server that forgot its cause.
    "ahead": (
        False,
        "rest 0 0; event 0 0; read 0 0; read 0 0; read 0 0; read 0 0; restart 0 5; rejoin 0 0; bell 0 0",
    ),
    # A device has heard of a mark, but not the end of its resume, when Redis forgets the mark.
    "cut": (
        True,
        "event 5 981; flow 4 874; kill 0 2596; rest 5 2346; mark 0 3538; flap 3 3542; event 2 2662; mark 1 404; "
        "write 3 963; restart 2 231",
    ),
    # A device hears `ready` of an inbox that was made anew, and nothing more.
    "adopt": (False, "event 3 3395; flow 1 2518; rest 0 952; expire 1 1358; flap 4 2621; event 1 581"),
    # A device is away while another reads two rows, one by one.
    "cumulative": (
        False,
        "rest 0 0; event 0 1; event 0 1; flow 0 0; flow 0 0; rest 0 0; drop 1 0; mark 0 1; write 0 0; mark 0 5; "
        "write 0 0",
    ),
}


class Found(NamedTuple):
    """A schedule that breaks a promise. routed: played with a router and two shards."""

    name: str
    routed: bool
    steps: tuple[Step, ...]
    promise: str
    how: str


def parse(trace: str) -> list[Step]:
    """Steps as they are told."""
    found = []
    for step in filter(None, map(str.split, trace.split(";"))):
        kind, who, how = step
        found.append((kind, int(who), int(how)))
    return found


def schedule(number: int, length: int, focus: Collection[str] = ()) -> list[Step]:
    """Always the same steps for a number. Each schedule favours some kinds of steps and leaves others out."""
    chance = random.Random(number)
    weights = [
        weight * (6 if kind in focus else 1) * chance.choice((1, 2) if kind in ALWAYS else (0, 1, 1, 1, 5))
        for kind, weight in WEIGHTS.items()
    ]
    kinds = chance.choices(list(WEIGHTS), weights, k=chance.randrange(6, length + 1))
    begin: list[Step] = [("rest", 0, 0)] if chance.random() < 0.6 else []
    return begin + [(kind, chance.randrange(6), chance.randrange(1 << 12)) for kind in kinds]


def execute(steps: Iterable[Step], rules: Rules, routed: bool) -> Broken | None:
    """What these steps break, or None."""
    world = World(rules, routed)
    try:
        for step in steps:
            world.step(*step)
        world.quiesce()
        world.judge()
    except Broken as broken:
        return broken
    return None


def explore(rules: Rules, first: int, count: int, length: int = 60) -> Found | None:
    """What breaks a promise: a trace that is known for the rules that are off, or else the first of `count` schedules.

    Every other schedule is played with a router and two shards.
    """
    focus = [kind for rule in sorted(rules.off) for kind in FOCUS.get(rule, ())]
    known = [(rule, *TRACES[rule]) for rule in sorted(rules.off) if rule in TRACES]
    played = [(f"trace {rule}", routed, parse(steps)) for rule, routed, steps in known]
    drawn = (
        (str(number), number % 2 == 1, schedule(number, length, focus))
        for number in range(first, first + count)
    )
    for name, routed, steps in itertools.chain(played, drawn):
        if broken := execute(steps, rules, routed):
            return Found(name, routed, tuple(steps), broken.promise, broken.how)
    return None


def shrink(found: Found, rules: Rules) -> Found:
    """The same promise broken by fewer steps."""

    def broken_by(steps: Sequence[Step]) -> Broken | None:
        broken = execute(steps, rules, found.routed)
        return broken if broken is not None and broken.promise == found.promise else None

    steps, size, how = list(found.steps), max(1, len(found.steps) // 2), found.how
    while size:
        at, shorter = 0, False
        while at < len(steps):
            fewer = steps[:at] + steps[at + size :]
            if broken := broken_by(fewer):
                steps, shorter, how = fewer, True, broken.how
            else:
                at += size
        if size > 1 or not shorter:
            size //= 2
    return found._replace(steps=tuple(steps), how=how)


def told(found: Found) -> str:
    """A trace to read."""
    where = "a router and two shards" if found.routed else "one stream"
    steps = "; ".join(f"{kind} {who} {how}" for kind, who, how in found.steps)
    return f"schedule {found.name}, {where}: {found.promise}: {found.how}\n    {steps}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Look for a schedule that breaks a promise.")
    parser.add_argument("--off", default="", help=f"rules to switch off: {', '.join(RULES)}")
    for name, value in (("schedules", 20_000), ("first", 0), ("length", 60)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(arguments)
    rules = Rules(*filter(None, given.off.split(",")))
    found = explore(rules, given.first, given.schedules, given.length)
    sys.stdout.write((told(shrink(found, rules)) if found else "nothing found") + "\n")
    return int(found is not None)


if __name__ == "__main__":
    sys.exit(main())
