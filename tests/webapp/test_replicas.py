"""Replicas: they are read from, nobody misses what they wrote, and one that is down or behind does no harm."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from django.db import OperationalError, connections, models

from tests.servers import Valkey
from tests.webapp.stack import FAST, Stack
from webapp.embedded import Postgres
from webapp.models import Person, Photo
from webapp.redis_clients import client
from webapp.shards import (
    acting,
    atomic,
    each_node,
    identify,
    primary_only,
    read_cursor,
    replicas,
    shard,
    write_cursor,
)

REPLICA = "node0_replica0"
HOME = 2


def sql(server: Postgres, query: str) -> object:
    """The one value that a query of a connection of its own gives."""
    with closing(server.connect()) as link:
        link.autocommit = True
        with link.cursor() as cursor:
            cursor.execute(query)
            return cursor.fetchone()[0] if cursor.description else None


def caught_up(db: Stack) -> None:
    """Waits until the replica has all that the primary has, and has this process look at it anew."""
    # This commit is flushed, and with it all that was not yet.
    sql(db.primary, "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'test', '')")
    lsn = sql(db.primary, "SELECT pg_current_wal_flush_lsn()")
    deadline = time.monotonic() + 60
    while not sql(db.replica, f"SELECT pg_last_wal_replay_lsn() >= '{lsn}'"):
        assert time.monotonic() < deadline, "the replica does not follow"
        time.sleep(0.01)
    replicas.forget_all()
    with shard(HOME), read_cursor():
        pass


@contextmanager
def paused(db: Stack) -> Iterator[None]:
    """The replica stands still: it answers, but replays nothing."""
    caught_up(db)
    sql(db.replica, "SELECT pg_wal_replay_pause()")
    try:
        yield
    finally:
        sql(db.replica, "SELECT pg_wal_replay_resume()")


def add(name: str) -> None:
    with shard(HOME):
        Person.objects.create(name=name, password="x")


def names() -> tuple[str, list[str]]:
    """From where the router reads, and what is there."""
    with shard(HOME):
        found = list(Person.objects.order_by("name"))
        alias = Person.objects.none().db if not found else found[0]._state.db
        return alias, [person.name for person in found]


@pytest.fixture
def settled(replicated: Stack) -> Stack:
    """A replica that has one person, and two seconds that are over at once."""
    replicated.sections["shards"] = {"settle_seconds": 0}
    replicated.write(replicated=True)
    add("bob")
    caught_up(replicated)
    return replicated


def test_reads_go_to_the_replica_and_writes_do_not(settled: Stack) -> None:
    assert names() == (REPLICA, ["bob"])
    with acting(1):
        assert names() == (REPLICA, ["bob"])
    add("ana")  # a write on the replica would fail
    with shard(HOME), read_cursor() as cursor:
        assert cursor.db.alias == REPLICA
    with shard(HOME), write_cursor() as cursor:
        assert cursor.db.alias == "node0"
    assert [node.alias for node in each_node()] == [REPLICA]


def test_a_request_reads_what_it_wrote(settled: Stack) -> None:
    with paused(settled), acting(1):
        assert names()[0] == REPLICA
        add("ana")
        assert names() == ("node0", ["ana", "bob"])


def test_a_transaction_reads_where_it_writes(settled: Stack) -> None:
    with paused(settled), shard(HOME), atomic():
        add("ana")
        assert names() == ("node0", ["ana", "bob"])


def test_nobody_misses_what_they_wrote_while_the_replica_lags(settled: Stack) -> None:
    with paused(settled):
        with acting(1):
            add("ana")
        for _ in range(3):
            with acting(1):
                assert names() == ("node0", ["ana", "bob"])
        with acting(2):  # somebody else may see it later
            assert names() == (REPLICA, ["bob"])
        with acting():
            assert names() == (REPLICA, ["bob"])
            identify(1)
            assert names() == ("node0", ["ana", "bob"])
    caught_up(settled)
    assert client("marks").hlen("wrote:1") == 1
    with acting(1):
        assert names() == (REPLICA, ["ana", "bob"])
    assert client("marks").hlen("wrote:1") == 0


@pytest.mark.parametrize("how", ["raw", "update", "transaction", "delete"])
def test_every_way_of_writing_is_marked(settled: Stack, how: str) -> None:
    with paused(settled):
        with acting(1), shard(HOME):
            if how == "raw":
                with write_cursor() as cursor:
                    cursor.execute("UPDATE person SET bio = 'new'")
            elif how == "update":
                Person.objects.update(bio="new")
            elif how == "delete":
                Person.objects.all().delete()
            else:
                with atomic(), connections["node0"].cursor() as cursor:
                    cursor.execute("UPDATE person SET bio = 'new'")
        with acting(1), shard(HOME):
            assert not Person.objects.filter(bio="").exists()
        with shard(HOME):
            assert Person.objects.filter(bio="").exists()


def test_a_write_of_a_moment_ago_is_read_from_the_primary_without_a_question(replicated: Stack) -> None:
    replicated.sections["shards"] = {"settle_seconds": 600}
    replicated.write(replicated=True)
    with acting(1):
        add("ana")
    caught_up(replicated)
    with acting(1):
        assert names() == ("node0", ["ana"])
    with acting(2):
        assert names() == (REPLICA, ["ana"])


def test_of_two_writes_the_later_one_is_waited_for(settled: Stack) -> None:
    """The first one's request ends last, and its mark is older: it must not replace the other."""
    with paused(settled):
        with acting(1):
            add("ana")
            with acting(1):
                add("cy")
            late, _ = replicas._marks(1)[0]
        assert replicas._marks(1)[0][0] >= late
        replicas._mark(1, 0, 5)
        assert replicas._marks(1)[0][0] >= late
        with acting(1):
            assert names() == ("node0", ["ana", "bob", "cy"])


def test_a_mark_that_was_renewed_meanwhile_is_kept(settled: Stack) -> None:
    with acting(1):
        add("ana")
    caught_up(settled)
    with acting(1) as found:
        found.marks = replicas._marks(1)
        replicas._mark(1, 0, 1 << 50)  # a write of another request of theirs
        assert names()[0] == REPLICA  # this one began before it
    with acting(1):
        assert names() == ("node0", ["ana", "bob"])


def test_marks_are_asked_for_once_a_request(settled: Stack) -> None:
    with acting(1):
        names()
        before = client("marks").info("commandstats")
        for _ in range(5):
            names()
        after = client("marks").info("commandstats")
    assert after["cmdstat_hgetall"]["calls"] == before["cmdstat_hgetall"]["calls"]


def test_a_request_is_read_from_one_server_throughout(settled: Stack) -> None:
    with acting(1):
        assert names()[0] == REPLICA
        replicas._health[REPLICA].fit = False
        assert names()[0] == REPLICA
    with acting(1):
        assert names()[0] == "node0"


def test_what_must_be_new_is_read_from_the_primary(settled: Stack) -> None:
    with paused(settled):
        add("ana")
        assert names() == (REPLICA, ["bob"])
        with primary_only():
            assert names() == ("node0", ["ana", "bob"])
        assert names() == (REPLICA, ["bob"])


def test_a_replica_too_far_behind_is_not_read_from(settled: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0)
    settled.sections["shards"]["lag_seconds"] = 0.5
    settled.write(replicated=True)
    with paused(settled):
        assert names()[0] == REPLICA
        add("ana")
        deadline = time.monotonic() + 60
        while names()[0] == REPLICA:
            assert time.monotonic() < deadline, "the lag is not noticed"
            time.sleep(0.05)
        assert names() == ("node0", ["ana", "bob"])
        assert [node.alias for node in each_node()] == ["node0"]
    caught_up(settled)
    assert names() == (REPLICA, ["ana", "bob"])


def test_without_redis_reads_go_to_the_primary(settled: Stack, own_server: Valkey) -> None:
    settled.sections["redis"] = {"url": own_server.url}
    settled.write(replicated=True)
    caught_up(settled)
    with acting(1):
        assert names()[0] == REPLICA
    own_server.kill()
    with acting(1):
        assert names()[0] == "node0"
    with acting():
        assert names()[0] == REPLICA  # of somebody unknown nothing has to be known
    with acting(1):
        add("ana")  # no failure, though it cannot be marked
    own_server.start()
    with acting(1):
        assert names()[0] == "node0"  # for a while: a mark may be missing


@pytest.fixture
def own_replica(db: Stack) -> Iterator[Postgres]:
    """A replica of this test alone, to kill, in the shared one's place."""
    shared, own = db.replica, Postgres(db.folder / "own", settings=FAST, primary=db.primary)
    db.replica = own
    try:
        own.start()
        db.write(replicated=True)
        add("bob")
        caught_up(db)
        yield own
    finally:
        connections.close_all()
        own.stop()
        own.remove()
        db.replica = shared
        db.write()


def test_a_replica_that_dies_is_done_without(
    db: Stack, own_replica: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert names() == (REPLICA, ["bob"])
    own_replica.kill()
    with shard(HOME), read_cursor() as cursor:  # on the connection that is no more
        cursor.execute("SELECT name FROM person")
        assert cursor.fetchall() == [("bob",)]
    assert names() == ("node0", ["bob"])
    connections.close_all()
    replicas.forget_all()
    assert names() == ("node0", ["bob"])  # nor does a new connection come about
    own_replica.start()
    assert names() == ("node0", ["bob"])  # tried again only after a while
    monkeypatch.setattr(replicas, "DOWN_SECONDS", 0)
    caught_up(db)
    assert names() == (REPLICA, ["bob"])


def test_a_request_during_which_the_replica_dies_goes_on(db: Stack, own_replica: Postgres) -> None:
    with acting(1), shard(HOME):
        chosen = Person.objects.all()
        assert chosen.db == REPLICA
        own_replica.kill()
        assert [person.name for person in Person.objects.using(REPLICA)] == ["bob"]
        assert names() == ("node0", ["bob"])
        assert Person.objects.count() == 1


def never(*asked: object) -> None:
    pytest.fail(f"the primary was asked {asked[1]}")


def test_a_fault_of_the_query_is_not_hidden_nor_tried_again(settled: Stack) -> None:
    with shard(HOME), read_cursor() as cursor:
        assert cursor.db.alias == REPLICA
        primary = connections["node0"]
        with primary.execute_wrapper(never), pytest.raises(OperationalError, match="statement timeout"):
            cursor.execute("SET statement_timeout = 50; SELECT pg_sleep(10)")
    assert names()[0] == REPLICA  # it is not to blame


def test_a_query_that_gave_way_to_what_the_replica_replays_is_the_primarys(settled: Stack) -> None:
    conflict = "DO $$ BEGIN IF pg_is_in_recovery() THEN RAISE SQLSTATE '40001'; END IF; END $$"
    with shard(HOME), read_cursor() as cursor:
        assert cursor.db.alias == REPLICA
        cursor.execute(f"{conflict}; SELECT pg_is_in_recovery(), name FROM person")
        assert cursor.fetchall() == [(False, "bob")]
    assert names()[0] == REPLICA


def test_rows_of_replica_and_primary_belong_together(settled: Stack) -> None:
    with shard(HOME):
        (bob,) = Person.objects.all()
        assert bob._state.db == REPLICA
        bob.bio = "hello"
        bob.save()
        assert Person.objects.using("node0").get().bio == "hello"
        photo = Photo.objects.create(owner_id=bob.id, key="k", width=1, height=1)
        assert isinstance(photo, models.Model)


def test_a_primary_that_is_down_leaves_reading(db: Stack) -> None:
    """Of its own servers: nothing else may use them."""
    primary = Postgres(db.folder / "lonely", settings=FAST)
    shared = db.primary, db.replica
    db.primary, db.replica = primary, Postgres(db.folder / "lonely-replica", settings=FAST, primary=primary)
    try:
        db.primary.start()
        db.replica.start()
        db.write(replicated=True)
        sql(db.primary, f"CREATE SCHEMA s{HOME:04}; CREATE TABLE s{HOME:04}.note AS SELECT 'here' AS text")
        caught_up(db)
        db.primary.kill()
        with acting(1), shard(HOME), read_cursor() as cursor:
            cursor.execute("SELECT text FROM note")
            assert cursor.fetchone() == ("here",)
    finally:
        connections.close_all()
        for server in (db.replica, db.primary):
            server.stop()
            server.remove()
        db.primary, db.replica = shared
        db.write()


def hold_up(server: Postgres, done: threading.Event) -> None:
    """Pauses and resumes a replica, for up to a fifth of a second each."""
    chance = random.Random(1)
    while not done.is_set():
        sql(server, "SELECT pg_wal_replay_pause()")
        done.wait(chance.random() / 5)
        sql(server, "SELECT pg_wal_replay_resume()")
        done.wait(chance.random() / 5)


def live(person: int, read_from: Counter[str], missed: list[object]) -> None:
    """Writes and looks, in requests of its own; what went wrong is added to `missed`."""
    try:
        for step in range(40):
            with acting(person), shard(HOME):
                Person.objects.create(name=f"p{person}.{step}", password="x")
            for _ in range(3):
                with acting(person), shard(HOME):
                    found = Person.objects.filter(name__startswith=f"p{person}.")
                    read_from[found.db] += 1
                    if found.count() != step + 1:
                        missed.append((person, step, found.db))
                time.sleep(0.01)
    except Exception as fault:
        missed.append(fault)
    finally:
        connections.close_all()


@pytest.mark.parametrize("synchronous", ["on", "off"])
def test_nobody_ever_misses_what_they_wrote(
    settled: Stack, monkeypatch: pytest.MonkeyPatch, synchronous: str
) -> None:
    """Four people, while the replica stands still and goes on at random."""
    monkeypatch.setattr(replicas, "CHECK_SECONDS", 0.02)
    sql(settled.primary, f"ALTER ROLE webapp SET synchronous_commit = {synchronous}")
    connections.close_all()
    done = threading.Event()
    read_from: Counter[str] = Counter()
    missed: list[object] = []
    people = [threading.Thread(target=live, args=(person, read_from, missed)) for person in range(4)]
    lag = threading.Thread(target=hold_up, args=(settled.replica, done))
    for thread in (lag, *people):
        thread.start()
    for thread in people:
        thread.join()
    done.set()
    lag.join()
    sql(settled.primary, "ALTER ROLE webapp RESET synchronous_commit")
    assert missed == []
    if synchronous == "on":  # else the replica is seldom sent a write while its writer still looks
        assert read_from[REPLICA]
        assert read_from["node0"]
