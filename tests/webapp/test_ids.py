"""Ids: unique, rising, of their shard and time; whoever writes, however many, whatever the clock does."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.webapp.stack import Stack
from webapp.shards import datetime_of, first_id_at, milliseconds_of, shard_of
from webapp.shards.ids import EPOCH_MS, hash_of
from webapp.shards.next_id import LOCK

SHARD = 5
WRITERS = 16


@contextmanager
def session(db: Stack) -> Iterator[Any]:
    """A cursor of a connection of its own, each statement its own transaction."""
    with closing(db.primary.connect()) as link:
        link.autocommit = True
        with link.cursor() as cursor:
            yield cursor


def ids(cursor: Any, count: int) -> list[int]:
    cursor.execute(f"SELECT s{SHARD:04}.next_id() FROM generate_series(1, %s)", [count])
    return [made for (made,) in cursor.fetchall()]


def clock(cursor: Any) -> float:
    cursor.execute("SELECT date_part('epoch', clock_timestamp()) * 1000")
    (found,) = cursor.fetchone()
    return float(found)


def set_clock_back(cursor: Any, milliseconds: float) -> int:
    """As if ids had been given while the clock was ahead by so much. Returns the last one's Unix time, in ms."""
    value = (int(clock(cursor) + milliseconds) - EPOCH_MS) << 10
    cursor.execute(f"SELECT setval('s{SHARD:04}.ids', %s, true)", [value])
    return (value >> 10) + EPOCH_MS


@pytest.fixture
def cursor(db: Stack) -> Iterator[Any]:
    with session(db) as found:
        yield found
        found.execute(f"SELECT setval('s{SHARD:04}.ids', 1, false)")


@given(
    st.integers(min_value=0, max_value=(1 << 40) - 1),
    st.integers(min_value=0, max_value=8191),
    st.integers(min_value=0, max_value=1023),
)
def test_an_id_is_taken_apart(ms: int, shard: int, sequence: int) -> None:
    made = ms << 23 | shard << 10 | sequence
    assert shard_of(made) == shard
    assert milliseconds_of(made) == ms + EPOCH_MS
    assert datetime_of(made).timestamp() * 1000 == pytest.approx(ms + EPOCH_MS, abs=0.01)
    assert first_id_at(milliseconds_of(made)) <= made < first_id_at(milliseconds_of(made) + 1)
    assert made < 1 << 63


def test_the_first_id_is_of_new_year_2024() -> None:
    assert datetime_of(0) == datetime(2024, 1, 1, tzinfo=UTC)
    assert hash_of("Ana") == hash_of("ana") == 2_006_937_570


def test_an_id_tells_its_shard_and_the_time(cursor: Any) -> None:
    before = clock(cursor)
    (made,) = ids(cursor, 1)
    assert shard_of(made) == SHARD
    assert before - 5 <= milliseconds_of(made) <= clock(cursor)


def test_an_id_is_never_of_the_future_and_hardly_of_the_past(cursor: Any) -> None:
    for _ in range(50):
        before = clock(cursor)
        found = ids(cursor, 3)
        assert before - 5 <= milliseconds_of(found[0])
        assert milliseconds_of(found[-1]) <= clock(cursor)


def test_a_hundred_thousand_ids_rise(cursor: Any) -> None:
    found = ids(cursor, 100_000)
    assert all(one < other for one, other in itertools.pairwise(found))
    assert {shard_of(made) for made in found} == {SHARD}


def together(db: Stack, work: Callable[[Any], list[int]]) -> list[list[int]]:
    """What 16 sessions find that do the same at the same time. Their failures are the test's."""
    found: list[list[int]] = []
    failed: list[BaseException] = []
    start = threading.Barrier(WRITERS)

    def run() -> None:
        try:
            with session(db) as cursor:
                start.wait(30)
                found.append(work(cursor))
        except BaseException as fault:
            failed.append(fault)

    threads = [threading.Thread(target=run) for _ in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    return found


def test_sixteen_writers_get_different_ids_each_in_order(db: Stack, cursor: Any) -> None:
    lists = together(db, lambda own: ids(own, 10_000))
    assert all(one < other for found in lists for one, other in itertools.pairwise(found))
    assert len({made for found in lists for made in found}) == WRITERS * 10_000


def test_sixteen_writers_at_rest_between_their_ids(db: Stack, cursor: Any) -> None:
    """Here the sequence is behind every time, and is set forward by whoever is first."""

    def work(own: Any) -> list[int]:
        found = []
        for _ in range(60):
            found += ids(own, 2)
            time.sleep(0.005)
        return found

    lists = together(db, work)
    assert all(one < other for found in lists for one, other in itertools.pairwise(found))
    assert len({made for found in lists for made in found}) == WRITERS * 120


def test_more_ids_than_a_millisecond_has_wait_for_the_next(cursor: Any) -> None:
    last = set_clock_back(cursor, 300)  # 300 ms of ids are used up
    (made,) = ids(cursor, 1)
    assert last <= milliseconds_of(made) <= clock(cursor)


def test_a_clock_that_was_set_back_a_little_is_waited_for(cursor: Any) -> None:
    last = set_clock_back(cursor, 900)
    (made,) = ids(cursor, 1)
    assert last <= milliseconds_of(made) <= clock(cursor)


def test_a_clock_that_was_set_back_far_is_an_error_and_takes_no_ids(cursor: Any) -> None:
    set_clock_back(cursor, 60_000)
    cursor.execute(f"SELECT last_value FROM s{SHARD:04}.ids")
    before = cursor.fetchone()
    for _ in range(3):
        with pytest.raises(
            psycopg2.errors.ObjectNotInPrerequisiteState, match=r"is [0-9]+ s behind ids that shard 5"
        ):
            ids(cursor, 1)
    cursor.execute(f"SELECT last_value FROM s{SHARD:04}.ids")
    assert cursor.fetchone() == before


def test_whoever_is_cancelled_leaves_no_lock(db: Stack, cursor: Any) -> None:
    """One session has the lock; others that wait for it are cancelled; then all goes on."""
    cursor.execute("SELECT pg_advisory_lock(%s, %s)", [LOCK, SHARD])
    with session(db) as other:
        other.execute("SET statement_timeout = '100ms'")
        for _ in range(3):
            with pytest.raises(psycopg2.errors.QueryCanceled):
                ids(other, 1)
        cursor.execute("SELECT pg_advisory_unlock(%s, %s)", [LOCK, SHARD])
        other.execute("SET statement_timeout = 0")
        assert ids(other, 1)
        other.execute("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = %s", [LOCK])
        assert other.fetchone() == (0,)


def test_an_open_transaction_holds_nobody_up(db: Stack, cursor: Any) -> None:
    cursor.execute("BEGIN")
    (first,) = ids(cursor, 1)
    with session(db) as other:
        other.execute("SET statement_timeout = '10s'")
        time.sleep(0.01)
        (second,) = ids(other, 1)
    cursor.execute("ROLLBACK")
    assert first < second


def test_an_id_of_what_was_rolled_back_is_not_given_again(cursor: Any) -> None:
    cursor.execute("BEGIN")
    (first,) = ids(cursor, 1)
    cursor.execute("ROLLBACK")
    (second,) = ids(cursor, 1)
    assert second > first


@pytest.mark.campaign
def test_millions_of_ids(db: Stack, cursor: Any) -> None:
    """Counted in the database: unique, and no more than 1024 of a millisecond."""

    def work(own: Any) -> list[int]:
        own.execute(f"INSERT INTO many SELECT s{SHARD:04}.next_id() FROM generate_series(1, 250000)")
        return []

    cursor.execute("DROP TABLE IF EXISTS many; CREATE UNLOGGED TABLE many (id bigint)")
    together(db, work)
    cursor.execute("SELECT count(*), count(DISTINCT id), max(id >> 23) - min(id >> 23) + 1 FROM many")
    total, different, milliseconds = cursor.fetchone()
    cursor.execute("DROP TABLE many")
    assert total == different == WRITERS * 250_000
    assert total <= milliseconds * 1024
