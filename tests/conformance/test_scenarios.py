"""Both clients on the scripted server; and clients with one rule left out, so that each scenario is known to see it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conformance.fake_server import Wrong, play
from tests.conformance.scenarios import SCENARIOS, Scenario
from tests.conformance.streams import STREAMS
from tests.servers import missing

ROOT = Path(__file__).parent.parent.parent
HERE = Path(__file__).parent
EVERY = (*SCENARIOS, *STREAMS)
BY_NAME = {scenario.name: scenario for scenario in EVERY}
ENVIRON = {**os.environ, "PYTHONPATH": str(ROOT / "clients" / "python" / "src")}


def node() -> str:
    found = shutil.which("node")
    if found is None:
        missing("node", "not in PATH")
    assert found is not None
    return found


def command(client: str) -> Sequence[str]:
    return (node(), str(HERE / "driver.mjs")) if client == "js" else (sys.executable, str(HERE / "driver.py"))


@pytest.fixture(scope="module")
def start() -> Iterator[Callable[[str, Scenario], Future[None]]]:
    """Scenarios wait more than they work: with each the next few of its client begin, four at a time."""
    running: dict[tuple[str, str], Future[None]] = {}
    with ThreadPoolExecutor(4) as pool:

        def started(client: str, scenario: Scenario) -> Future[None]:
            if (client, scenario.name) not in running:
                words = command(client)
                first = EVERY.index(scenario)
                for one in EVERY[first : first + 8]:
                    if (client, one.name) not in running:
                        running[client, one.name] = pool.submit(play, one, words, ENVIRON)
            return running[client, scenario.name]

        yield started
        for future in running.values():
            future.cancel()


@pytest.mark.parametrize("scenario", EVERY, ids=lambda scenario: scenario.name)
def test_the_javascript_client_holds(
    scenario: Scenario, start: Callable[[str, Scenario], Future[None]]
) -> None:
    start("js", scenario).result(120)


@pytest.mark.parametrize("scenario", EVERY, ids=lambda scenario: scenario.name)
def test_the_python_client_holds(scenario: Scenario, start: Callable[[str, Scenario], Future[None]]) -> None:
    start("python", scenario).result(120)


# (scenario that must fail, what stands in notifier.js, what stands there instead)
MUTANTS = [
    ("the first load", "{after: 0} : {epoch", "{} : {epoch"),
    ("a first load is no news", "counts && !loading ? this.#news(message)", "counts ? this.#news(message)"),
    ("live changes move the place", "if (this.complete && message.seq === this.#seq + 1)", "if (false)"),
    ("a gap leaves the place alone", "&& message.seq === this.#seq + 1)", "&& message.seq > this.#seq)"),
    ("a resume that breaks off is no place", "if (this.complete && message", "if (message"),
    ("a resume that breaks off is no place", "if (this.last > this.#seq) this.#epoch = null;", ""),
    ("ready gives no place", 'if (message.type === "upto") this.#settle', 'if (message.type === "ready") this.#settle'),
    ("a resync that breaks off", "this.#epoch = null;\n      this.begin();", "this.begin();"),
    ("resync on a resume", "this.#epoch = null;\n      this.begin();", "this.#epoch = null;"),
    ("floor", "if (row.seq <= floor)", "if (row.seq < floor)"),
    ("duplicates are shown once", "known !== undefined && known.seq >= message.seq", "false"),
    ("marks and removals", "rows.delete(id)),", "rows.size),"),
    ("acks are few", "const ACK_EVERY = 32;", "const ACK_EVERY = 1;"),
    ("an ack is not sight", "this.#inbox.complete && this.#active();", "true;"),
    ("a mark that was lost is made again", "for (const due of this.#marks.due())", "for (const due of [])"),
    ("reauth", 'message.type === "reauth"', 'message.type === "never"'),
    ("drain names the time", "this.#drain ?? backoff", "backoff"),
    ("an expired token is renewed", "= await this.#options.token();", "= this.kept ??= await this.#options.token();"),
    ("4509 is for good", "code >= 4500", "code >= 4510"),
    ("an unknown code that allows to come back", "code >= 4500", "code >= 4400"),
    ("a server that says nothing", "this.#deadline = setTimeout", "setTimeout(() => {}, 0); void"),
    ("three WebSockets, then a stream", "const SOCKET_TRIES = 3;", "const SOCKET_TRIES = 4;"),
    ("a WebSocket without ready has not come up", "= this.#ready ? 0 :", "= code !== 1006 ? 0 :"),
    ("a WebSocket that was ready proves the way", "this.#ready ? 0 : this.#failures + 1", "this.#failures + 1"),
    ("one WebSocket after each stream", "this.#failures = SOCKET_TRIES - 1;", ";"),
    ("back to the WebSocket", "this.#failures = SOCKET_TRIES - 1;", ";"),
    ("a resume over a stream brings the rest", "URLSearchParams(this.#inbox.place)", 'URLSearchParams("after=0")'),
    ("a stream in pieces", "{stream: true}", "{}"),
    ("a stream in pieces", "\\r\\n|\\n|\\r(?!$)", "\\n"),
    ("marks go over the HTTP API", 'if (type === "read" ||', 'if (type === "never" ||'),
    ("only who looks has seen, also on a stream", '(type === "ack" && active)', '(type === "ack")'),
    ("a mark refused for now on a stream: 503 unavailable", "return retryAfter(answer);", "return null;"),
    ("a mark refused for now on a stream: 429 too-many-requests", "status === 429 || ", ""),
    ("a mark refused for now on a stream: 401 expired-token", "status === 401 || ", ""),
    ("a mark refused for now on a stream: 403", " || !String(problem?.type).startsWith(OURS);", ";"),
    ("a mark refused for now on a stream: dropped", "return 0;                  // of the network", "return null;"),
    ("a mark refused for now on a stream: silent", "setTimeout(() => request.abort(), this.#timing.answer)", "null"),
    ("Retry-After of a mark names the time", "return Math.min(Math.max(wait || 0, 0), RETRY_AFTER);", "return 0;"),
    ("Retry-After of a mark names the time", "if (wait > 0 || this.#stopped) break;", ""),
    ("marks that wait on a stream are one", "this.#seen.seq < seq)", "this.#seen.seq > seq)"),
    ("marks that wait on a stream are one", "    marks.settle(this.#inbox);\n    let wait", "    let wait"),
    ("marks that wait on a stream are one", "if (!this.#busy && this.#timer === null)", "if (!this.#busy)"),
    ("a mark that fails keeps no other waiting", "if (wait > 0 || this.#stopped) break;", "if (wait !== null) break;"),
    ("a mark refused for good on a stream: 400 invalid-request", "if (passing(answer.status, problem))", "if (true)"),
    ("a mark refused for good on a stream: 403 missing-scope", "this.#marks.forget(message.refused)", "void 0"),
    ("4509 on a stream is for good", 'if (message.type === "error") close', 'if (message.type === "never") close'),
    ("a stream refused with an expired token", 'if (type.endsWith(":expired-token")) return [4001, detail];', ""),
    ("a stream refused for good: 403 missing-scope", "if (status === 403) return [4503, detail];", ""),
    ("a stream refused for now", "return [1006, detail];", "return [4503, detail];"),
]  # fmt: skip


@pytest.fixture(scope="module")
def mutants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, str], Future[None]]]:
    folder, program = tmp_path_factory.mktemp("mutants"), node()
    source = (ROOT / "clients" / "js" / "notifier.js").read_text()
    with ThreadPoolExecutor(4) as pool:
        running = {}
        for number, (name, old, new) in enumerate(MUTANTS):
            assert old in source, f"{old!r} does not stand in notifier.js any more"
            tests = folder / str(number) / "tests" / "conformance"
            clients = folder / str(number) / "clients" / "js"
            for made in (tests, clients):
                made.mkdir(parents=True)
            (clients / "notifier.js").write_text(source.replace(old, new, 1))
            (clients / "package.json").write_text('{"type": "module"}')
            for file in ("driver.mjs", "node_socket.mjs"):
                shutil.copy(HERE / file, tests)
            running[name, old] = pool.submit(
                play, BY_NAME[name], (program, str(tests / "driver.mjs")), ENVIRON, 2.0
            )
        yield running


@pytest.mark.parametrize(
    ("name", "old", "new"), MUTANTS, ids=[f"{name}-{at}" for at, (name, *_) in enumerate(MUTANTS)]
)
def test_a_client_without_a_rule_is_seen(
    name: str, old: str, new: str, mutants: dict[tuple[str, str], Future[None]]
) -> None:
    with pytest.raises(Wrong):
        mutants[name, old].result(60)


def test_the_command_line() -> None:
    client = f"{node()} {HERE / 'driver.mjs'}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "client", client, "-k", "gap"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("2 of 2 hold\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "client", client, "--streams", "-k", "resync"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "ok      resync on a stream\n" in done.stdout, done.stdout + done.stderr
    assert done.stdout.endswith("4 of 4 hold\n")
    done = subprocess.run(
        [sys.executable, "-m", "tests.conformance", "client", "false", "-k", "first load"],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "not ok  the first load  [Where to begin]" in done.stdout
