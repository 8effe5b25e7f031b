"""What docs/clients.md tells a stranger to do, done: a page of one's own, on another port, on the demo."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.page.chromium import Chromium
from tests.test_demo import Running, cli, demo

ROOT = Path(__file__).parent.parent.parent
CLIENTS = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *values: Any) -> None:  # noqa: A002  # its name in the library
        pass


@pytest.fixture
def page(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder that is served, and the port: as `python3 -m http.server` does it."""
    folder = tmp_path / "page"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, server.server_address[1]
    server.shutdown()
    server.server_close()


def write_page(folder: Path, running: Running) -> None:
    """The first page of the documentation, with the demo's own port."""
    found = re.search(r"^```html\n(.*?)^```", CLIENTS, re.MULTILINE | re.DOTALL)
    assert found is not None
    assert found[1].count("http://127.0.0.1:8000/") == 1
    (folder / "index.html").write_text(found[1].replace("http://127.0.0.1:8000/", running.ready()["page"]))
    shutil.copy(ROOT / "clients" / "js" / "notifier.js", folder)


def test_a_page_of_ones_own_is_live_on_the_demo(
    browser: Chromium, page: tuple[Path, int], tmp_path: Path
) -> None:
    folder, port = page
    with demo(tmp_path, "--origin", f"http://localhost:{port}") as running:
        write_page(folder, running)
        window = browser.open(f"http://localhost:{port}/")
        window.until("document.getElementById('state').textContent", "live")
        (line,) = re.findall(r"^\.venv/bin/notifier (publish .*)$", CLIENTS, re.MULTILINE)
        assert cli(tmp_path, *line.split()).returncode == 0
        window.until("document.getElementById('unread').textContent", "1")
        window.until("document.querySelector('li').textContent.trim()", "bob: like photo")
        window.click("li")
        window.until("document.querySelector('li').style.fontWeight", "normal")
        other = browser.open(running.ready()["page"])
        other.until("document.querySelector('.person li')?.classList.contains('unread')", False)
        assert [line for line in browser.log() if "favicon" not in line and "news:" not in line] == []


def test_a_page_that_was_not_named_is_told_so_in_its_console(
    browser: Chromium, page: tuple[Path, int], tmp_path: Path
) -> None:
    folder, port = page
    with demo(tmp_path, "--origin", f"http://localhost:{port}") as running:
        write_page(folder, running)
        browser.log()
        window = browser.open(f"http://127.0.0.1:{port}/")
        said: list[str] = []

        def blocked() -> bool:
            said.extend(browser.log())
            return any("blocked by CORS policy" in line for line in said)

        window.holds(blocked, True, "the console")
        assert window.run("return window.sockets") == 0
