"""What is over is deleted: old answers, a few at a time, and never what may still be asked for."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.db import OperationalError

from tests.webapp.stack import Stack
from webapp import tidying
from webapp.idempotency import HOURS
from webapp.models import Answered
from webapp.shards import ScatterNode, all_shards, each_node, first_id_at, shard
from webapp.tidying import BUDGET, EVERY, Tidying

NOW = time.time() * 1000
OLD = first_id_at(int(NOW) - HOURS * 3_600_000)


class Clock:
    """Seconds, which pass when a test says so, and a little with each look."""

    now, step = 1000.0, 0.0

    def __call__(self) -> float:
        self.now += self.step
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tidy(db: Stack, clock: Clock) -> Iterator[Tidying]:
    yield Tidying(clock, lambda: NOW)


def answered(number: int, *ids: int) -> None:
    with shard(number):
        Answered.objects.bulk_create(
            Answered(person_id=1, about=0, key=str(one), id=one, content="", answer="{}") for one in ids
        )


def left() -> dict[int, list[int]]:
    """The ids that stand, by shard."""
    found = {}
    for number in all_shards():
        with shard(number):
            if ids := sorted(Answered.objects.values_list("id", flat=True)):
                found[number] = ids
    return found


def test_what_is_a_day_old_goes(tidy: Tidying) -> None:
    answered(0, OLD - 1, OLD)
    answered(3, OLD - 2, OLD - 1)
    answered(7, OLD + 1)
    tidy()
    assert left() == {0: [OLD], 7: [OLD + 1]}


def test_it_looks_once_a_minute(tidy: Tidying, clock: Clock) -> None:
    tidy()
    answered(0, OLD - 1)
    clock.now += EVERY - 0.1
    tidy()
    assert left() == {0: [OLD - 1]}
    clock.now += 0.1
    tidy()
    assert left() == {}


@pytest.fixture(params=["hashagg", "hashjoin, hashagg, material, sort"])
def planner(db: Stack, request: pytest.FixtureRequest) -> Iterator[None]:
    """Ways that the planner may go, of which one asks anew for each row."""
    names = request.param.split(", ")

    def switch(how: str) -> None:
        for node in each_node(primary=True):
            with node.cursor() as cursor:
                cursor.execute("; ".join(f"SET enable_{name} = {how}" for name in names))

    switch("off")
    yield
    switch("on")


@pytest.mark.usefixtures("planner")
def test_much_goes_in_steps(tidy: Tidying, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tidying, "AT_ONCE", 10)
    answered(2, *range(OLD - 25, OLD))
    counts = []
    for _ in range(3):
        tidy()
        counts.append(len(left().get(2, [])))
    assert counts == [15, 5, 0]


def test_a_step_ends_with_its_time(tidy: Tidying, clock: Clock) -> None:
    for number in range(8):
        answered(number, OLD - 1)
    clock.step = BUDGET / 2
    tidy()
    assert 0 < len(left()) < 8
    clock.step = 0
    tidy()
    assert left() == {}


def test_rows_that_another_deletes_are_not_waited_for(db: Stack, tidy: Tidying) -> None:
    answered(0, OLD - 2, OLD - 1)
    with db.primary.connect() as link, link.cursor() as cursor:
        cursor.execute(f"SELECT FROM s0000.answered WHERE id = {OLD - 2} FOR UPDATE")
        tidy()
        assert left() == {0: [OLD - 2]}
    link.close()


def test_an_outage_can_wait(
    db: Stack, tidy: Tidying, clock: Clock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answered(0, OLD - 1)
    with monkeypatch.context() as during:
        during.setattr(tidying, "_LOOK", "SELECT '{schema}' WHERE 1 / 0 = %(before)s")
        with caplog.at_level(logging.WARNING):
            tidy()
    assert "what is over stays for now on node 0: division by zero" in caplog.text
    clock.now += EVERY
    tidy()
    assert left() == {}


def test_a_node_that_is_away_keeps_no_other_from_it(
    db: Stack, tidy: Tidying, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered(0, OLD - 1)
    (node,) = each_node(primary=True)

    class Away(ScatterNode):
        def cursor(self) -> Any:
            raise OperationalError("away")

    monkeypatch.setattr(tidying, "each_node", lambda *, primary: [Away(*node), node])
    tidy()
    assert left() == {}
    answered(0, OLD - 1)
    tidy()
    assert left() == {0: [OLD - 1]}, "for the one that is away nobody comes back before the minute is over"
