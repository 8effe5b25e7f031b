"""A headless Chromium, driven over its DevTools protocol: tabs, scripts in them, input."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from websockets.sync.client import connect

from tests.servers import missing

OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--remote-debugging-port=0", "about:blank",
)  # fmt: skip


class Browser:
    """One browser with a profile of its own. A context manager; skips the test where there is no Chromium."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("chromium") or shutil.which("google-chrome")
        if program is None:
            missing("chromium", "not in PATH")
        assert program is not None
        self.folder = folder
        with (folder / "chromium.log").open("wb") as out:
            self._process = subprocess.Popen(
                [program, f"--user-data-dir={folder / 'profile'}", *OPTIONS],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self._number = 0
        self._open = ExitStack()
        self.events: deque[dict[str, Any]] = deque(maxlen=1000)

    def __enter__(self) -> Self:
        try:
            self._socket = self._open.enter_context(connect(self._address(), max_size=None))
        except BaseException:
            self._process.kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._process.terminate()
        self._process.wait(20)

    def _address(self) -> str:
        told, end = self.folder / "profile" / "DevToolsActivePort", time.monotonic() + 30
        while not told.exists() or len(told.read_text().splitlines()) < 2:
            assert self._process.poll() is None, (self.folder / "chromium.log").read_text()
            assert time.monotonic() < end, "chromium does not say where it listens"
            time.sleep(0.05)
        port, path = told.read_text().splitlines()[:2]
        return f"ws://127.0.0.1:{port}{path}"

    def call(self, method: str, session: str | None = None, /, **parameters: Any) -> dict[str, Any]:
        """One command and its result; fails the test for an error."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        self._socket.send(json.dumps(message))
        while True:
            answer: dict[str, Any] = json.loads(self._socket.recv(timeout=20))
            if answer.get("id") != self._number:
                self.events.append(answer)
                continue
            assert "error" not in answer, f"{method}: {answer['error']}"
            result: dict[str, Any] = answer["result"]
            return result

    def open(self, url: str) -> Tab:
        """A new tab."""
        target = self.call("Target.createTarget", url=url)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return Tab(self, target, session)


class Tab:
    """A page."""

    def __init__(self, browser: Browser, target: str, session: str) -> None:
        self.browser, self.target, self.session = browser, target, session
        self._closed = False

    def run(self, script: str) -> Any:
        """The value of an expression, awaited if it is a promise; fails the test when it throws."""
        said = self.browser.call(
            "Runtime.evaluate", self.session, expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def until(self, script: str, wanted: Any = True, seconds: float = 30.0) -> None:
        """Returns when the expression gives `wanted`."""
        end = time.monotonic() + seconds
        while (found := self.run(script)) != wanted:
            assert time.monotonic() < end, f"{script} is {found!r}, not {wanted!r}"
            time.sleep(0.03)

    def move(self) -> None:
        """The mouse moves: a person is there."""
        for x in (10, 20):
            self.browser.call("Input.dispatchMouseEvent", self.session, type="mouseMoved", x=x, y=10)

    def close(self) -> None:
        """Once; again is nothing."""
        if not self._closed:
            self._closed = True
            self.browser.call("Target.closeTarget", targetId=self.target)
