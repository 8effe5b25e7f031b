"""The conformance suite on our own daemon; and on one that gets it wrong, so that the suite is known to see it."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.client import token
from tests.conformance.cases import (
    CASES,
    EMPTY,
    READY,
    UPTO,
    Case,
    Closes,
    Connect,
    Hear,
    Publish,
    Quiet,
    Say,
    row,
)
from tests.conformance.server import Target, Wrong, play
from tests.daemon import ROOT, Daemon
from tests.servers import Valkey

SETTINGS: Mapping[str, Mapping[str, object]] = {
    "websocket": {"listen": "tcp:0:interface=127.0.0.1", "auth_seconds": 1.0},
    "limits": {"per_address_rate": 1000.0},
}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Valkey]]:
    folder = tmp_path_factory.mktemp("conformance")
    with Valkey(folder / "valkey", aof=False) as server, Daemon(folder, server.url, SETTINGS) as daemon:
        yield daemon, server


@pytest.fixture(scope="module")
def target(daemon: tuple[Daemon, Valkey]) -> Target:
    process, server = daemon

    def publish(event: Mapping[str, Any]) -> None:
        server.call("XADD", "notifier:events", "*", "event", json.dumps(event))

    url = f"ws://127.0.0.1:{process.port('websocket')}/v1/websocket"
    return Target(url, token, publish, f"http://127.0.0.1:{process.port('api')}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_our_server_holds(case: Case, target: Target) -> None:
    play(case, target)


BROKEN = [
    Case("another number", "", (*EMPTY, Publish("1"), Hear(row("1", 2)))),
    Case("another type of value", "", (*EMPTY, Publish("1"), Hear({**row("1", 1), "count": True}))),
    Case("a member that is missing", "", (Connect(), Hear({**READY, "mood": "good"}))),
    Case("silence", "", (*EMPTY, Hear(UPTO, seconds=0.2))),
    Case("no silence", "", (*EMPTY, Publish("1"), Quiet(seconds=5.0))),
    Case("stays open", "", (*EMPTY, Say({"type": "ping"}), Closes(4510, seconds=0.3))),
    Case("another code", "", (*EMPTY, Say("{"), Closes(4005))),
    Case("closed too early", "", (Connect(token="none.of.that"), Hear({"type": "error"}), Hear(READY))),
]


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_what_is_wrong_is_seen(case: Case, target: Target) -> None:
    with pytest.raises(Wrong):
        play(case, target)


def test_names_are_unique_and_clauses_are_headings() -> None:
    from tests.conformance.scenarios import SCENARIOS, Scenario
    from tests.conformance.streams import STREAMS

    def wrong(cases: Iterable[Case | Scenario], *pages: str) -> set[str]:
        text = "".join((ROOT / "docs" / page).read_text() for page in pages)
        return {case.clause for case in cases if f"\n## {case.clause}\n" not in text}

    assert wrong(CASES, "websocket.md") == set()
    assert wrong(SCENARIOS, "websocket.md") == set()
    assert wrong(STREAMS, "api.md", "clients.md") == set()
    for cases in (CASES, (*SCENARIOS, *STREAMS)):
        assert len({case.name for case in cases}) == len(cases)


def test_the_command_line(daemon: tuple[Daemon, Valkey], target: Target, tmp_path: Path) -> None:
    """Token and publish command as a stranger gives them; cases that need the API are left out without it."""
    programs = Path(tmp_path)
    (programs / "mint.py").write_text(
        "import sys\nfrom tests.client import token\nprint(token(sys.argv[1]))\n"
    )
    publish = (
        f"{shlex.quote(sys.executable)} -c 'from notifier.cli.main import main; main()' publish"
        f" --quiet --redis {daemon[1].url}"
    )
    mint = f"{shlex.quote(sys.executable)} {programs / 'mint.py'} {{person}}"
    command = [
        sys.executable, "-m", "tests.conformance", "server", target.url, "--token-command", mint,
        "--publish-command", publish, "-k", "delete",
    ]  # fmt: skip
    environ = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout) == (0, "0 of 0 hold\n"), done.stderr
    done = subprocess.run(
        [*command[:-1], "retract"],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok      retract\n1 of 1 hold\n"), done.stderr
