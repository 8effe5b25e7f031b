"""One browser and one stage for all tests of the site, where each has people of its own; or the real site for one."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.page.chromium import Chromium, browser, started
from tests.webapp.page.fake import Person
from tests.webapp.page.real import RealSite
from tests.webapp.page.stage import Stage
from tests.webapp.stack import Stack

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


@pytest.fixture
def site(db: Stack, tmp_path: Path) -> Iterator[RealSite]:
    """The real one, with nobody on it."""
    with RealSite(db, tmp_path) as site:
        yield site


@pytest.fixture
def two(browser: Chromium, tmp_path: Path) -> Iterator[tuple[Chromium, Chromium]]:
    """Two browsers: one browser is one person, or one device."""
    with Chromium(tmp_path) as another:
        yield browser, another
