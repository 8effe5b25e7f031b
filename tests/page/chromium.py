"""A headless Chromium driven by Selenium: windows side by side, scripts, keys, its log."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import pytest
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.daemon import wait_until
from tests.servers import missing

ARGUMENTS: Final = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
)
# How many WebSockets the page has made so far.
COUNT: Final = """window.sockets = 0;
window.WebSocket = class extends WebSocket { constructor(...given) { super(...given); window.sockets += 1; } };"""
PATIENCE: Final = 20.0  # seconds for whatever should happen at once; a busy machine is no failure


def program(*names: str) -> str:
    """The first of these that is installed; skips the test (or fails it) where none is."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing(names[0], "not in PATH")
    assert found is not None
    return found


class Chromium:
    """One browser with a profile of its own. A context manager."""

    def __init__(self, folder: Path) -> None:
        options = webdriver.ChromeOptions()
        options.binary_location = program("chromium", "google-chrome")
        for argument in (*ARGUMENTS, f"--user-data-dir={folder / 'profile'}"):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        # Named, so that Selenium looks for no driver in the net.
        service = webdriver.ChromeService(
            program("chromedriver"), log_output=str(folder / "chromedriver.log")
        )
        self.driver = webdriver.Chrome(options, service)
        self._first = self.driver.current_window_handle

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.driver.quit()

    def open(self, url: str, width: int = 1280, height: int = 900) -> Window:
        """A new window of this size."""
        self.driver.switch_to.window(self._first)
        self.driver.switch_to.new_window("window")
        window = Window(self.driver, self.driver.current_window_handle)
        # Not the window's own size: that includes frames, and has a least width.
        window.tell(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        window.tell("Page.addScriptToEvaluateOnNewDocument", source=COUNT)
        self.driver.get(url)
        return window

    def close(self) -> None:
        """Every window but the first, and what they logged: the next test has a browser as new."""
        for handle in self.driver.window_handles:
            if handle != self._first:
                self.driver.switch_to.window(handle)
                self.driver.close()
        self.driver.switch_to.window(self._first)
        self.log()

    def log(self) -> list[str]:
        """What the consoles of all windows said since the last call."""
        return [entry["message"] for entry in self.driver.get_log("browser")]  # type: ignore[no-untyped-call]


class Window:
    """A window; whatever is asked of it happens in it, though others are open."""

    def __init__(self, driver: webdriver.Chrome, handle: str) -> None:
        self.driver, self.handle = driver, handle

    def _here(self) -> webdriver.Chrome:
        if self.driver.current_window_handle != self.handle:
            self.driver.switch_to.window(self.handle)
        return self.driver

    def run(self, script: str, *values: Any) -> Any:
        """What a function body returns; `values` are its `arguments`."""
        return self._here().execute_script(script, *values)

    def until(self, script: str, wanted: Any = True, seconds: float = PATIENCE) -> None:
        """Returns when the expression gives `wanted`."""
        self.holds(lambda: self.run(f"return {script}"), wanted, script, seconds)

    def holds(self, ask: Callable[[], Any], wanted: Any, name: str = "it", seconds: float = PATIENCE) -> None:
        found: list[Any] = [None]

        def look() -> bool:
            found[0] = ask()
            return bool(found[0] == wanted)

        wait_until(look, seconds, lambda: f"{name} is {found[0]!r}, not {wanted!r}", every=0.05)

    def close(self) -> None:
        self._here().close()
        self.driver.switch_to.window(self.driver.window_handles[0])

    def find(self, selector: str) -> WebElement:
        return self._here().find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self._here().find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector: str) -> None:
        self.find(selector).click()

    def write(self, selector: str, text: str) -> None:
        """In place of what is there."""
        field = self.find(selector)
        field.clear()
        field.send_keys(text)

    def press(self, *keys: str) -> None:
        """On the keyboard: whatever has the focus gets them."""
        ActionChains(self._here()).send_keys(*keys).perform()

    def point_at(self, selector: str) -> None:
        """Move the mouse there."""
        ActionChains(self._here()).move_to_element(self.find(selector)).perform()

    def tell(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol."""
        return self._here().execute_cdp_cmd(command, parameters)

    def offline(self, on: bool) -> None:
        """As the browser's own switch "offline": no request gets out. Open WebSockets are left alone by it."""
        self.tell("Network.enable")
        self.tell(
            "Network.emulateNetworkConditions",
            offline=on,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=-1,
        )

    def prefers(self, **features: str) -> None:
        """Media features of the person, as `color_scheme="dark"`."""
        named = [
            {"name": f"prefers-{name.replace('_', '-')}", "value": value} for name, value in features.items()
        ]
        self.tell("Emulation.setEmulatedMedia", features=named)


@pytest.fixture(scope="session")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    with Chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture
def browser(started: Chromium) -> Iterator[Chromium]:
    """Without windows; afterwards, too."""
    yield started
    started.close()
