"""One browser and one stage for all tests of the site; each test has people of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.page.chromium import browser, started
from tests.webapp.page.fake import Person
from tests.webapp.page.stage import Stage

__all__ = ["browser", "started"]  # fixtures
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    with Stage(tmp_path_factory.mktemp("stage")) as stage:
        yield stage


@pytest.fixture
def stage(standing: Stage) -> Stage:
    """All parts up, nobody there yet."""
    if not standing.daemon.running:
        standing.daemon.start()
    standing.api.clear()
    return standing


@pytest.fixture
def person(stage: Stage) -> Callable[[str], Person]:
    """Somebody whom nobody has heard of: `person("ana")`."""
    return lambda name: stage.api.person(f"{name}{next(_numbers)}", name.title())
