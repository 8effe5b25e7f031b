"""The rules of the state, each with what happens without it; and what breaks when one is taken away."""

from __future__ import annotations

from typing import Final

RULES: Final[dict[str, str]] = {
    # handing over
    "fence": "read, claim and handover check the lease inside: two readers would mix up the order of an inbox",
    "takeover": "a new owner claims all that is pending before it reads on: its predecessor's entries would come late",
    "forget": "who lost its connection drops all it holds: it would acknowledge entries of which Redis lost a part",
    "whole": "an entry is acknowledged when its last pair is done: a kill in between would lose the others",
    "hold": "behind a pair that failed its person's later ones wait: they would overtake it",
    "last": "the mark is written last: an error half-way would leave a mark without its row",
    "group": "a lost consumer group is made again at 0: at the end of the stream it would skip what is left",
    # once
    "mark": "what was applied leaves a mark: repeats would be applied again",
    "burial": "a pair that is buried leaves its mark too: a takeover would apply it, behind newer ones",
    "stale": "what is older than the window is refused: its mark may be gone",
    "accepted": "age is counted at the front door: what has waited before a shard would be refused",
    "wait": "marks stay while an entry is left that could repeat them: an outage would outlast any expiry",
    "door": "the sweep is told what waits at the front door: a repeat that sat there would find its mark gone",
    "behind": "the sweep looks at every entry of a routed stream: a killed router repeats old ones behind newer ones",
    "register": "what was taken back is remembered: a retraction that overtakes its event would have no effect",
    # routing
    "source": "a chunk carries the id of its entry at the front door: appended twice it would be two events",
    "answered": "the router acknowledges after the shards have answered: a kill in between would lose the event",
    # places
    "birth": "places, bells and sweeps carry the birth: an inbox made anew would pass for the old one",
    "run": "places carry the server's run: seqs that were given out twice would pass for the first ones",
    "from": "a place of the run before counts up to where both agree: beyond, it names changes that were lost",
    "past": "no resume from before the last dropped tombstone: the client would keep what was taken back",
    "pointers": "the cap of tombstones has a pointer of its own: it would drop older rows that live",
    "since": "a load in pages says where it began: dropped tombstones would make it begin anew for ever",
    "floor": "changes carry `floor`: a client would keep rows that the cap has dropped",
    "adopt": "a client takes a new epoch with `upto` only: a line dropped before would pair it with an old seq",
    "cut": "a line that is cut before `upto` makes the client load anew: beyond its place it may hold what Redis lost",
    # sessions
    "gap": "a bell that is not the next one makes the session join: what was missed would stay missed",
    "old": "a bell that history already held is skipped: a client would see a seq go back",
    "ahead": "the sweep joins also who is ahead: what a client was shown and Redis lost would stay on its list",
    "last-bell": "the sweep compares seqs: the last bell, lost, leaves no gap to notice",
    # marks
    "cumulative": "the read mark names every row that is read: only its newest record is kept",
    "quiet": "a mark takes a seq only if it changes a row: active clients would answer each other for ever",
    "place": "marks by seq carry their place: those of a lost past would mark what nobody was shown",
}

# One tick is some minutes; all durations in ticks.
HOUR: Final = 6
WINDOW: Final = 24
MARGIN: Final = 1
LEASE: Final = 3
REGISTER: Final = WINDOW + HOUR
CAP: Final = 3  # rows
TOMBS: Final = 1
STEPS: Final = 2  # how far a trim walks
PAGE: Final = 2  # records a join returns
KEPT: Final = 2  # bells kept during a join
TRIES: Final = 2


class Broken(Exception):
    """A promise was broken: which one, and how."""

    def __init__(self, promise: str, how: str) -> None:
        super().__init__(promise, how)
        self.promise, self.how = promise, how


class Rules:
    """Which rules hold: all, but those switched off."""

    def __init__(self, *off: str) -> None:
        unknown = set(off) - RULES.keys()
        assert not unknown, f"no such rule: {unknown}"
        self.off = frozenset(off)

    def __getitem__(self, rule: str) -> bool:
        return rule not in self.off
