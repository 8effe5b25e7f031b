"""The clients beyond the scenarios: types, a real browser with several tabs, a fresh install."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from notifier.edge.embedded import free_port
from tests.client import token
from tests.conformance.browser import Browser, Tab
from tests.conformance.fake_server import FakeServer, Link, Program
from tests.conformance.scenarios import Message, change, ready, row, upto
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey, missing

ROOT = Path(__file__).parent.parent
CLIENTS = ROOT / "clients"
NOTIFIER_JS = CLIENTS / "js" / "notifier.js"


def node() -> str:
    found = shutil.which("node")
    if found is None:
        missing("node", "not in PATH")
    assert found is not None
    return found


def ended_well(command: list[str | Path], cwd: Path, **environ: str) -> str:
    """What a program prints; fails the test when it does not end with 0."""
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environ}, capture_output=True, text=True, timeout=120, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# -- Python


def test_the_python_client_passes_its_own_tests() -> None:
    ended_well([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"], CLIENTS / "python")


def test_the_python_client_is_typed() -> None:
    source = CLIENTS / "python" / "src"
    options = ["--strict", "--config-file=", "--python-version=3.11", "--no-error-summary"]
    ended_well(
        [sys.executable, "-m", "mypy", *options, "-p", "notifier_client"], source, MYPYPATH=str(source)
    )


def test_the_python_client_builds_with_all_its_files(tmp_path: Path) -> None:
    copy = tmp_path / "client"
    shutil.copytree(
        CLIENTS / "python", copy, ignore=shutil.ignore_patterns("*.egg-info", "build", "__pycache__")
    )
    ended_well([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, copy], tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    names = ended_well([sys.executable, "-m", "zipfile", "-l", wheel], tmp_path)
    for file in (CLIENTS / "python" / "src" / "notifier_client").glob("*.py*"):
        if file.is_file():
            assert f"notifier_client/{file.name}" in names


# -- TypeScript

USES = """
import {Notifier, NotifierEvent, Inbox, backoff, events, type Row, type State} from "./notifier.js";

const notifier = new Notifier({
  websocket: "wss://push.example.com/v1/websocket", api: "https://push.example.com", person: "7",
  token: async () => "a.b.c", timing: {first: 100},
});
notifier.addEventListener("notification", ({detail}) => { const row: Row = detail; console.log(row.actors[0].name); });
notifier.addEventListener("state", (event: NotifierEvent<{state: State}>) => console.log(event.detail.state));
notifier.start();
notifier.read(notifier.rows.map((row) => row.id));
const gone: Promise<void> = notifier.delete("x");
const wait: number = backoff(3, {first: 1, most: 2});
const inbox = new Inbox();
inbox.begin();
const news: Row | null = inbox.apply({type: "ready", seq: 1}).news;
void [gone, wait, news, events];
"""
MISUSES = [
    "new Notifier({token: async () => 'x'});",
    "new Notifier({websocket: 'ws://x', token: 'x'});",
    "notifier.rows[0].seq = 1;",
    "notifier.unread = 1;",
    "notifier.read('a', 'b');",
    "notifier.addEventListener('notification', ({detail}) => detail.mood);",
]


def tsc() -> str:
    folder = os.environ.get("NOTIFIER_ASYNCAPI_DIR", str(ROOT / ".ci" / "node"))
    found = shutil.which("tsc", path=f"{folder}/node_modules/.bin") or shutil.which("tsc")
    if found is None:
        missing("tsc", "typescript is not installed: npm install --prefix .ci/node typescript")
    assert found is not None
    return found


def checked(folder: Path, program: str) -> list[str]:
    """The lines of a TypeScript program that tsc complains of."""
    (folder / "use.ts").write_text(program)
    options = [
        "--noEmit",
        "--strict",
        "--target",
        "es2022",
        "--module",
        "nodenext",
        "--lib",
        "es2022,dom,dom.iterable",
    ]
    done = subprocess.run(
        [tsc(), *options, "use.ts"], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    return [line for line in done.stdout.splitlines() if "error TS" in line]


@pytest.fixture(scope="module")
def typed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("typed")
    for name in ("notifier.js", "notifier.d.ts"):
        shutil.copy(CLIENTS / "js" / name, folder)
    (folder / "package.json").write_text('{"type": "module"}')
    return folder


def test_the_declarations_fit_a_program_that_uses_everything(typed: Path) -> None:
    assert checked(typed, USES) == []


def test_the_declarations_refuse_what_would_not_work(typed: Path) -> None:
    found = checked(typed, USES + "\n".join(MISUSES))
    first = USES.count("\n") + 1
    lines = {int(line.partition("(")[2].partition(",")[0]) for line in found}
    assert lines == set(range(first, first + len(MISUSES))), found


def test_declarations_and_module_name_the_same(typed: Path) -> None:
    """What the module exports, and what a Notifier has, is declared; and nothing else is."""
    code = """
import * as all from "./notifier.js";
const own = Object.getOwnPropertyNames(all.Notifier.prototype).filter((name) => name !== "constructor");
console.log(JSON.stringify([Object.keys(all).sort(), own.sort()]));
"""
    (typed / "names.mjs").write_text(code)
    exported, members = json.loads(ended_well([node(), "names.mjs"], typed))
    text = (typed / "notifier.d.ts").read_text()
    for name in (*exported, *members):
        assert (
            f" {name}(" in text or f"class {name} " in text or f"class {name}<" in text or f" {name}:" in text
        ), name


# -- what is pure in the JavaScript client

PURE = """
import assert from "node:assert/strict";
import {backoff, events} from "./notifier.js";
const bounds = [0, 1, 2, 5, 6, 7, 2000].map((tries) => backoff(tries, undefined, () => 1));
assert.deepEqual(bounds, [500, 1000, 2000, 16000, 30000, 30000, 30000]);
assert.equal(backoff(3, undefined, () => 0), 0);
const samples = Array.from({length: 2000}, () => backoff(1));
assert(Math.max(...samples) > 900 && Math.min(...samples) < 100);

const text = ": hello\\n\\nid: 1.a:2\\ndata: {\\"a\\":\\r\\n" +
  "data: \\"é\\"}\\r\\n\\r\\ndata:x\\r\\rdata\\n\\nevent: y\\n\\ndata: half";
const bytes = new TextEncoder().encode(text);
for (let size = 1; size <= bytes.length; size++) {
  const body = new ReadableStream({start(controller) {
    for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.subarray(at, at + size));
    controller.close();
  }});
  const found = [];
  for await (const data of events(body)) found.push(data);
  assert.deepEqual(found, ['{"a":\\n"é"}', "x", ""], `in pieces of ${size}`);
}
"""


def test_waits_and_the_parser_of_streams(typed: Path) -> None:
    (typed / "pure.mjs").write_text(PURE)
    ended_well([node(), "pure.mjs"], typed)


# -- in a browser

PAGE = """<!doctype html><meta charset="utf-8"><title>test</title><script type="module">
import {Notifier} from "/notifier.js";
const query = new URLSearchParams(location.search);
const person = query.get("person");
window.looking = false;
const notifier = window.notifier = new Notifier({
  websocket: `ws://${location.host}/v1/websocket`, token: () => `token of ${person}`, person,
  timing: {first: 20, most: 50}, active: query.has("asked") ? () => window.looking : null,
});
window.news = [];
notifier.addEventListener("notification", ({detail}) => window.news.push(detail.id));
window.rows = () => notifier.rows.map((row) => row.id).join();
notifier.start();
</script>"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("browser")) as browser:
        yield browser


Open = Callable[[str], Tab]


@pytest.fixture
def site() -> Iterator[FakeServer]:
    pages = {"/": ("text/html", PAGE), "/notifier.js": ("text/javascript", NOTIFIER_JS.read_text())}
    with FakeServer(pages) as server:
        yield server


@pytest.fixture
def tab(browser: Browser, site: FakeServer) -> Iterator[Open]:
    tabs: list[Tab] = []

    def opened(person: str) -> Tab:
        tabs.append(
            browser.open(f"{site.url.replace('ws:', 'http:').removesuffix('v1/websocket')}?person={person}")
        )
        return tabs[-1]

    yield opened
    for one in tabs:
        one.close()


def accepted(site: FakeServer, **auth: Any) -> Link:
    link = site.take(15)
    assert isinstance(link, Link), "no connection came"
    said = link.hear(20)
    assert {name: said.get(name) for name in auth} == auth
    return link


def say(link: Link, *messages: Message) -> None:
    for message in messages:
        link.connection.send(json.dumps(message))


def heard(link: Link, kind: str) -> Message:
    end = time.monotonic() + 20
    while (message := link.hear(end - time.monotonic()))["type"] != kind:
        pass
    return message


def test_tabs_of_a_person_share_one_connection(site: FakeServer, tab: Open) -> None:
    first = tab("7")
    link = accepted(site, token="token of 7", after=0)
    say(link, ready(2), row(1, "a", unread=2), row(2, "b", unread=2), upto(2, unread=2))
    first.until("rows()", "b,a")
    second = tab("7")
    second.until("window.notifier && rows()", "b,a")
    assert second.run("notifier.state") == "live"
    assert site.take(0.3) is None
    say(link, row(3, "c", unread=3))
    for one in (first, second):
        one.until("rows()", "c,b,a")
        one.until("news.join()", "c")
    second.run("notifier.read(['a'])")
    assert heard(link, "read")["ids"] == ["a"]
    say(link, change("read", 4, ids=["a"], unread=2))
    first.until("notifier.unread", 2)
    second.until("notifier.rows.filter((row) => row.read).length", 1)
    assert [one.run("notifier.leading") for one in (first, second)] == [True, False]


def test_when_the_tab_with_the_connection_goes_another_goes_on_where_it_was(
    site: FakeServer, tab: Open
) -> None:
    first = tab("7")
    link = accepted(site)
    say(link, ready(1), row(1, "a"), upto(1))
    first.until("rows()", "a")
    second = tab("7")
    second.until("window.notifier && rows()", "a")
    say(link, row(2, "b"))
    second.until("rows()", "b,a")
    second.run("notifier.seen()")
    assert heard(link, "seen")["seq"] == 2
    first.close()
    again = accepted(site, epoch="1.a", after=2)
    link.over.set()
    say(again, ready(3), row(3, "c"), upto(3))
    second.until("rows()", "c,b,a")
    assert heard(again, "seen")["seq"] == 2  # the mark that died with the first tab is made again
    assert second.run("news.join()") == "b,c"
    again.over.set()


def test_persons_do_not_share(site: FakeServer, tab: Open) -> None:
    tab("7")
    accepted(site, token="token of 7")
    tab("8")
    accepted(site, token="token of 8")


def test_a_page_that_closes_its_client_hands_the_connection_over(site: FakeServer, tab: Open) -> None:
    first = tab("7")
    say(accepted(site), ready(0), upto(0))
    second = tab("7")
    second.until("window.notifier?.state", "live")
    first.run("notifier.close()")
    accepted(site, epoch="1.a", after=0)
    assert first.run("notifier.state") == "idle"


def test_only_input_makes_an_ack_active_also_in_another_tab(site: FakeServer, tab: Open) -> None:
    first = tab("7")
    link = accepted(site)
    say(link, ready(1), row(1, "a"), upto(1))
    assert heard(link, "ack") == {"type": "ack", "seq": 1}
    second = tab("7")
    second.until("window.notifier?.state", "live")
    second.move()
    assert heard(link, "ack") == {"type": "ack", "seq": 1, "active": True}
    say(link, row(2, "b"))
    assert heard(link, "ack") == {"type": "ack", "seq": 2, "active": True}
    assert [one.run("notifier.active") for one in (first, second)] == [True, True]
    second.run("notifier.close()")
    first.until("notifier.active", False)


def test_input_is_nothing_where_the_page_itself_says_whether_somebody_looks(
    site: FakeServer, tab: Open
) -> None:
    first = tab("7&asked")
    link = accepted(site)
    say(link, ready(1), row(1, "a"), upto(1))
    second = tab("7&asked")
    second.until("window.notifier?.state", "live")
    second.move()
    second.run("notifier.look()")
    say(link, row(2, "b"))
    first.until("rows()", "b,a")
    while heard(link, "ack")["seq"] < 2:  # they come in order: what the move said would have come before
        pass
    assert [ack.get("active") for ack in link.acks] == [None] * len(link.acks)
    second.run("window.looking = true; notifier.look()")
    assert heard(link, "ack") == {"type": "ack", "seq": 2, "active": True}
    second.run("window.looking = false; notifier.look()")
    first.until("notifier.active", False)


def test_when_the_network_goes_the_line_is_asked_at_once(site: FakeServer, tab: Open) -> None:
    one = tab("7")
    link = accepted(site)
    say(link, ready(0), upto(0))
    one.until("notifier.state", "live")
    one.run("dispatchEvent(new Event('offline'))")
    assert heard(link, "ping") == {"type": "ping"}
    say(link, {"type": "pong"})
    assert one.run("notifier.state") == "live"


def test_a_stopped_client_starts_again_from_any_tab(site: FakeServer, tab: Open) -> None:
    first = tab("7")
    link = accepted(site)
    say(link, ready(0), upto(0))
    second = tab("7")
    second.until("window.notifier?.state", "live")
    link.connection.close(4509, "revoked")
    for one in (first, second):
        one.until("notifier.state", "stopped")
    second.run("notifier.start()")
    accepted(site, epoch="1.a", after=0)


def code(language: str) -> str:
    """The first block of docs/clients.md in this language."""
    found = re.search(
        rf"^```{language}\n(.*?)^```", (ROOT / "docs" / "clients.md").read_text(), re.MULTILINE | re.DOTALL
    )
    assert found is not None
    return found[1]


def test_the_page_in_the_documentation_works(browser: Browser) -> None:
    """On a server that plays what a demo seldom sees; tests/page runs it on the demo."""
    page = code("html").replace("http://127.0.0.1:8000/", "/")
    pages = {"/": ("text/html", page), "/notifier.js": ("text/javascript", NOTIFIER_JS.read_text())}
    with FakeServer(pages) as site:
        pages["/token"] = (
            "application/json",
            json.dumps({"token": "a.b.c", "websocket": site.url, "api": site.url}),
        )
        tab = browser.open(site.url.replace("ws:", "http:").removesuffix("v1/websocket"))
        link = accepted(site, token="a.b.c", after=0)
        evil = {**row(1, "a", unread=2), "actors": [{"id": "42", "name": "<i>eve"}], "text": "<b id=evil>hi"}
        say(link, ready(2), evil, row(2, "b", unread=2), upto(2, unread=2))
        tab.until("document.getElementById('unread').textContent", "2")
        assert tab.run("document.getElementById('state').textContent") == "live"
        items = "[...document.querySelectorAll('#list li')].map((item) => item.textContent)"
        assert tab.run(items) == ["ana: like photo ", "<i>eve: like photo <b id=evil>hi"]
        tab.run("document.querySelector('#list li').click()")
        assert heard(link, "read")["ids"] == ["b"]
        say(link, change("read", 3, ids=["b"], unread=1))
        tab.until("document.querySelector('#list li').style.fontWeight", "normal")
        tab.run("document.getElementById('bell').click()")
        assert heard(link, "seen")["seq"] == 3
        tab.close()


# -- on a real server


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Daemon, Valkey]]:
    folder = tmp_path_factory.mktemp("clients")
    with Valkey(folder / "valkey", aof=False) as server, Daemon(folder / "daemon", server.url) as daemon:
        yield daemon, server


def like(server: Valkey, person: str, photo: str) -> None:
    event = {"type": "like", "actor": {"id": "42"}, "to": [person], "object": {"type": "photo", "id": photo}}
    server.call("XADD", "notifier:events", "*", "event", json.dumps(event))


def test_the_program_in_the_documentation_works(daemon: tuple[Daemon, Valkey], tmp_path: Path) -> None:
    process, server = daemon
    (tmp_path / "client.py").write_text(code("python"))
    (tmp_path / "token.txt").write_text(token("docs"))
    url = f"ws://127.0.0.1:{process.port('websocket')}/v1/websocket"
    with (tmp_path / "out").open("wb") as out:
        program = subprocess.Popen(
            [sys.executable, "client.py", url, "token.txt"], cwd=tmp_path, stdout=out, stderr=out,
            env={**os.environ, "PYTHONPATH": str(CLIENTS / "python" / "src")},
        )  # fmt: skip
    try:
        said = tmp_path / "out"
        wait_until(lambda: "complete 0 []" in said.read_text(), 15, said.read_text)
        like(server, "docs", "1")
        wait_until(lambda: "news: 42 like\nnotification 1 [" in said.read_text(), 10, said.read_text)
        server.call("SET", "revoked:{0}:docs", int(time.time()) + 1, "EX", 60)
        server.call("PUBLISH", "notifier:control", "revoke docs")
        wait_until(lambda: "does not want us: 4509" in said.read_text(), 10, said.read_text)
        assert program.wait(10) == 0
    finally:
        program.kill()
        program.wait()


def shows(program: Program, **wanted: Any) -> None:
    wait_until(
        lambda: all(program.shown.get(name) == value for name, value in wanted.items()),
        10, lambda: f"wanted {wanted}, it shows {program.shown}",
    )  # fmt: skip


REAL = """
import {createInterface} from "node:readline";
import {Notifier} from "./notifier.js";
import {NodeSocket} from "./node_socket.mjs";
const [websocket, api, token] = process.argv.slice(2);
const notifier = new Notifier({
  websocket, api, token: () => token, WebSocket: globalThis.WebSocket ?? NodeSocket, timing: {first: 20, most: 50},
});
const show = () => console.log(JSON.stringify({
  state: notifier.state, rows: notifier.rows.map((row) => row.object.id), unread: notifier.unread,
}));
for (const kind of ["state", "change"]) notifier.addEventListener(kind, show);
createInterface({input: process.stdin}).on("line", () => {
  notifier.readAll();
  notifier.delete(notifier.rows[0].id).catch(console.error);
}).on("close", () => process.exit());
notifier.start();
"""


@pytest.mark.parametrize("way", ["websocket", "stream"])
def test_the_javascript_client_on_a_real_server(
    way: str, daemon: tuple[Daemon, Valkey], tmp_path: Path
) -> None:
    """Over a WebSocket; and over a stream, when none comes through."""
    process, server = daemon
    for file in (NOTIFIER_JS, ROOT / "tests" / "conformance" / "node_socket.mjs"):
        shutil.copy(file, tmp_path)
    (tmp_path / "package.json").write_text('{"type": "module"}')
    (tmp_path / "run.mjs").write_text(REAL)
    port = process.port("websocket") if way == "websocket" else free_port()
    api = f"http://127.0.0.1:{process.port('api')}"
    words = [node(), str(tmp_path / "run.mjs"), f"ws://127.0.0.1:{port}/v1/websocket", api]
    program = Program(words, token(way))
    try:
        shows(program, state="live", rows=[])
        like(server, way, "1")
        like(server, way, "2")
        shows(program, rows=["2", "1"], unread=2)
        program.do({})
        shows(program, rows=["1"], unread=0)
    finally:
        program.end()


MARKS = """
import {createInterface} from "node:readline";
import {Notifier} from "./notifier.js";
import {NodeSocket} from "./node_socket.mjs";
const [websocket, api, token] = process.argv.slice(2);
const notifier = new Notifier({
  websocket, api, token: () => token, WebSocket: globalThis.WebSocket ?? NodeSocket, timing: {first: 20, most: 50},
});
const refused = [], states = [];
const show = () => console.log(JSON.stringify({
  state: notifier.state, states, rows: notifier.rows.length, unread: notifier.unread, seen: notifier.seenUpTo, refused,
}));
notifier.addEventListener("state", ({detail}) => { states.push(detail.state); show(); });
notifier.addEventListener("refused", ({detail}) => { refused.push(detail); show(); });
notifier.addEventListener("change", show);
const COMMANDS = {
  read: ({photos}) => notifier.read(notifier.rows.filter((row) => photos.includes(row.object.id)).map((row) => row.id)),
  read_all: () => notifier.readAll(),
  seen: () => notifier.seen(),
  close: () => { notifier.close(); process.stdin.destroy(); },
};
createInterface({input: process.stdin}).on("line", (line) => {
  const command = JSON.parse(line);
  COMMANDS[command.do](command);
});
notifier.start();
"""


Marking = Callable[[int, Settings], tuple[Daemon, Program]]


@pytest.fixture
def marking(tmp_path: Path) -> Iterator[Marking]:
    """Gives a daemon with these settings, and the JavaScript client on a stream of it, with so many rows."""
    with ExitStack() as stack:

        def started(rows: int, settings: Settings) -> tuple[Daemon, Program]:
            server = stack.enter_context(Valkey(tmp_path / "valkey", aof=False))
            for number in range(rows):
                like(server, "marks", str(number))
            process = stack.enter_context(Daemon(tmp_path / "daemon", server.url, settings))
            for file in (NOTIFIER_JS, ROOT / "tests" / "conformance" / "node_socket.mjs"):
                shutil.copy(file, tmp_path)
            (tmp_path / "package.json").write_text('{"type": "module"}')
            (tmp_path / "run.mjs").write_text(MARKS)
            nobody, api = f"ws://127.0.0.1:{free_port()}/", f"http://127.0.0.1:{process.port('api')}"
            program = Program([node(), str(tmp_path / "run.mjs"), nobody, api], token("marks"))
            stack.callback(program.end)
            shows(program, state="live", rows=rows)
            return process, program

        yield started


def limited(process: Daemon) -> float:
    return sum(value for name, value in process.metrics().items() if name.startswith("api_limited"))


def test_marks_beyond_the_limit_get_through_on_the_same_stream(marking: Marking) -> None:
    process, program = marking(12, {"limits": {"requests_per_user": 2.0, "requests_per_user_burst": 2}})
    for number in range(10):
        program.do({"do": "read", "photos": [str(number)]})
        time.sleep(0.05)
    program.do({"do": "seen"})
    shows(program, unread=2)
    wait_until(lambda: program.shown["seen"] >= 12, 10, lambda: str(program.shown))
    assert limited(process) >= 1
    assert program.shown["states"].count("live") == 1
    assert program.shown["refused"] == []


def test_a_mark_that_is_refused_for_good_is_told_and_forgotten(marking: Marking) -> None:
    listen = f"tcp:{free_port()}:interface=127.0.0.1"  # which it keeps when it starts again
    process, program = marking(60, {"api": {"listen": listen, "body_bytes": 1024}})
    program.do({"do": "read_all"})
    wait_until(lambda: bool(program.shown["refused"]), 10, lambda: str(program.shown))
    (refusal,) = program.shown["refused"]
    assert refusal["code"] == 4510
    assert "1024" in refusal["reason"]
    process.kill()
    shows(program, state="waiting")
    process.start()
    shows(program, state="live")
    program.do({"do": "read", "photos": ["0", "1", "2"]})
    shows(program, unread=57, refused=[refusal])


def test_a_mark_that_waits_does_not_outlive_the_client(marking: Marking) -> None:
    process, program = marking(1, {"limits": {"requests_per_user": 0.1, "requests_per_user_burst": 1}})
    program.do({"do": "seen"})
    wait_until(lambda: limited(process) >= 1, 10, lambda: str(program.shown))
    time.sleep(0.2)
    program.do({"do": "close"})
    wait_until(lambda: not program.running, 4, lambda: "it runs on")  # not as long as it was told to wait
