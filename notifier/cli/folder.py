"""The data folder of a demo: what lies where in it, who holds it, and where a running demo is announced."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

DEFAULT: Final = Path(".demo")
VARIABLE: Final = "NOTIFIER_DEMO"
KID: Final = "demo"
SITE_KID: Final = "webapp"
AUDIENCE: Final = "notifier"


class FolderError(Exception):
    """The folder cannot be used; the text says what, where and what to do about it."""


class DemoFolder:
    """One data folder. Only `hold` and what follows it write to it."""

    def __init__(self, path: Path) -> None:
        self.path: Final = path.resolve()
        self.keys: Final = self.path / "keys"
        self.key: Final = self.keys / f"{KID}.key"
        self.public_key: Final = self.keys / f"{KID}.pub"
        self.site_key: Final = self.keys / f"{SITE_KID}.key"
        self.site_public_key: Final = self.keys / f"{SITE_KID}.pub"
        self.site: Final = self.path / "web"
        self.site_log: Final = self.path / "web.log"
        self.redis: Final = self.path / "redis"
        self.config: Final = self.path / "notifier.toml"
        self.daemon_log: Final = self.path / "notifier.log"
        self.sandbox: Final = self.path / "sandbox"
        self.page_log: Final = self.path / "page.log"
        self.endpoints: Final = self.path / "endpoints.json"
        self._pointer = self.path / "folder"
        self._lock: int | None = None

    def hold(self) -> None:
        """Make the folder and take it for this process until the process ends.

        Raises FolderError when another demo has it, or when it cannot be made.
        """
        try:
            # Tokens for anybody can be minted with what lies here: it is nobody else's to read.
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.path / "demo.lock", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError as error:
            raise FolderError(f"cannot use the data folder {self.path}: {error.strerror}") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(lock)
            raise FolderError(
                f"another demo (process {holder}) works in {self.path}: stop it, or choose another folder "
                "with --data"
            ) from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        self._lock = lock
        self.withdraw()  # what a killed demo left behind

    def release(self) -> None:
        """Let another demo have the folder."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def announce(self, endpoints: Mapping[str, str], folder: Path | None = None) -> None:
        """Write endpoints.json, whole or not at all. `folder`: where the data is, when it is not here."""
        if folder is not None:
            _replace(self._pointer, f"{folder}\n")
        _replace(self.endpoints, json.dumps(dict(endpoints), indent=2) + "\n")

    def withdraw(self) -> None:
        """Remove what `announce` wrote."""
        for path in (self.endpoints, self._pointer):
            with suppress(FileNotFoundError):
                path.unlink()

    def pointed(self) -> DemoFolder:
        """The folder with the data: the one that a demo announced from elsewhere named here, or this one."""
        try:
            return DemoFolder(Path(self._pointer.read_text().strip()))
        except OSError:
            return self


def _replace(path: Path, text: str) -> None:
    draft = path.with_name(f"{path.name}.new")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
