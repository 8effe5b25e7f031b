"""The API over several PostgreSQL nodes: it answers as it does over one, and asks each node once."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.webapp.caller import Caller, Someone, told
from tests.webapp.stack import Stack, use
from tests.webapp.test_api_lists import every, rows, trips  # noqa: F401  # a fixture
from webapp.models import Following
from webapp.shards import node_of, shard, shard_of


@pytest.fixture
def two_nodes(api: Caller, db: Stack, tmp_path: Path) -> Iterator[Path]:
    """The shards on two nodes, which are one server: what matters is who is asked for what."""
    text = db.file.read_text(encoding="utf-8")
    (node,) = re.findall(r"nodes = \[(\{.*\})\]", text)
    halves = ", ".join(node.replace('"0-7"', f'"{shards}"') for shards in ("0-3", "4-7"))
    file = tmp_path / "two.toml"
    file.write_text(text.replace(node, halves), encoding="utf-8")
    use(file)
    yield file
    db.write()


@pytest.fixture
def crowd(api: Caller, two_nodes: Path) -> list[Someone]:
    """Eight people on both nodes, each with two photos, who follow the next two and like and comment."""
    people = [api.join(f"person{number}") for number in range(8)]
    assert {node_of(shard_of(int(person.id))).number for person in people} == {0, 1}
    for at, person in enumerate(people):
        photos = rows(person, 2, f"tide {at}")
        for step in (1, 2):
            other = people[(at + step) % 8]
            api("PUT", f"/api/people/{other.name}/follow", person)
            api("PUT", f"/api/photos/{photos[0]}/like", other)
            api(
                "POST",
                f"/api/photos/{photos[0]}/comments",
                other,
                {"text": f"for @{people[(at + 4) % 8].name}"},
            )
    return people


def test_one_node_and_two_answer_alike(api: Caller, db: Stack, two_nodes: Path, crowd: list[Someone]) -> None:
    paths = [
        "/api/discover",
        "/api/feed",
        "/api/search?q=person",
        "/api/search?q=tide&kind=photos",
        "/api/me",
    ]
    for person in crowd:
        paths += [f"/api/people/{person.name}{more}" for more in ("", "/photos", "/following")]
    for photo in every(api, "/api/discover", limit=50):
        paths += [f"/api/photos/{photo}{more}" for more in ("", "/likes", "/comments")]
    viewer = crowd[0]
    over_two = {path: api("GET", path, viewer).json for path in paths}
    db.write()
    assert {path: api("GET", path, viewer).json for path in paths} == over_two
    assert len(over_two["/api/feed"]["items"]) == 6


def test_a_feed_of_two_nodes_leaves_out_what_is_not_followed(
    api: Caller, two_nodes: Path, crowd: list[Someone]
) -> None:
    """Also what is on the other node than the reader, and when Redis has not heard of it."""
    for reader in crowd[:4]:
        assert {item["owner"]["name"] for item in api("GET", "/api/feed", reader).json["items"]} > {
            reader.name
        }
        with shard(shard_of(int(reader.id))):
            Following.objects.filter(follower_id=int(reader.id)).delete()
        assert {item["owner"]["name"] for item in api("GET", "/api/feed", reader).json["items"]} == {
            reader.name
        }


def test_each_node_is_asked_once(
    api: Caller,
    two_nodes: Path,
    crowd: list[Someone],
    trips: list[str],  # noqa: F811
) -> None:
    """And the reader's once more, for whom they follow on the other one."""
    for reader in crowd:
        api("GET", "/api/feed", reader)
        trips.clear()
        api("GET", "/api/feed", reader)
        asked = [trip.split()[0] for trip in trips]
        assert asked.count("redis") == 2
        assert len(asked) <= 2 + 3
        assert asked.count("node0") <= 2
        assert asked.count("node1") <= 2


def test_mentions_find_people_on_every_node(api: Caller, two_nodes: Path, crowd: list[Someone]) -> None:
    photo = rows(crowd[0], 1)[0]
    text = " ".join(f"@{person.name}" for person in crowd)
    api("POST", f"/api/photos/{photo}/comments", crowd[1], {"text": text})
    assert set(told()[-1]["to"]) == {person.id for person in crowd} - {crowd[1].id}
