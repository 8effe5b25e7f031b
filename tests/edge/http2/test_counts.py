"""What is counted of connections and of pushes that ended without an answer."""

from __future__ import annotations

from notifier.core.http2 import Answered, Expired, Refused, Unknown
from notifier.edge.http2.pool import Counts
from notifier.metrics import CONNECTION_EVENTS


def test_each_end_without_an_answer_is_counted_by_its_kind() -> None:
    counts = Counts()
    counts.note(
        [
            Answered("a", 200),
            Refused("b", "the server closes"),
            Unknown("c", "cut", "lost"),
            Unknown("d", "reset", "reset", 200),
            Unknown("e", "nonsense", "garbled"),
            Expired("f", sent=True),
            Expired("g", sent=False),
        ]
    )
    assert counts == Counts(refused=1, lost=1, reset=1, garbled=1, late=1, waited=1)


def test_the_metric_has_a_label_for_each() -> None:
    assert Counts.__struct_fields__ == CONNECTION_EVENTS
