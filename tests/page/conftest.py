"""One browser and one rig for all tests of the page; each test has people of its own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.page.chromium import browser, started
from tests.page.rig import Rig

__all__ = ["browser", "started"]  # fixtures
_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("rig")) as rig:
        yield rig


@pytest.fixture
def rig(standing: Rig) -> Iterator[Rig]:
    """All parts up."""
    if not standing.daemon.running:
        standing.daemon.start()
    yield standing
    standing.refusal, standing.mute = "", False


@pytest.fixture
def person() -> Callable[[str], str]:
    """A user id that nobody has had: `person("ana")`."""
    return lambda name: f"{name}-{next(_numbers)}"
