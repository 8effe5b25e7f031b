"""The relay's tasks on PostgreSQL and Valkey: the reverse index of follows, and feeds as people then read them."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import pytest
import redis
from django.db import connections
from django.test.utils import CaptureQueriesContext

from tests.webapp.stack import Stack
from webapp import outbox
from webapp.claims import ROWS, Claims, Row
from webapp.edges import PostgresEdges
from webapp.feed_source import PostgresSource
from webapp.feeds import CHUNK, Feeds, feed_key
from webapp.models import Follower, Following, Outbox, Person, Photo
from webapp.outbox import PARKED, Edge, Fanout, Withdraw, lane_of
from webapp.relay import FILES, TASKS
from webapp.relay_parts import _connector, _tables
from webapp.shards import all_shards, atomic, layout, shard, shard_of, shard_of_name
from webapp.tasks import SILENCE, Change, Result, Tasks

LENGTH: Final = 50
NAMES: Final = ("ana", "ben", "cleo", "dan", "eva", "finn", "gus", "hana")


class Site:
    """The site's domain in small: who changes something writes the outbox in the same transaction."""

    def __init__(self, client: redis.Redis, pull_above: int) -> None:
        self.feeds = Feeds(client, PostgresSource(), length=LENGTH, pull_above=pull_above)
        self.files: list[str] = []
        self.tasks = Tasks(PostgresEdges(), self.feeds, self.files.append)
        (place,) = layout().nodes
        self.claims = Claims(_connector(place), _tables(place))

    def person(self, name: str) -> int:
        with shard(shard_of_name(name)):
            return int(Person.objects.create(name=name, password="x").id)

    def post(self, owner: int) -> int:
        with shard(shard_of(owner)), atomic():
            photo = int(Photo.objects.create(owner_id=owner, key="k", width=1, height=1).id)
            outbox.put("fanout", photo, Fanout(photo, owner))
        return photo

    def delete(self, owner: int, photo: int) -> None:
        with shard(shard_of(photo)), atomic():
            Photo.objects.filter(id=photo).delete()
            outbox.put("withdraw", photo, Withdraw(photo, owner, (f"{photo}.jpg",)))

    def follow(self, follower: int, followee: int, *, active: bool = True) -> None:
        with shard(shard_of(follower)), atomic():
            if active:
                Following.objects.create(follower_id=follower, followee_id=followee)
            else:
                Following.objects.filter(follower_id=follower, followee_id=followee).delete()
            outbox.put("edge", follower, Edge(follower, followee, active))

    def relay(self) -> Result:
        """All that waits, done."""
        while True:
            batch = self.claims.take(TASKS)
            result = self.tasks.run(batch.rows)
            if not batch.rows:
                break
            self.claims.finish(result.done, result.parked, result.files)
            if result.failure is not None:
                raise result.failure
        self.delete_files()
        return result

    def delete_files(self) -> list[Result]:
        """One try of all files that wait; what is done and what is left."""
        results, seen = [], 0
        waiting = sum(row.lane in FILES for number in all_shards() for row in rows(number))
        while seen < waiting:
            batch = self.claims.take(FILES)
            results.append(self.tasks.delete_files(batch.rows))
            self.claims.finish(results[-1].done, (), results[-1].files)
            seen += len(batch.rows)
        return results

    def read(self, person: int, limit: int = 50) -> list[int]:
        return [entry.photo for entry in self.feeds.page(person, None, limit).entries]


@pytest.fixture
def client(db: Stack) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(db.redis_url) as client:
        yield client


@pytest.fixture
def site(client: redis.Redis) -> Iterator[Site]:
    made = Site(client, pull_above=3)
    yield made
    made.claims.close()


@pytest.fixture
def people(site: Site) -> list[int]:
    found = [site.person(name) for name in NAMES]
    assert len({shard_of(person) for person in found}) > 3
    return found


def followers(person: int) -> tuple[set[int], int]:
    """Who follows somebody by the reverse index, and the number that is shown."""
    with shard(shard_of(person)):
        found = Follower.objects.filter(followee_id=person, active=True).values_list("follower_id", flat=True)
        return set(found), Person.objects.get(id=person).followers


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])), ids=str)
def test_the_last_change_of_an_edge_wins_whichever_order_they_come_in(
    people: list[int], order: tuple[int, ...]
) -> None:
    ana, ben, *_ = people
    edges = PostgresEdges()
    for number in (*order, *order):  # and all of it again
        edges.apply(shard_of(ana), [Change(number, Edge(ben, ana, active=number != 2))])
    assert followers(ana) == ({ben}, 1)
    edges.apply(shard_of(ana), [Change(4, Edge(ben, ana, active=False))])
    edges.apply(shard_of(ana), [Change(3, Edge(ben, ana, active=True))])
    assert followers(ana) == (set(), 0)


def test_edges_of_many_are_counted_once_each(people: list[int]) -> None:
    ana, *others = people
    same = [other for other in others if shard_of(other) == shard_of(ana)]
    changes = [Change(number, Edge(other, ana, active=True)) for number, other in enumerate(others, 1)]
    for _ in range(2):
        PostgresEdges().apply(shard_of(ana), changes)
    assert followers(ana) == (set(others), len(others))
    for one in same:
        assert followers(one) == (set(), 0)


def test_an_edge_to_nobody_does_nothing(people: list[int]) -> None:
    nobody = people[0] + 1
    PostgresEdges().apply(shard_of(nobody), [Change(1, Edge(people[1], nobody, active=True))])
    with shard(shard_of(nobody)):
        assert not Follower.objects.exists()


def test_changes_of_the_same_edges_by_several_at_once_are_counted_right(people: list[int]) -> None:
    """A relay that lost its claims without knowing it may still be at work. Nor do they wait in a circle."""
    ana, *_ = people
    number = shard_of(ana)
    with shard(number):
        two = [ana, int(Person.objects.create(name="zoe", password="x").id)]
    start = threading.Barrier(4)

    def work(worker: int) -> None:
        start.wait(20)
        for turn in range(100):
            change = 4 * turn + worker
            pair = two if worker % 2 else two[::-1]
            edges = [Edge(1 + turn % 2, person, active=bool(change % 3)) for person in pair]
            PostgresEdges().apply(number, [Change(change, edge) for edge in edges])
        connections.close_all()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work, worker) for worker in range(4)]:
            done.result(60)
    last = {1 + turn % 2: bool((4 * turn + 3) % 3) for turn in (98, 99)}
    for person in two:
        assert followers(person) == ({one for one, active in last.items() if active}, sum(last.values()))


def test_follows_reach_the_other_shard_and_the_feed(site: Site, people: list[int]) -> None:
    ana, ben, cleo, *_ = people
    old = site.post(ana)
    site.relay()
    assert site.read(ben) == []
    site.follow(ben, ana)
    site.follow(cleo, ana)
    site.relay()
    assert followers(ana) == ({ben, cleo}, 2)
    assert site.read(ben) == [old]
    new = site.post(ana)
    site.relay()
    assert site.read(ben) == site.read(cleo) == site.read(ana) == [new, old]
    site.follow(ben, ana, active=False)
    assert site.read(ben) == []  # before any relay
    site.relay()
    assert followers(ana) == ({cleo}, 1)
    site.follow(ben, ana)
    site.relay()
    assert site.read(ben) == [new, old]


def test_follow_and_unfollow_in_one_batch_end_as_the_last_said(
    site: Site, people: list[int], client: redis.Redis
) -> None:
    ana, ben, cleo, *_ = people
    photo = site.post(ana)
    site.relay()
    for person in (ben, cleo):
        site.read(person)
    site.follow(ben, ana)
    site.follow(ben, ana, active=False)
    for active in (True, False, True):
        site.follow(cleo, ana, active=active)
    site.relay()
    assert followers(ana) == ({cleo}, 1)
    assert client.zrange(feed_key(ben), 0, -1) == [b"!"]
    assert site.read(cleo) == [photo]


def test_a_photo_deleted_leaves_feeds_and_storage(site: Site, people: list[int], client: redis.Redis) -> None:
    ana, ben, *_ = people
    site.follow(ben, ana)
    site.relay()
    site.read(ben)
    photo = site.post(ana)
    site.delete(ana, photo)  # before a relay saw either
    site.relay()
    assert site.read(ben) == []
    assert client.zrange(feed_key(ben), 0, -1) == [b"!"]
    assert site.files == [f"{photo}.jpg"]


def test_all_of_it_again_changes_nothing(site: Site, people: list[int], client: redis.Redis) -> None:
    """A relay that dies before it deletes the rows leaves them to be done again."""
    ana, ben, cleo, *_ = people
    for person in people:
        site.read(person)
    site.follow(ben, ana)
    site.follow(cleo, ana)
    kept, gone = site.post(ana), site.post(ana)
    site.delete(ana, gone)
    site.follow(cleo, ana, active=False)
    seen = []
    for _ in range(3):
        while (batch := site.claims.take(TASKS)).rows:
            assert site.tasks.run(batch.rows).failure is None
            seen += batch.rows
            site.claims.finish(batch.rows)
        assert site.tasks.run(seen).failure is None
        feeds = {
            name: client.zrange(feed_key(person), 0, -1) for name, person in zip(NAMES, people, strict=True)
        }
        member = b"%019d:%d" % (kept, ana)
        assert feeds == {name: [b"!", member] if name in ("ana", "ben") else [b"!"] for name in NAMES}
        assert followers(ana) == ({ben}, 1)
    assert len(seen) == 6


def test_a_feed_is_rebuilt_from_postgresql_across_shards(
    site: Site, people: list[int], client: redis.Redis
) -> None:
    ana, *others = people
    for other in others[:5]:
        site.follow(ana, other)
    made = [site.post(owner) for _ in range(4) for owner in others]
    wanted = sorted((photo for turn, photo in enumerate(made) if turn % len(others) < 5), reverse=True)
    site.relay()
    assert site.read(ana) == wanted
    client.flushall()
    assert site.read(ana) == wanted
    page = site.feeds.page(ana, wanted[10], 5)
    assert [entry.photo for entry in page.entries] == wanted[11:16]


def test_reading_a_feed_takes_one_call_to_redis_and_one_query(
    site: Site, people: list[int], client: redis.Redis
) -> None:
    ana, *others = people
    for other in others:
        site.follow(ana, other)
        site.post(other)
    site.relay()
    site.read(ana)
    client.config_resetstat()
    with CaptureQueriesContext(connections["node0"]) as queries:
        assert len(site.read(ana)) == len(others)
    assert len(queries) == 1
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    assert stats["cmdstat_evalsha"]["calls"] == 1


def test_building_a_feed_takes_one_query_a_node_for_the_photos_of_all_shards(
    site: Site, people: list[int]
) -> None:
    ana, *others = people
    for other in others:
        site.follow(ana, other)
    with CaptureQueriesContext(connections["node0"]) as queries:
        site.read(ana)
    # Whom she follows, and their photos; there are none, so nobody asks whether she still follows their owners.
    assert len(queries) == 2


def test_a_big_account_is_pulled(site: Site, people: list[int], client: redis.Redis) -> None:
    star, small, *fans = people
    for fan in fans:  # six, and three are what is written to
        site.follow(fan, star)
    site.follow(fans[0], small)
    site.relay()
    for fan in fans[:3]:
        site.read(fan)
    # Across shards ids are in order only to some milliseconds.
    other, (first, second) = site.post(small), (site.post(star), site.post(star))
    all_of_them = sorted((first, other, second), reverse=True)
    site.relay()
    assert site.read(fans[0]) == all_of_them
    for fan in fans[1:]:
        assert site.read(fan) == [second, first]
    assert client.zrange(feed_key(fans[1]), 0, -1) == [b"!", b"#%d" % star]
    client.flushall()
    assert site.read(fans[0]) == all_of_them
    site.delete(star, second)
    site.relay()
    assert site.read(fans[1]) == [first]


def test_a_batch_that_takes_long_is_left_in_the_middle_and_goes_on(site: Site, people: list[int]) -> None:
    ana, ben, *_ = people
    site.follow(ben, ana)
    site.relay()
    site.read(ben)
    made = [site.post(ana) for _ in range(5)]
    seconds = itertools.count()  # each look at the clock is a second later
    site.tasks = Tasks(PostgresEdges(), site.feeds, site.files.append, clock=lambda: next(seconds))
    batch = site.claims.take(TASKS)
    result = site.tasks.run(batch.rows)
    assert result.failure is None
    assert 0 < len(result.done) < len(batch.rows)
    site.claims.finish(result.done)
    site.relay()
    assert site.read(ben) == made[::-1]


def test_ten_thousand_followers(client: redis.Redis, db: Stack) -> None:
    site = Site(client, pull_above=10_000)
    owner = site.person("ana")
    fans = [(1 << 30 | turn) << 23 for turn in range(10_000)]
    with shard(shard_of(owner)):
        Follower.objects.bulk_create(
            (Follower(followee_id=owner, follower_id=fan, change=1, active=True) for fan in fans),
            batch_size=2500,
        )
        Person.objects.filter(id=owner).update(followers=len(fans))
    with client.pipeline(transaction=False) as batch:
        for fan in fans:
            batch.zadd(feed_key(fan), {"!": 0})
        batch.execute()
    assert [len(portion) for portion in PostgresSource().followers(owner)] == [CHUNK] * 10
    photo = site.post(owner)
    site.relay()
    with client.pipeline(transaction=False) as batch:
        for fan in fans:
            batch.zrange(feed_key(fan), 0, -1)
        assert set(map(tuple, batch.execute())) == {(b"!", b"%019d:%d" % (photo, owner))}
    site.claims.close()


@pytest.mark.parametrize(
    "payload",
    [
        "{}",
        '{"follower": "5", "followee": 6, "active": true}',
        json.dumps({"follower": 5, "followee": 8191 << 10, "active": True}),
        "no JSON",
    ],
    ids=["empty", "text", "no-shard", "no-json"],
)
def test_a_task_that_nobody_understands_is_set_aside(site: Site, people: list[int], payload: str) -> None:
    ana, ben, *_ = people
    with shard(shard_of(ben)), atomic():
        strange = outbox.put("edge", ben, {})
        Outbox.objects.filter(id=strange).update(payload=payload)
    site.follow(ben, ana)
    site.relay()
    assert followers(ana) == ({ben}, 1)
    with shard(shard_of(ben)):
        assert list(Outbox.objects.values_list("id", "lane")) == [(strange, PARKED)]


def test_a_file_that_cannot_be_deleted_holds_up_no_other_and_is_tried_again(
    site: Site, people: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    ana, *_ = people
    gone = [site.post(ana) for _ in range(3)]
    for photo in gone:
        site.delete(ana, photo)
    broken, tried, now = {f"{photo}.jpg" for photo in gone[:2]}, [], 0.0

    def delete(name: str) -> None:
        tried.append(name)
        if name in broken:
            raise PermissionError(name)

    def left() -> list[int]:
        found = (row for number in all_shards() for row in rows(number))
        return [json.loads(row.payload)["photo"] for row in sorted(found, key=lambda row: row.id)]

    site.tasks = Tasks(PostgresEdges(), site.feeds, delete, clock=lambda: now)
    site.relay()
    assert sorted(tried) == sorted(f"{photo}.jpg" for photo in gone)
    assert sorted(left()) == gone[:2]
    (result,) = site.delete_files()
    assert isinstance(result.failure, PermissionError)
    assert not result.done
    assert len(caplog.records) == 1
    now += SILENCE
    site.delete_files()
    assert len(caplog.records) == 2
    broken.clear()
    site.delete_files()
    assert left() == []


def test_files_that_cannot_be_deleted_hold_up_no_follow(site: Site, people: list[int]) -> None:
    """More of them than a claim reads, in the lane of the follow; nor do they hold up files that can be."""
    ana, ben, *_ = people

    def refuses(name: str) -> None:
        if name != "well.jpg":
            raise PermissionError(name)

    now = 0.0
    site.tasks = Tasks(PostgresEdges(), site.feeds, refuses, clock=lambda: now)
    lane = lane_of("edge", ben)
    same = [ben + more for more in range(40_000) if lane_of("withdraw", ben + more) == lane][:ROWS]
    assert len(same) == ROWS
    with shard(shard_of(ben)), atomic():
        for photo in same:
            outbox.put("withdraw", photo, Withdraw(photo, ana, (f"{photo}.jpg",)))
    site.follow(ben, ana)
    for _ in range(3):
        batch = site.claims.take(range(lane, lane + 1))
        result = site.tasks.run(batch.rows)
        site.claims.finish(result.done, result.parked, result.files)
    assert not [row for row in rows(shard_of(ben)) if row.kind == "edge"]
    with shard(shard_of(ben)), atomic():
        outbox.put("withdraw", same[0], Withdraw(same[0], ana, ("well.jpg",)))
    site.relay()
    assert len(rows(shard_of(ben))) == ROWS


OUT = {"maxmemory": ("1", "0"), "min-replicas-to-write": ("1", "0")}


@pytest.mark.parametrize("setting", OUT)
def test_a_redis_that_takes_no_writes_is_an_outage_and_no_fault_of_a_row(
    site: Site, people: list[int], client: redis.Redis, setting: str, caplog: pytest.LogCaptureFixture
) -> None:
    ana, *_ = people
    site.read(ana)
    photo = site.post(ana)
    on, off = OUT[setting]
    client.config_set(setting, on)
    try:
        batch = site.claims.take(TASKS)
        result = site.tasks.run(batch.rows)
    finally:
        client.config_set(setting, off)
        site.claims.release()
    assert isinstance(result.failure, redis.ResponseError)
    assert not caplog.records
    site.relay()  # the row does not rest
    assert site.read(ana) == [photo]
    assert not any(rows(number) for number in all_shards())


@pytest.mark.parametrize(
    ("failure", "outage"),
    [
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), True),
        (redis.ResponseError("MISCONF Redis is configured to save RDB snapshots"), True),
        (redis.ResponseError("Error running script: @user_script: 24: -OOM command not allowed"), True),
        (redis.exceptions.MasterDownError("Link with MASTER is down"), True),
        (redis.ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"), False),
        (ZeroDivisionError("OOM"), False),
    ],
    ids=["loading", "misconf", "redis-6", "master", "type", "bug"],
)
def test_which_failures_are_outages(
    people: list[int], client: redis.Redis, failure: Exception, outage: bool, caplog: pytest.LogCaptureFixture
) -> None:
    class Broken(Feeds):
        def fan_out(self, owner: int, photo: int) -> int:
            raise failure

    site = Site(client, pull_above=3)
    tasks = Tasks(
        PostgresEdges(), Broken(client, PostgresSource(), length=9, pull_above=3), site.files.append
    )
    for _ in range(2):
        site.post(people[0])
    found = [row for row in rows(shard_of(people[0])) if row.kind == "fanout"]
    result = tasks.run([Row(shard_of(people[0]), row.id, row.kind, row.payload) for row in found])
    site.claims.close()
    assert result.failure is (failure if outage else None)
    assert len(caplog.records) == (0 if outage else 2)


def test_files_are_deleted_for_no_longer_than_events_can_wait(site: Site, people: list[int]) -> None:
    ana, *_ = people
    for _ in range(3):
        site.delete(ana, site.post(ana))
    now = 0.0

    def slow(name: str) -> None:
        nonlocal now
        now += 60.0
        raise TimeoutError(name)

    site.tasks = Tasks(PostgresEdges(), site.feeds, slow, clock=lambda: now)
    batch = site.claims.take(TASKS)
    result = site.tasks.run(batch.rows)
    assert now == 0.0
    site.claims.finish(result.done, result.parked, result.files)
    result = site.tasks.delete_files(site.claims.take(FILES).rows)
    site.claims.release()
    assert (now, len(result.files)) == (60.0, 1)


def rows(number: int) -> list[Outbox]:
    with shard(number):
        return list(Outbox.objects.all())


def test_ranges_of_lanes_may_begin_at_the_same_one(site: Site) -> None:
    for lanes in (range(16, 17), range(16, 32), range(16, 17)):
        assert site.claims.take(lanes).rows == []
