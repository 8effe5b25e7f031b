"""Fixtures of the photo API's tests: Django on real servers, its tables and Redis empty for each test.

Ask for `db` to use the database, for `replicated` to have a streaming replica as well.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import django
import pytest

os.environ["DJANGO_SETTINGS_MODULE"] = "webapp.settings"
os.environ.pop("WEBAPP_CONFIG", None)
django.setup()

from django.db import connections  # noqa: E402  # only now can what needs settings be imported
from django.test import override_settings  # noqa: E402

from tests.servers import Valkey  # noqa: E402
from tests.webapp.caller import Caller  # noqa: E402
from tests.webapp.stack import Stack  # noqa: E402
from webapp import config  # noqa: E402
from webapp.shards.migrating import migrate_all  # noqa: E402
from webapp.tokens import make_key  # noqa: E402


@pytest.fixture(scope="session")
def stack(valkey: Valkey) -> Iterator[Stack]:
    """PostgreSQL, migrated, and Valkey: shared by all tests of a process."""
    found = Stack(valkey.url)
    try:
        found.primary.start()
        found.write()
        migrate_all()
        yield found
    finally:
        found.stop()


@pytest.fixture
def db(stack: Stack, redis_url: str) -> Iterator[Stack]:
    """The shared servers, emptied."""
    stack.empty()
    yield stack
    connections.close_all()
    if stack.changed:
        stack.sections.clear()
        stack.write()


@pytest.fixture
def replicated(db: Stack) -> Stack:
    """The shared servers, emptied, with a streaming replica that is read from."""
    if not db.replica.running:
        db.replica.start()
    db.write(replicated=True)
    return db


@pytest.fixture
def api(db: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Caller]:
    """A client of the API on the shared servers, emptied; with a key for tokens, and limits that nobody meets."""
    key = tmp_path_factory.getbasetemp() / "tokens.pem"
    make_key(key)
    db.sections["tokens"] = {"key_file": str(key)}
    db.sections["limits"] = dict.fromkeys(config.Limits.__struct_fields__, "1000000/second")
    db.write()
    # Hashing is slow on purpose; it is not what is tested.
    with override_settings(PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"]):
        yield Caller()
