"""What is cut off in the middle: a commit whose answer is lost, what follows one, a process that stops in between."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2
import pytest
from psycopg2 import extensions

from tests.webapp.caller import Caller, Someone, picture, told
from tests.webapp.stack import Stack
from webapp import outbox, storage
from webapp.models import Photo
from webapp.shards import atomic, on_commit, read_cursor, shard, shard_of
from webapp.shards.backend.base import ShardConnection


@pytest.fixture
def ana(api: Caller) -> Someone:
    return api.join("ana")


def stored(db: Stack) -> set[str]:
    """The names of the photos' pictures that are kept."""
    folder = db.folder / "photos"
    return {str(path.relative_to(folder)) for path in folder.rglob("p/*/*.jpg")}


def named(person: Someone) -> Iterator[str]:
    """The names of the pictures that a person's photos have."""
    with shard(shard_of(int(person.id))):
        for key in Photo.objects.values_list("key", flat=True):
            yield storage.square(key)
            yield storage.display(key)


@pytest.mark.parametrize("done", [True, False], ids=["committed", "not committed"])
def test_a_photo_whose_commit_was_not_answered_keeps_its_pictures(
    db: Stack, api: Caller, ana: Someone, monkeypatch: pytest.MonkeyPatch, done: bool
) -> None:
    def cut_off(link: ShardConnection) -> None:
        if done:
            extensions.connection.commit(link)
        link.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")

    before = stored(db)
    with monkeypatch.context() as during:
        during.setattr(ShardConnection, "commit", cut_off)
        assert api.form("POST", "/api/photos", ana, file=picture()).status == 503
    assert len(list(named(ana))) == (2 if done else 0)
    assert set(named(ana)) <= stored(db) - before
    assert len(told("fanout")) == done


def test_a_photo_that_failed_for_sure_leaves_no_picture(
    db: Stack, api: Caller, ana: Someone, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> int:
        with read_cursor() as cursor:
            cursor.execute("SET LOCAL statement_timeout = 1; SELECT pg_sleep(60)")
        return 0

    before = stored(db)
    with monkeypatch.context() as during:
        during.setattr(outbox, "put", refuses)
        assert api.form("POST", "/api/photos", ana, file=picture()).status == 503
    assert stored(db) == before


def test_what_fails_after_a_commit_fails_nothing_else(db: Stack) -> None:
    called: list[str] = []

    def fails() -> None:
        called.append("first")
        raise OSError("no room")

    with shard(3), atomic():
        on_commit(fails)
        on_commit(lambda: called.append("second"))
    assert called == ["first", "second"]


def test_a_transaction_of_a_process_that_stopped_holds_its_rows_for_a_minute(db: Stack) -> None:
    with shard(0), read_cursor() as cursor:
        cursor.execute("SHOW idle_in_transaction_session_timeout")
        assert cursor.fetchone() == ("1min",)
