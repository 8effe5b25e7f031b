"""A program of the system that runs with a file that we ship: a child process that ends with its test."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.daemon import wait_until

PATIENCE: Final = 30.0  # s until it answers, or has ended


class Shipped:
    """One process at a time. A context manager that starts it, waits until it `answers`, and stops it.

    What it says goes to said.log in its folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str | Path]:
        """Program and arguments."""
        raise NotImplementedError

    def answers(self) -> bool:
        """Is it ready? Asked again and again at the start."""
        raise NotImplementedError

    def said(self) -> str:
        """All that it has said."""
        return (self.folder / "said.log").read_text()

    def launch(self, command: Sequence[str | Path]) -> subprocess.Popen[bytes]:
        with (self.folder / "said.log").open("ab") as out:
            return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out)

    def __enter__(self) -> Self:
        process = self._process = self.launch(self.command())

        def up() -> bool:
            assert process.poll() is None, f"it ended:\n{self.said()}"
            return self.answers()

        wait_until(up, PATIENCE, self.said)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(PATIENCE)
