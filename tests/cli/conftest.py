"""Fixtures of the tests of the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.program import Program


@pytest.fixture
def notifier(tmp_path: Path) -> Program:
    """The program, in an empty folder."""
    return Program(tmp_path)
