"""Home feeds on a real Valkey; the truth behind them is in memory here, and in PostgreSQL in test_relay_tasks.py."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import redis

from tests.servers import Valkey
from webapp.feeds import CHUNK, Entry, Feeds, Page, feed_key, lock_key, photos_key

LENGTH = 20
BIG = 10  # followers above which an account is pulled
ME, ANA, BEN, STAR = 1, 2, 3, 4
# As large as ids are in 2058: a double could not tell two of a millisecond from each other.
FIRST = (2**39) << 23


class Truth:
    """Who follows whom, and the photos. `reads` tells what was asked, `meanwhile` runs once during a read of photos."""

    def __init__(self) -> None:
        self.follows: dict[int, list[int]] = defaultdict(list)
        self.photos: list[Entry] = []
        self.reads: list[str] = []
        self.meanwhile: Callable[[], object] | None = None
        self._lock = threading.Lock()

    def post(self, owner: int, photo: int | None = None) -> int:
        with self._lock:
            number = FIRST + len(self.photos) if photo is None else photo
            self.photos.append(Entry(number, owner))
        return number

    def following(self, person: int) -> list[int]:
        self.reads.append("following")
        return list(self.follows[person])

    def following_of(self, person: int, owners: Iterable[int]) -> set[int]:
        self.reads.append("following_of")
        return set(owners) & set(self.follows[person])

    def followers(self, owner: int) -> Iterator[Sequence[int]]:
        self.reads.append("followers")
        found = sorted(person for person, owners in list(self.follows.items()) if owner in owners)
        for at in range(0, len(found), CHUNK):
            yield found[at : at + CHUNK]

    def size(self, owner: int) -> int:
        return sum(owner in owners for owners in self.follows.values())

    def newest(self, owners: Sequence[int], before: int | None, limit: int) -> list[Entry]:
        self.reads.append("newest")
        found = [one for one in self.photos if one.owner in owners and (before is None or one.photo < before)]
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            meanwhile()
        return sorted(found, reverse=True)[:limit]


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def truth() -> Truth:
    truth = Truth()
    truth.follows[ME] = [ANA, BEN]
    return truth


@pytest.fixture
def feeds(client: redis.Redis, truth: Truth) -> Feeds:
    return Feeds(client, truth, length=LENGTH, pull_above=BIG)


def photos(page: Page) -> list[int]:
    return [entry.photo for entry in page.entries]


def everything(feeds: Feeds, person: int = ME, limit: int = 7) -> list[int]:
    """All pages of a feed, one after the other."""
    found: list[int] = []
    page = feeds.page(person, None, limit)
    found += photos(page)
    while page.next is not None:
        page = feeds.page(person, page.next, limit)
        found += photos(page)
    return found


def calls(client: redis.Redis) -> dict[str, int]:
    """How often each command was called from outside since CONFIG RESETSTAT; inside a script they count, too."""
    stats = client.info("commandstats")
    assert isinstance(stats, dict)
    return {name.removeprefix("cmdstat_"): value["calls"] for name, value in stats.items()}


def test_a_feed_that_is_missing_is_built_and_read_newest_first_page_by_page(
    feeds: Feeds, truth: Truth
) -> None:
    made = [truth.post((ANA, BEN, ME, STAR)[turn % 4]) for turn in range(16)]
    wanted = [photo for turn, photo in enumerate(made) if turn % 4 != 3][::-1]
    assert everything(feeds) == wanted
    assert feeds.page(ME, None, 3).entries[0].owner == ME  # turn 14


def test_a_page_of_an_empty_feed_is_empty_and_not_built_again(feeds: Feeds, truth: Truth) -> None:
    assert feeds.page(ME, None, 10) == Page((), None)
    truth.reads.clear()
    assert feeds.page(ME, None, 10) == Page((), None)
    assert truth.reads == []


def test_reading_takes_one_call_to_redis_and_one_query(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    truth.post(ANA)
    feeds.page(ME, None, 10)
    truth.reads.clear()
    client.config_resetstat()
    feeds.page(ME, None, 10)
    assert truth.reads == ["following_of"]
    assert calls(client).get("evalsha") == 1
    assert not {"get", "set", "hget", "eval"} & calls(client).keys()


def test_a_photo_is_written_to_the_feeds_that_exist_and_makes_none(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    truth.follows[BEN] = [ANA]
    feeds.page(ME, None, 10)
    photo = truth.post(ANA)
    assert feeds.fan_out(ANA, photo) == 1
    assert feeds.fan_out(ANA, photo) == 1  # again, after a crash: the same
    assert photos(feeds.page(ME, None, 10)) == [photo]
    assert client.exists(feed_key(BEN), feed_key(ANA)) == 0


def test_a_feed_keeps_its_length_and_loses_the_oldest(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    feeds.page(ME, None, 10)
    made = [truth.post(ANA) for _ in range(LENGTH + 5)]
    for photo in made:
        feeds.fan_out(ANA, photo)
    assert everything(feeds) == made[: -LENGTH - 1 : -1]
    assert client.zcard(feed_key(ME)) == LENGTH + 1  # and the mark that it is complete


def test_a_follow_brings_in_as_many_photos_as_a_feed_may_be_long(truth: Truth, client: redis.Redis) -> None:
    feeds = Feeds(client, truth, length=10_000, pull_above=BIG)  # the largest that can be configured
    feeds.page(ME, None, 10)
    made = [truth.post(STAR) for _ in range(10_005)]
    truth.follows[ME].append(STAR)
    feeds.followed(ME, STAR)
    assert photos(feeds.page(ME, None, 50)) == made[:-51:-1]
    assert client.zcard(feed_key(ME)) == 10_001


def test_a_feed_built_is_no_longer_than_one_written(feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
    made = [truth.post(BEN) for _ in range(LENGTH + 5)]
    assert everything(feeds) == made[: -LENGTH - 1 : -1]
    assert client.zcard(feed_key(ME)) == LENGTH + 1


def test_a_photo_reaches_ten_thousand_feeds_by_one_call_a_thousand(truth: Truth, client: redis.Redis) -> None:
    feeds = Feeds(client, truth, length=LENGTH, pull_above=10_000)
    truth.follows.clear()
    people = range(100, 10_100)
    for person in people:
        truth.follows[person] = [ANA]
    with client.pipeline(transaction=False) as batch:
        for person in people:
            batch.zadd(feed_key(person), {"!": 0})
        batch.execute()
    photo = truth.post(ANA)
    client.config_resetstat()
    assert feeds.fan_out(ANA, photo) == 10_000
    assert calls(client)["evalsha"] <= 12
    with client.pipeline(transaction=False) as batch:
        for person in people:
            batch.zrange(feed_key(person), 0, -1)
        assert set(map(tuple, batch.execute())) == {(b"!", b"%d:%d" % (photo, ANA))}


def test_feeds_that_redis_lost_are_built_again(feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
    made = [truth.post(ANA), truth.post(BEN)]
    before = everything(feeds)
    client.flushall()
    client.script_flush()
    assert everything(feeds) == before == made[::-1]


def test_who_is_not_followed_any_more_is_not_shown_even_if_redis_has_not_heard(
    feeds: Feeds, truth: Truth
) -> None:
    gone, kept = truth.post(ANA), truth.post(BEN)
    assert everything(feeds) == [kept, gone]
    truth.follows[ME].remove(ANA)
    assert everything(feeds) == [kept]


def test_an_unfollow_takes_the_photos_out(feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
    truth.post(ANA)
    kept = truth.post(BEN)
    feeds.page(ME, None, 10)
    truth.follows[ME].remove(ANA)
    feeds.unfollowed(ME, ANA)
    assert client.zrange(feed_key(ME), 0, -1) == [b"!", b"%d:%d" % (kept, BEN)]


def test_an_unfollow_takes_nothing_of_somebody_whose_id_ends_alike(feeds: Feeds, truth: Truth) -> None:
    other = int(f"9{ANA}")
    truth.follows[ME].append(other)
    photo = truth.post(other)
    feeds.page(ME, None, 10)
    feeds.unfollowed(ME, ANA)
    assert photos(feeds.page(ME, None, 10)) == [photo]


def test_a_follow_brings_the_newest_photos_in(feeds: Feeds, truth: Truth) -> None:
    first, second, third = truth.post(STAR), truth.post(ANA), truth.post(STAR)
    assert everything(feeds) == [second]
    truth.follows[ME].append(STAR)
    feeds.followed(ME, STAR)
    assert everything(feeds) == [third, second, first]


def test_a_follow_reads_nothing_for_a_feed_that_is_not_there(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    truth.post(ANA)
    feeds.followed(ME, ANA)
    assert truth.reads == []
    assert client.dbsize() == 0


def test_the_owner_sees_a_photo_come_and_go_at_once(feeds: Feeds, truth: Truth) -> None:
    feeds.page(ANA, None, 10)
    photo = truth.post(ANA)
    feeds.posted(ANA, photo)
    assert photos(feeds.page(ANA, None, 10)) == [photo]
    feeds.deleted(ANA, photo)
    assert photos(feeds.page(ANA, None, 10)) == []


def test_a_photo_withdrawn_is_in_no_feed(feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
    truth.follows[BEN] = [ANA]
    photo, kept = truth.post(ANA), truth.post(ANA)
    for person in (ME, ANA, BEN):
        feeds.page(person, None, 10)
    for _ in range(2):
        feeds.withdraw(ANA, photo)
        for person in (ME, ANA, BEN):
            assert client.zrange(feed_key(person), 0, -1) == [b"!", b"%d:%d" % (kept, ANA)]


def test_a_photo_posted_while_the_feed_is_built_is_in_it(feeds: Feeds, truth: Truth) -> None:
    old = truth.post(ANA)
    new = FIRST + 100

    def meanwhile() -> None:
        truth.post(ANA, new)
        feeds.fan_out(ANA, new)

    truth.meanwhile = meanwhile  # the builder has read its photos by then
    assert photos(feeds.page(ME, None, 10)) == [new, old]


def test_a_follow_while_the_feed_is_built_is_in_it(feeds: Feeds, truth: Truth) -> None:
    old, new = truth.post(ANA), truth.post(STAR)

    def meanwhile() -> None:
        truth.follows[ME].append(STAR)
        feeds.followed(ME, STAR)

    truth.meanwhile = meanwhile
    assert photos(feeds.page(ME, None, 10)) == [new, old]


def test_one_builds_and_the_others_wait(feeds: Feeds, truth: Truth) -> None:
    made = [truth.post(ANA) for _ in range(3)]
    with ThreadPoolExecutor(8) as pool:
        pages = list(pool.map(lambda _: photos(feeds.page(ME, None, 10)), range(8)))
    assert pages == [made[::-1]] * 8
    assert truth.reads.count("following") == 1


def test_a_feed_whose_builder_died_is_built_by_the_next(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    photo = truth.post(ANA)

    def die() -> None:
        raise SystemExit  # it ends the process, and nobody catches it to clear up

    truth.meanwhile = die
    with pytest.raises(SystemExit):
        feeds.page(ME, None, 10)
    assert client.zrange(feed_key(ME), 0, -1) == [b"!building"]
    assert 0 < client.pttl(lock_key(ME)) <= 30_000
    client.delete(lock_key(ME))  # its time is up
    assert photos(feeds.page(ME, None, 10)) == [photo]


def test_a_feed_whose_builder_failed_is_built_by_the_next_at_once(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    photo = truth.post(ANA)

    def fail() -> None:
        raise ArithmeticError

    truth.meanwhile = fail
    with pytest.raises(ArithmeticError):
        feeds.page(ME, None, 10)
    assert not client.exists(lock_key(ME))
    assert [entry.photo for entry in feeds.page(ME, None, 10).entries] == [photo]
    assert client.zrange(feed_key(ME), 0, 0) == [b"!"]


def test_a_builder_that_fails_leaves_the_lock_of_another(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    def lose() -> None:
        client.set(lock_key(ME), "another", px=60_000)
        raise ArithmeticError

    truth.meanwhile = lose
    with pytest.raises(ArithmeticError):
        feeds.page(ME, None, 10)
    assert client.get(lock_key(ME)) == b"another"


def test_nobody_waits_for_ever_for_a_builder(
    feeds: Feeds, truth: Truth, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.feeds.PATIENCE", 0.05)
    photo = truth.post(ANA)
    client.zadd(feed_key(ME), {"!building": 0})
    client.set(lock_key(ME), "somebody", px=60_000)
    assert photos(feeds.page(ME, None, 10)) == [photo]


def test_a_builder_that_was_too_slow_completes_nothing(
    feeds: Feeds, truth: Truth, client: redis.Redis
) -> None:
    """It read before the feed was lost, and a photo that was fanned out since would be missing."""
    old, new = truth.post(ANA), FIRST + 100

    def meanwhile() -> None:
        client.flushall()
        truth.post(ANA, new)
        feeds.fan_out(ANA, new)

    truth.meanwhile = meanwhile
    assert photos(feeds.page(ME, None, 10)) == [new, old]


def test_a_builder_that_was_too_slow_completes_nothing_of_another(
    feeds: Feeds, truth: Truth, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("webapp.feeds.PATIENCE", 0.05)
    old, new = truth.post(ANA), FIRST + 100

    def meanwhile() -> None:
        client.flushall()
        truth.post(ANA, new)
        feeds.fan_out(ANA, new)
        client.zadd(feed_key(ME), {"!building": 0})
        client.set(lock_key(ME), "another", px=60_000)

    truth.meanwhile = meanwhile
    assert photos(feeds.page(ME, None, 10)) == [new, old]
    assert client.zrange(feed_key(ME), 0, -1) == [b"!building"]


def test_without_redis_the_page_comes_from_the_truth(truth: Truth, tmp_path: Path) -> None:
    made = [truth.post((ANA, STAR)[turn % 2]) for turn in range(6)]
    with Valkey(tmp_path, aof=False) as server:
        client = redis.Redis.from_url(server.url)
    feeds = Feeds(client, truth, length=LENGTH, pull_above=BIG)
    assert everything(feeds, limit=2) == made[-2::-2]
    client.close()


class TestPulled:
    """STAR has more followers than are written to."""

    @pytest.fixture(autouse=True)
    def many(self, truth: Truth) -> None:
        for person in range(100, 100 + BIG):
            truth.follows[person].append(STAR)
        truth.follows[ME].append(STAR)

    def test_its_photos_are_pulled_and_not_written(
        self, feeds: Feeds, truth: Truth, client: redis.Redis
    ) -> None:
        feeds.page(ME, None, 10)
        first, second, third = truth.post(STAR), truth.post(ANA), truth.post(STAR)
        for owner, photo in ((STAR, first), (ANA, second), (STAR, third)):
            feeds.fan_out(owner, photo)
        assert photos(feeds.page(ME, None, 10)) == [third, second, first]
        assert everything(feeds, limit=2) == [third, second, first]
        assert client.zrange(feed_key(ME), 0, -1) == [b"!", b"#%d" % STAR, b"%d:%d" % (second, ANA)]

    def test_who_reads_has_one_call_to_redis(self, feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
        feeds.fan_out(STAR, truth.post(STAR))
        feeds.page(ME, None, 10)
        truth.reads.clear()
        client.config_resetstat()
        assert len(feeds.page(ME, None, 10).entries) == 1
        assert truth.reads == ["following_of"]
        assert calls(client)["evalsha"] == 1

    def test_nobody_is_written_to_once_all_know(
        self, feeds: Feeds, truth: Truth, client: redis.Redis
    ) -> None:
        feeds.fan_out(STAR, truth.post(STAR))
        truth.reads.clear()
        feeds.fan_out(STAR, truth.post(STAR))
        assert truth.reads == []

    def test_a_feed_built_later_pulls_too(self, feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
        photo = truth.post(STAR)
        feeds.fan_out(STAR, photo)
        assert photos(feeds.page(ME, None, 10)) == [photo]
        assert client.zrange(feed_key(ME), 0, -1) == [b"!", b"#%d" % STAR]

    def test_a_follow_and_an_unfollow_take_effect(
        self, feeds: Feeds, truth: Truth, client: redis.Redis
    ) -> None:
        photo = truth.post(STAR)
        feeds.fan_out(STAR, photo)
        assert everything(feeds, BEN) == []
        truth.follows[BEN] = [STAR]
        feeds.followed(BEN, STAR)
        assert everything(feeds, BEN) == [photo]
        truth.follows[BEN] = []
        assert everything(feeds, BEN) == []
        feeds.unfollowed(BEN, STAR)
        assert client.zrange(feed_key(BEN), 0, -1) == [b"!"]

    def test_its_own_list_is_made_again_when_redis_lost_it(
        self, feeds: Feeds, truth: Truth, client: redis.Redis
    ) -> None:
        first, second = truth.post(STAR), truth.post(STAR)
        feeds.fan_out(STAR, first)
        feeds.fan_out(STAR, second)
        feeds.page(ME, None, 10)
        client.delete(photos_key(STAR))
        assert everything(feeds, limit=1) == [second, first]
        truth.reads.clear()
        assert everything(feeds, limit=10) == [second, first]
        assert truth.reads == ["following_of"]

    def test_the_list_is_cut_as_a_feed_is(self, feeds: Feeds, truth: Truth, client: redis.Redis) -> None:
        made = [truth.post(STAR) for _ in range(LENGTH + 5)]
        for photo in made:
            feeds.fan_out(STAR, photo)
        assert client.zcard(photos_key(STAR)) == LENGTH + 1

    def test_deleted_photos_leave_it(self, feeds: Feeds, truth: Truth) -> None:
        first, second = truth.post(STAR), truth.post(STAR)
        for photo in (first, second):
            feeds.fan_out(STAR, photo)
        feeds.withdraw(STAR, second)
        assert everything(feeds) == [first]

    def test_photos_from_its_smaller_days_are_shown_once(self, feeds: Feeds, truth: Truth) -> None:
        truth.follows[100].remove(STAR)  # just small enough
        feeds.page(ME, None, 10)
        first = truth.post(STAR)
        feeds.fan_out(STAR, first)
        truth.follows[100].append(STAR)
        second = truth.post(STAR)
        feeds.fan_out(STAR, second)
        assert everything(feeds) == [second, first]

    def test_it_stays_pulled_when_followers_leave(self, feeds: Feeds, truth: Truth) -> None:
        feeds.page(ME, None, 10)
        first, second, third = truth.post(STAR), FIRST + 100, FIRST + 101
        feeds.fan_out(STAR, first)
        truth.follows[100].remove(STAR)
        truth.follows[BEN] = [STAR]
        feeds.page(BEN, None, 10)  # built now, and told that it is pulled
        for photo in (second, third):
            truth.post(STAR, photo)
            feeds.fan_out(STAR, photo)
            truth.follows[100].append(STAR)  # big again for the third
        assert everything(feeds) == everything(feeds, BEN) == [third, second, first]

    def test_a_relay_that_died_while_it_told_the_followers_tells_them_again(
        self, feeds: Feeds, truth: Truth, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        feeds.page(ME, None, 10)
        photo = truth.post(STAR)
        with monkeypatch.context() as patch:
            patch.setattr(truth, "followers", lambda _owner: iter([(1000,), None]))
            with pytest.raises(TypeError):
                feeds.fan_out(STAR, photo)
        assert everything(feeds) == []
        feeds.fan_out(STAR, photo)
        assert everything(feeds) == [photo]
