"""The people of the seed, and the crowd that they can be: once, complete, without a word to anybody."""

from __future__ import annotations

import io
from random import Random

import pytest
from PIL import Image

from tests.webapp.stack import Stack
from webapp import crowd, people, photos, scenery, storage
from webapp.cast import PASSWORD, PEOPLE
from webapp.models import Follower, Following, Like, Outbox, Person, Photo
from webapp.seed import Seed, ids
from webapp.shards import all_shards, first_id_at, shard

FAR = first_id_at(4_000_000_000_000)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures as small as they may be: what is drawn on them is tested by itself."""
    draw = scenery.draw
    monkeypatch.setattr(scenery, "draw", lambda scene, number, size: draw(scene, number, (60, 75)))


def rows(model: type[Person | Photo | Like | Following | Follower | Outbox]) -> list[object]:
    found: list[object] = []
    for number in all_shards():
        with shard(number):
            found += list(model.objects.all())
    return found


@pytest.mark.usefixtures("quick")
def test_everything_is_there_once_and_nobody_is_told(db: Stack) -> None:
    told: list[tuple[int, int]] = []
    assert Seed().run(lambda done, of: told.append((done, of))) == len(PEOPLE)
    assert told[-1] == (len(PEOPLE), len(PEOPLE))
    before = {model: len(rows(model)) for model in (Person, Photo, Like, Following, Follower)}
    assert Seed().run() == 0
    assert {model: len(rows(model)) for model in before} == before
    assert (before[Person], before[Photo]) == (len(PEOPLE), 3 * len(PEOPLE))
    assert before[Following] == before[Follower] == 6 * len(PEOPLE)
    assert rows(Outbox) == []


@pytest.mark.usefixtures("quick")
def test_counts_are_those_of_the_rows_and_the_pictures_are_there(db: Stack) -> None:
    Seed().run()
    store = storage.store()
    for one in PEOPLE:
        profile = people.profile(one.name, None)
        person = int(profile.id)
        assert person == ids()[one.name]
        with shard(person >> 10 & 8191):
            assert profile.followers == Follower.objects.filter(followee_id=person, active=True).count()
            assert profile.following == Following.objects.filter(follower_id=person).count() == 6
        shown = photos.of_owner(person, FAR, 10, None)
        assert profile.photos == len(shown) == 3
        for photo in shown:
            with shard(person >> 10 & 8191):
                assert photo.likes == Like.objects.filter(photo_id=int(photo.id)).count() >= 3
                key = Photo.objects.get(pk=int(photo.id)).key
            assert store.files.exists(storage.square(key))
            assert store.files.exists(storage.display(key))
        assert people.log_in(one.name, PASSWORD)[0] == person


@pytest.mark.usefixtures("quick")
def test_a_seed_that_was_broken_off_is_completed(db: Stack) -> None:
    def stop(done: int, of: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Seed().run(stop)
    assert len(rows(Person)) == 3
    assert Seed().run() == len(PEOPLE) - 3
    assert len(rows(Photo)) == 3 * len(PEOPLE)


@pytest.mark.parametrize("scene", scenery.SCENES)
def test_a_scene_is_the_same_for_the_same_number(scene: str) -> None:
    drawn = [scenery.draw(scene, number, (240, 300)) for number in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with Image.open(io.BytesIO(drawn[0])) as picture:
        assert picture.size == (240, 300)
        assert len(set(picture.resize((24, 30)).get_flattened_data())) > 30  # not one colour


@pytest.mark.parametrize(("text", "found"), [("5/s", 5.0), ("30/m", 0.5), (" 0.5/s ", 0.5)])
def test_rates(text: str, found: float) -> None:
    assert crowd.rate(text) == found


@pytest.mark.parametrize("text", ["", "5", "0/s", "-1/s", "5/h", "x/s", "1001/s"])
def test_what_is_no_rate(text: str) -> None:
    with pytest.raises(ValueError, match="is no rate"):
        crowd.rate(text)


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("visitors", [False, True])
def test_the_crowd_does_all_kinds_of_things_and_touches_visitors_only_when_asked(
    db: Stack, visitors: bool
) -> None:
    Seed().run()
    visitor = people.sign_up("visitor", "a password", "")
    picture = io.BytesIO(scenery.draw("sea", 1, (60, 60)))
    theirs = photos.post(visitor, picture, "", crowd.LIMITS)
    one = crowd.Crowd(Random(7), visitors)
    done = [one.act() for _ in range(400)]
    assert {"like", "unlike", "comment", "uncomment", "follow", "unfollow"} <= set(done)
    events = [row for row in rows(Outbox) if isinstance(row, Outbox) and row.kind == "event"]
    assert len(events) > 100
    touched = [row for row in events if f'"{visitor}"' in row.payload]
    assert bool(touched) is visitors
    found = photos.one(int(theirs.id), None)
    assert bool(found.likes or found.comments) is visitors
