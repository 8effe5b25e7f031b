"""Shards: where queries go, ids that tell where their row is, and what is refused."""

from __future__ import annotations

import threading

import pytest
from django.db import IntegrityError, connections
from django.db.utils import ProgrammingError

from tests.webapp.stack import Stack
from webapp.models import Like, Outbox, Person, Photo
from webapp.shards import (
    ShardError,
    all_shards,
    atomic,
    current_shard,
    each_node,
    node_of,
    on_alias,
    read_cursor,
    shard,
    shard_of,
    shard_of_name,
    write_cursor,
)


def person(name: str) -> Person:
    with shard(shard_of_name(name)):
        found: Person = Person.objects.create(name=name, password="x", display_name=name.title())
        return found


def test_a_row_is_on_its_shard_and_its_id_says_so(db: Stack) -> None:
    ana = person("ana")
    assert shard_of(ana.id) == shard_of_name("ana") == shard_of_name("ANA")
    for number in all_shards():
        with shard(number):
            assert Person.objects.filter(name="ana").exists() == (number == shard_of(ana.id))


def test_blocks_nest_and_end(db: Stack) -> None:
    with shard(1):
        with shard(2):
            assert current_shard() == 2
        with pytest.raises(ZeroDivisionError), shard(3):
            raise ZeroDivisionError
        assert current_shard() == 1
    with pytest.raises(ShardError, match=r"outside `with shard\(n\):`"):
        current_shard()


def test_a_query_outside_a_shard_is_refused(db: Stack) -> None:
    with pytest.raises(ShardError, match="outside"):
        Person.objects.count()
    with pytest.raises(ShardError, match="outside"):
        Person(name="eve", password="x").save()
    with pytest.raises(ShardError, match="outside"), connections["node0"].cursor() as cursor:
        cursor.execute("SELECT 1")


def test_a_shard_that_does_not_exist_is_refused(db: Stack) -> None:
    with pytest.raises(ShardError, match="there is no shard 8"), shard(8):
        pass


def test_a_row_is_not_written_to_another_shard(db: Stack) -> None:
    ana = person("ana")
    other = (shard_of(ana.id) + 1) % 8
    with shard(other):
        with pytest.raises(ShardError, match=f"is of shard {shard_of(ana.id)}"):
            ana.save()
        with pytest.raises(ShardError, match="Like with photo_id"):
            Like(photo_id=ana.id, person_id=1).save()


def test_the_schema_follows_after_every_kind_of_failure(db: Stack) -> None:
    """What was rolled back took the search_path with it: the next query must set it again."""
    ana = person("ana")
    home, other = shard_of(ana.id), (shard_of(ana.id) + 1) % 8

    def there() -> None:
        with shard(home):
            assert Person.objects.filter(name="ana").exists()

    def elsewhere() -> None:
        with shard(other):
            assert not Person.objects.filter(name="ana").exists()

    # Each time the last that is believed to be set is what was rolled back, and is what is asked for next.
    there()
    with shard(other), pytest.raises(ProgrammingError), write_cursor() as cursor:
        cursor.execute("SELECT nothing FROM nowhere")
    elsewhere()
    there()
    with pytest.raises(ZeroDivisionError), shard(other), atomic():
        elsewhere()
        raise ZeroDivisionError
    elsewhere()
    there()
    with shard(home), atomic():
        there()
        with pytest.raises(ZeroDivisionError), atomic():
            elsewhere()
            raise ZeroDivisionError
        elsewhere()
        there()
        with pytest.raises(ProgrammingError), atomic(), shard(other):
            elsewhere()
            with write_cursor() as cursor:
                cursor.execute("SELECT nothing FROM nowhere")
        there()
        with pytest.raises(ProgrammingError), atomic(), shard(other), write_cursor() as cursor:
            cursor.execute("SELECT nothing FROM nowhere")
        elsewhere()
    there()
    with shard(home), pytest.raises(IntegrityError):
        Person.objects.create(name="ana", password="x")
    there()
    with pytest.raises(IntegrityError), shard(other), atomic(), write_cursor() as cursor:
        cursor.execute(
            "CREATE TABLE late (id int PRIMARY KEY, other int REFERENCES late DEFERRABLE INITIALLY DEFERRED); "
            "INSERT INTO late VALUES (1, 2)"
        )  # it fails with the commit
    elsewhere()
    there()


def test_the_schema_is_set_without_a_round_trip_and_only_when_it_changes(db: Stack) -> None:
    said: list[bytes] = []
    with shard(1), read_cursor() as cursor:
        for _ in range(2):
            cursor.execute("SELECT 1")
            said.append(cursor.query)
    with shard(2), read_cursor() as cursor:
        cursor.execute("SELECT %s", [1])
        said.append(cursor.query)
    assert said == [b"SET search_path TO s0001; SELECT 1", b"SELECT 1", b"SET search_path TO s0002; SELECT 1"]


def test_every_way_of_asking_is_in_the_shard(db: Stack) -> None:
    with shard(3), write_cursor() as cursor:
        cursor.executemany("INSERT INTO person (name, password) VALUES (%s, 'x')", [["a"], ["b"]])
    with shard(4), write_cursor() as cursor:
        cursor.execute("CREATE INDEX CONCURRENTLY once ON person (bio)")
        cursor.execute("DROP INDEX CONCURRENTLY once")
        cursor.execute("VACUUM person")
    with shard(3):
        assert sorted(row.name for row in Person.objects.iterator()) == ["a", "b"]
    with shard(4):
        assert list(Person.objects.iterator()) == []


def test_each_thread_has_its_own_shard(db: Stack) -> None:
    found: dict[int, int] = {}

    def work(number: int) -> None:
        try:
            with shard(number), atomic():
                found[number] = shard_of(Outbox.objects.create(lane=0, kind="event", payload="{}").id)
        finally:
            connections.close_all()

    def lost() -> None:
        try:
            current_shard()
        except ShardError:
            found[-1] = -1

    with shard(5):
        threads = [threading.Thread(target=work, args=(number,)) for number in all_shards()]
        threads.append(threading.Thread(target=lost))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {number: number for number in (*all_shards(), -1)}


def test_all_shards_of_a_node_are_asked_at_once(db: Stack) -> None:
    names = [f"person{number}" for number in range(30)]
    for name in names:
        person(name)
    queries = 0
    found = []
    for node in each_node():
        with node.cursor() as cursor:
            cursor.execute(
                node.union_all("SELECT name FROM {schema}.person WHERE name LIKE %(form)s"),
                {"form": "person%"},
            )
            found += [name for (name,) in cursor.fetchall()]
        queries += 1
    assert sorted(found) == sorted(names)
    assert queries == 1


def test_a_connection_to_another_server_is_refused(replicated: Stack) -> None:
    with on_alias("node0"), pytest.raises(ShardError, match="speaks to the server node0"):
        connections["node0_replica0"].cursor().execute("SELECT 1")
    with pytest.raises(ShardError, match="speaks to the server node0 as a whole"), on_alias("node0"):
        current_shard()
    assert node_of(7).replicas == ("node0_replica0",)


def test_people_have_names_of_the_right_form_once(db: Stack) -> None:
    for name in ("Ana", "a b", "", "x" * 31, "ana!", "ana\n"):
        with shard(0), pytest.raises(IntegrityError):
            Person.objects.create(name=name, password="x")


def test_a_person_likes_a_photo_once(db: Stack) -> None:
    ana = person("ana")
    with shard(shard_of(ana.id)):
        photo = Photo.objects.create(owner_id=ana.id, key="k", width=1, height=1)
        assert shard_of(photo.id) == shard_of(ana.id)
        Like.objects.create(photo=photo, person_id=7)
        with pytest.raises(IntegrityError):
            Like.objects.create(photo_id=photo.id, person_id=7)
