"""The Munin plugin, as Munin runs it: linked under the name of a graph, against the admin listener of real daemons."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from notifier.edge.embedded import free_port
from tests.client import Socket
from tests.daemon import ROOT, Daemon
from tests.servers import Valkey

PLUGIN: Final = ROOT / "conf/munin/notifier_"
GRAPHS: Final = (
    "connections", "events", "backlog", "age", "letters", "closes", "requests", "refused", "redis", "lag",
)  # fmt: skip
FIELD: Final = r"[A-Za-z_][A-Za-z0-9_]*"  # as Munin wants them


@pytest.fixture(scope="module")
def pair(valkey: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Daemon]]:
    valkey.call("FLUSHALL")
    folder = tmp_path_factory.mktemp("pair")
    with Daemon(folder / "left", valkey.url) as left, Daemon(folder / "right", valkey.url) as right:
        yield left, right


class Munin:
    """A node with one plugin, linked in `folder`."""

    def __init__(self, folder: Path, *ports: int) -> None:
        self.folder = folder
        self.urls = " ".join(f"http://127.0.0.1:{port}/metrics" for port in ports)

    def run(self, graph: str, *arguments: str, code: int = 0) -> str:
        link = self.folder / f"notifier_{graph}"
        if not link.is_symlink():
            link.symlink_to(PLUGIN)
        # a proxy of the whole machine is not meant for loopback
        environ = {"PATH": os.environ["PATH"], "urls": self.urls, "http_proxy": "http://127.0.0.1:9"}
        done = subprocess.run(
            [link, *arguments], env=environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    def values(self, graph: str) -> dict[str, str]:
        return dict(re.findall(rf"^({FIELD})\.value (\S+)$", self.run(graph), re.MULTILINE))


@pytest.fixture
def munin(pair: tuple[Daemon, Daemon], tmp_path: Path) -> Munin:
    return Munin(tmp_path, *(daemon.admin_port for daemon in pair))


def test_it_offers_its_graphs(munin: Munin) -> None:
    assert munin.run("", "suggest").split() == list(GRAPHS)
    assert munin.run("", "autoconf") == "yes\n"


@pytest.mark.parametrize("graph", GRAPHS)
def test_each_graph_has_a_value_for_each_field(munin: Munin, graph: str) -> None:
    config = munin.run(graph, "config")
    lines = [line.split(" ", 1) for line in config.splitlines()]
    assert all(len(line) == 2 for line in lines), config
    assert {"graph_title", "graph_vlabel", "graph_category"} <= {name for name, _ in lines}
    fields = [name.removesuffix(".label") for name, _ in lines if name.endswith(".label")]
    assert fields and len(set(fields)) == len(fields)
    assert all(re.fullmatch(FIELD, field) for field in fields)
    found = munin.values(graph)
    assert list(found) == fields
    for field, value in found.items():
        drawn = next(kind for name, kind in lines if name == f"{field}.type")
        assert re.fullmatch(r"\d+" if drawn == "DERIVE" else r"\d+(\.\d+)?(e-\d+)?", value), (field, value)


def test_instances_are_drawn_as_one(munin: Munin, pair: tuple[Daemon, Daemon]) -> None:
    left, right = pair
    with (
        Socket(left.port("websocket")) as one,
        Socket(left.port("websocket")) as two,
        Socket(right.port("websocket")) as three,
    ):
        for client, user in ((one, "7"), (two, "8"), (three, "9")):
            client.auth(user)
        assert float(munin.values("connections")["connections"]) == 3
        # an age is not added up
        assert float(munin.values("age")["canary_age_seconds"]) < 60


def test_labels_become_fields(munin: Munin) -> None:
    assert {"api_requests_total_2xx", "api_requests_total_5xx"} <= set(munin.values("requests"))
    assert "closes_total_4002" in munin.values("closes")
    assert "dead_letters_total_schema" in munin.values("letters")


def test_an_instance_that_is_down_hides_no_other(pair: tuple[Daemon, Daemon], tmp_path: Path) -> None:
    munin = Munin(tmp_path, free_port(), pair[0].admin_port)
    assert float(munin.values("connections")["connections"]) == 0
    assert munin.run("", "autoconf") == "yes\n"


def test_without_any_instance_nothing_is_known(tmp_path: Path) -> None:
    munin = Munin(tmp_path, free_port())
    assert munin.run("", "autoconf").startswith("no (")
    assert munin.values("connections") == {"connections": "U", "streams": "U", "sessions": "U"}
    assert "connections.label WebSockets" in munin.run("connections", "config")


def test_a_name_that_is_no_graph(munin: Munin) -> None:
    munin.run("nothing", code=1)


def test_it_needs_python_alone() -> None:
    text = PLUGIN.read_text()
    assert set(re.findall(r"^(?:from|import) ([\w.]+)", text, re.MULTILINE)) == {
        "math", "os", "re", "sys", "urllib.request",
    }  # fmt: skip
    assert os.access(PLUGIN, os.X_OK)
