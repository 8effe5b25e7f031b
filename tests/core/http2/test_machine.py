"""The one promise: whatever happens, each push that was accepted ends in exactly one result."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from notifier.core.http2 import Answered, Expired, Limits, NotAccepting, Refused
from tests.core.http2 import world
from tests.core.http2.world import (
    ACK,
    OK,
    Results,
    connect,
    contexts,
    data,
    goaway,
    headers,
    push,
    rst,
    window,
)

LIMITS = (
    Limits(),
    Limits(streams=2, waiting=3, partial=1, requests=9),
    Limits(first_alone=True, answer_within=5, wait_within=3, ping_after_silence=1),
    Limits(header_table=4096, headers_of_success=True, encoder_table=0, requests=6),
)
picks = st.integers(0, 1 << 16)


class Pushes(RuleBasedStateMachine):
    """A server that mostly keeps to the rules, a network that may end at any moment, and time that passes."""

    @initialize(limits=st.sampled_from(LIMITS), settled=st.booleans())
    def begin(self, limits: Limits, settled: bool) -> None:
        self.now = 0.0
        self.connection = connect(limits)
        self.accepted = 0
        self.told: dict[object, object] = {}
        self.refused_streams: set[int] = set()
        self.seen: dict[int, bytearray] = {}  # what the server has of each body
        self.complete: set[int] = set()
        self.order: list[int] = []
        self.ended: set[int] = set()  # streams that the server has ended
        self.last = 2**31 - 1
        if settled:
            self.feed(world.settings() + ACK)

    def note(self, results: Results) -> None:
        for result in results:
            assert result.context not in self.told, "told twice"
            self.told[result.context] = result

    def feed(self, sent: bytes) -> None:
        self.note(self.connection.feed(sent, self.now))

    def one_of_open(self, pick: int) -> int | None:
        """A stream that the server knows and has not ended."""
        known = [number for number in self.order if number not in self.ended]
        return known[pick % len(known)] if known else None

    @rule(size=st.sampled_from((0, 1, 40, 5_000, 40_000, 70_000)))
    def push(self, size: int) -> None:
        try:
            stream = push(self.connection, self.accepted, b"%d," % self.accepted + bytes(size), self.now)
        except NotAccepting:
            assert not self.connection.accepting or self.connection.waiting
            return
        assert stream % 2 or not stream
        self.accepted += 1

    @rule()
    def pull(self) -> None:
        """The server reads; pushes appear in the order in which they were accepted."""
        for each in world.split(self.connection.pull()):
            if each.kind == 1:
                assert not self.order or each.stream > self.order[-1]
                self.order.append(each.stream)
                self.seen[each.stream] = bytearray()
            elif each.kind == 0:
                assert each.stream not in self.complete
                self.seen[each.stream] += each.payload
                if each.flags & 1:
                    self.complete.add(each.stream)
            elif each.kind == 3:
                self.ended.add(each.stream)

    @rule(pick=picks, status=st.sampled_from((OK, b"\x08\x03410", b"\x08\x03403")))
    def answer(self, pick: int, status: bytes) -> None:
        if (stream := self.one_of_open(pick)) is not None:
            self.ended.add(stream)
            self.feed(headers(stream, status, True))

    @rule(pick=picks, block=st.sampled_from((OK, b"\x20" + OK, b"\x08\x03100", b"\x40\x01a\x01b")))
    def begin_to_answer(self, pick: int, block: bytes) -> None:
        if (stream := self.one_of_open(pick)) is not None and not self.connection._decoder.stateless:
            self.feed(headers(stream, block))

    @rule(pick=picks, end=st.booleans())
    def go_on(self, pick: int, end: bool) -> None:
        if (stream := self.one_of_open(pick)) is not None:
            self.feed(data(stream, b"abc", end))
            if end:
                self.ended.add(stream)

    @rule(pick=picks, code=st.sampled_from((7, 7, 8)))
    def reset(self, pick: int, code: int) -> None:
        if (stream := self.one_of_open(pick)) is not None:
            self.ended.add(stream)
            self.feed(rst(stream, code))

    @rule(pick=picks, increment=st.sampled_from((1, 100, 100_000)))
    def enlarge(self, pick: int, increment: int) -> None:
        self.feed(window(0, increment))
        if (stream := self.one_of_open(pick)) is not None:
            self.feed(window(stream, increment))

    @rule(name=st.sampled_from((1, 3, 4)), value=st.sampled_from((0, 1, 3, 1000, 65_535)))
    def set(self, name: int, value: int) -> None:
        self.feed(world.settings((name, value)))

    @rule(pick=picks)
    def go_away(self, pick: int) -> None:
        if pick % 3:
            return
        last = self.order[pick % len(self.order)] if self.order and pick % 2 else 2**31 - 1
        self.last = min(last, self.last)
        self.feed(goaway(last))

    @rule(seconds=st.sampled_from((0.1, 1.0, 6.0, 30.0)))
    def wait(self, seconds: float) -> None:
        end = self.now + seconds
        while self.connection.next_deadline() <= end:
            before = self.connection.next_deadline()
            self.now = max(self.now, before)
            self.note(self.connection.tick(self.now))
            assert self.connection.next_deadline() > before, "a deadline that does not pass"
        self.now = end

    @rule(pick=picks)
    def drain(self, pick: int) -> None:
        if pick % 5 == 0:
            self.note(self.connection.drain(self.now))

    @precondition(lambda self: self.accepted > 3)
    @rule(pick=picks)
    def lose(self, pick: int) -> None:
        if pick % 5 == 0:
            self.note(self.connection.lost("the line is dead"))

    @invariant()
    def nobody_is_forgotten(self) -> None:
        if not hasattr(self, "connection"):
            return
        connection = self.connection
        assert len(self.told) + connection.open + connection.waiting == self.accepted
        if connection.closed:
            assert connection.open == connection.waiting == 0
        assert connection._slots == 0 or (connection.accepting and not connection.waiting)
        assert connection._bodies == sum(
            stream.response.size for stream in connection._partial.values() if stream.response
        )

    def teardown(self) -> None:
        if not hasattr(self, "connection"):
            return
        self.pull()
        self.note(self.connection.lost("the end"))
        assert sorted(self.told) == list(range(self.accepted))  # type: ignore[type-var]
        self.nothing_certain_is_wrong()

    def nothing_certain_is_wrong(self) -> None:
        """What the server has whole was never called unsent; what it ended was not called refused by us."""
        whole = {int(bytes(self.seen[s]).partition(b",")[0]) for s in self.complete}
        for context, result in self.told.items():
            if isinstance(result, Expired) and not result.sent:
                assert context not in whole
            if isinstance(result, Refused) and "line is dead" in result.reason:
                assert context not in whole
            if isinstance(result, Answered):
                assert result.status in (200, 403, 410)


TestPushes = Pushes.TestCase
TestPushes.settings = settings(max_examples=150, stateful_step_count=40)


def test_contexts_may_be_the_same() -> None:
    connection = connect()
    push(connection, None), push(connection, None)
    assert contexts(connection.lost("")) == [None, None]
