"""What the documentation says is held against the code: links, names, numbers, examples, and both clients."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest
import yaml  # type: ignore[import-untyped, unused-ignore]

from notifier import config
from notifier.cli.main import COMMANDS
from notifier.core import payload
from notifier.core import session as sessions
from notifier.core.identity import relation
from notifier.core.inbox import Bell, Joined, Place
from notifier.core.intake import Intake
from notifier.core.lanes import Lane
from notifier.core.model import Event
from notifier.core.session import LIVE, Close, Send, Session, Start
from notifier.edge.embedded import free_port
from notifier.edge.redis import PARTS
from notifier.metrics import CLOSE_CODES, Metrics
from notifier.sending import labels
from tests.client import token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey, missing

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md"), *ROOT.glob("bench/*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
Message = dict[str, Any]


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return FENCE.sub("", text_of(page))


def code(page: Path, language: str) -> list[str]:
    return [body for named, body in FENCE.findall(text_of(page)) if named == language]


# -- links


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        slug = plain.strip().replace(" ", "-")
        again = found[slug] = found.get(slug, -1) + 1
        if again:
            found[f"{slug}-{again}"] = 0
    return set(found)


def dead_links(page: Path) -> list[str]:
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            found.append(f"{target}: no such file")
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            found.append(f"{target}: no such heading")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    assert dead_links(page) == []


def test_a_dead_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` c\n[x](gone.md) [y](#a-b-c) [z](#a-b) [w](https://example.com)\n```\n[in code](gone2.md)\n```\n"
    )
    assert dead_links(page) == ["gone.md: no such file", "#a-b: no such heading"]


def test_every_page_of_docs_is_in_the_index_and_in_the_readme() -> None:
    index, readme = text_of(DOCS / "index.md"), text_of(ROOT / "README.md")
    for page in DOCS.glob("*.md"):
        if page.name != "index.md":
            assert f"]({page.name})" in index
            assert f"](docs/{page.name})" in readme


# -- names


def test_make_commands_in_the_readme_exist() -> None:
    targets = set(re.findall(r"^(\w+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    used = set(re.findall(r"\bmake (\w+)", "\n".join(code(ROOT / "README.md", "sh"))))
    assert {"demo", "test"} <= used <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_notifier_commands_in_code_exist(page: Path) -> None:
    lines = "\n".join(code(page, "sh"))
    used = set(re.findall(r"(?:^|[|;&(] *|bin/)notifier ([a-z]+)\b", lines, re.MULTILINE))
    assert used <= set(COMMANDS)


def test_metric_names_exist() -> None:
    metrics = Metrics(labels([Lane("an-app", "apns")]))
    samples = set(re.findall(r"^(notifier_\w+)", metrics.render().decode(), re.MULTILINE))
    samples |= {re.sub(r"_(bucket|sum|count)$", "", name) for name in samples}
    for page in PAGES:
        named = set(re.findall(r"\b(notifier_[a-z_]+)\b(?!\.py)", text_of(page))) - {"notifier_client"}
        assert named <= samples, page.name


def test_the_house_in_the_architecture_is_the_one_that_stands() -> None:
    page = text_of(DOCS / "architecture.md")
    house = page[page.index("## The house") : page.index("## The path")]
    names = set(re.findall(r"\b([a-z_]+\.py)\b", house))
    there = {path.name for path in ROOT.glob("notifier/**/*.py")} | {"notifier_plugin.py", "test_house.py"}
    assert names <= there
    core = {path.name for path in ROOT.glob("notifier/core/*.py")} - {"__init__.py"}
    assert core <= names
    moves = set(re.findall(r"^\| `(\w+)\.lua` \|", page, re.MULTILINE))
    scripts = {path.stem for path in ROOT.glob("notifier/edge/lua/*.lua")}
    assert moves == scripts - {part for parts in PARTS.values() for part in parts}


def test_files_named_in_the_path_of_an_event_exist() -> None:
    page = text_of(DOCS / "architecture.md")
    for name in re.findall(r"`((?:core|edge)/[\w/]+\.(?:py|lua))`", page):
        assert (ROOT / "notifier" / name).is_file(), name


def test_scripts_use_the_keys_that_the_architecture_names() -> None:
    """Every key or channel that a script or core/keys.py makes stands in the tables of the page."""
    page = text_of(DOCS / "architecture.md")
    scripts = "\n".join(text_of(path) for path in ROOT.glob("notifier/edge/lua/*.lua"))
    made = set(re.findall(r"'([a-z]+):'", scripts)) - {"n"}
    made |= set(re.findall(r'return f"([a-z]+):', text_of(ROOT / "notifier/core/keys.py")))
    missing_ = {kind for kind in made if f"`{kind}:" not in page}
    assert made
    assert missing_ == set()


# -- numbers


def defaults() -> dict[str, Any]:
    """Every setting's default by path, as `limits.window`."""
    tree = config.Config()
    sections = {name: getattr(tree, name) for name in tree.__struct_fields__}
    return {
        f"{section}.{name}": getattr(values, name)
        for section, values in sections.items()
        for name in getattr(values, "__struct_fields__", ())
    }


LIMITS = [
    ("time to finish the handshake", ["websocket.handshake_seconds"], "{:g} s"),
    ("time to authenticate", ["websocket.auth_seconds"], "{:g} s"),
    ("unacknowledged notifications", ["limits.window"], "{}"),
    ("fragments of a message", ["limits.fragments"], "{}"),
    ("messages", ["limits.messages_per_second", "limits.messages_burst"], "{:g} a second, {} at once"),
    ("connections of one person, per process", ["limits.per_user"], "{}"),
    (
        "connections of one address (IPv6: one /64), per process",
        ["limits.per_address", "limits.per_address_rate"],
        "{}, and {:g} new ones a second",
    ),
]


@pytest.mark.parametrize(("row", "settings", "form"), LIMITS, ids=lambda value: str(value)[:20])
def test_limits_are_the_defaults(row: str, settings: list[str], form: str) -> None:
    line = next(line for line in text_of(DOCS / "websocket.md").splitlines() if line.startswith(f"| {row} |"))
    values = [defaults()[name] for name in settings]
    assert line.split("|")[2].strip().startswith(form.format(*values))


def test_sizes_in_limits_are_the_defaults() -> None:
    page, limits = text_of(DOCS / "websocket.md"), config.Limits()
    assert f"{limits.message_bytes >> 10} KiB; {limits.unauthenticated_bytes >> 10} KiB until" in page
    assert f"| size of the handshake | {limits.header_bytes >> 10} KiB |" in page
    assert f"| bytes unsent | {limits.unsent_bytes >> 10} KiB |" in page
    assert f"at most {sessions.READ_IDS}" in page


# -- close codes

OURS = {
    value
    for name, value in vars(sessions).items()
    if name.isupper() and isinstance(value, int) and value >= 4000
}


def test_every_close_code_is_documented_and_no_other() -> None:
    page, description = text_of(DOCS / "websocket.md"), asyncapi()
    table = dict(re.findall(r"^\| (4\d{3}) \| (yes|no) \|", page, re.MULTILINE))
    declared = description["channels"]["inbox"]["x-close-codes"]
    assert len(OURS) > 10
    assert set(map(int, table)) == OURS
    assert set(map(int, declared)) == OURS
    assert set(description["components"]["schemas"]["CloseCode"]["enum"]) == OURS
    assert {str(code) for code in OURS} <= set(CLOSE_CODES)
    for number in OURS:
        comes_back = number < 4500
        assert table[str(number)] == ("yes" if comes_back else "no")
        assert declared[str(number)]["reconnect"] is comes_back


# -- the protocol's description


def asyncapi() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(text_of(DOCS / "asyncapi.yaml"))
    return found


@dataclasses.dataclass(frozen=True)
class Schemas:
    """The messages of both directions, by `type`. An AsyncAPI schema is a superset of JSON Schema draft 7."""

    document: dict[str, Any]

    def messages(self, operation: str) -> dict[str, dict[str, Any]]:
        """type -> schema, of `hear` (from the client) or `tell` (from the server)."""
        found = {}
        for reference in self.document["operations"][operation]["messages"]:
            message = self._at(self._at(reference["$ref"])["$ref"])
            schema = self._at(message["payload"]["$ref"])
            found[schema["properties"]["type"]["const"]] = schema
        return found

    def _at(self, reference: str) -> dict[str, Any]:
        place = self.document
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
        return place

    def faults(self, operation: str, message: Message) -> list[str]:
        """What is wrong with a message, members that are not described included."""
        schema = self.messages(operation).get(message.get("type", ""))
        if schema is None:
            return [f"{operation} has no type {message.get('type')!r}"]
        validator = jsonschema.Draft7Validator({**schema, "components": self.document["components"]})
        return [error.message for error in validator.iter_errors(message)] + [
            f"{path} is not described" for path in self._strange(schema, message)
        ]

    def _strange(self, schema: dict[str, Any], value: Any) -> Iterator[str]:
        schema = self._at(schema["$ref"]) if "$ref" in schema else schema
        if isinstance(value, dict):
            known = schema.get("properties", {})
            for name, member in value.items():
                if name not in known:
                    yield name
                else:
                    yield from self._strange(known[name], member)
        elif isinstance(value, list):
            for member in value:
                yield from self._strange(schema.get("items", {}), member)


@pytest.fixture(scope="module")
def schemas() -> Schemas:
    return Schemas(asyncapi())


NOW = 1_795_336_265_903
FULL = {
    "type": "comment", "id": "c-1", "time": "2026-11-22T08:31:05.000Z", "to": ["7"], "text": 'He said "hé" \U0001f600',
    "actor": {"id": "42", "name": "ana", "image": "/u/42.jpg"},
    "object": {"type": "photo", "id": "99", "url": "/p/99", "image": "https://cdn.example.com/p/99.jpg"},
}  # fmt: skip
LEAST = {"type": "follow", "actor": {"id": "43"}, "to": ["7"]}


def record(event: Message, read: str = "0") -> str:
    """The stored record that handover makes of an event."""
    intake = Intake(("follow", "like", "comment"), 86_400_000, 300_000, 16_384, 1_000)
    found = intake.decode(json.dumps(event).encode(), f"{NOW}-0")
    assert isinstance(found, Event)
    return f"1n{read} {found.time} {relation(found)} {found.id} {payload.body(found).decode()}"


RECORDS = (
    (2, record(FULL, "1")),
    (3, record(LEAST)),
    (4, "1t0 1795336265903 rel x:1795336265903-0 "),
    (5, "1x0 1795336265903 rel c-9 "),
    (6, "1s0 1795336265903 - \x01seen 3"),
    (7, "1r0 1795336265903 - \x01read c-1 x:1795336265903-0"),
    (8, "1r0 1795336265903 - \x01read "),
)


def captured() -> list[Message]:
    """Every message that the server can send, made by the code that sends them."""
    texts: list[bytes] = []
    place = sessions.start("1.a", 1)
    assert isinstance(place, Start)
    session = Session("7", place, 256)
    session.want(100)
    texts += session.joined(Joined("resync", NOW, "6e0ee601a2f91811", 8, 1, 3, 1, NOW, False, RECORDS))
    assert session.state == LIVE
    for at, (_, line) in enumerate(RECORDS, 9):
        bell = Bell("7", NOW, "6e0ee601a2f91811", at, 1, 1, NOW, line)
        assert session.hear(bell.birth, bell.run, bell.seq, line[1] == "n") == sessions.SEND
        texts.append(payload.change(bell.seq, bell.record, bell.unread, bell.floor))
    for said in (b'{"type":"ping"}', b'{"type":"typing"}'):
        (effect,) = session.received(said)
        assert isinstance(effect, Send)
        texts.append(effect.text)
    (effect,) = session.received(b'{"type":"ack"}')
    assert isinstance(effect, Close)
    texts += [payload.error(effect.code, effect.reason), payload.drain(780), payload.reauth(NOW // 1000)]
    return [json.loads(text) for text in texts]


def test_what_the_server_sends_is_what_the_description_says(schemas: Schemas) -> None:
    messages = captured()
    assert {message["type"] for message in messages} == set(schemas.messages("tell"))
    for message in messages:
        assert schemas.faults("tell", message) == [], message


def test_the_description_refuses_what_the_server_never_sends(schemas: Schemas) -> None:
    for message in captured():
        for name in message:
            fewer = {key: value for key, value in message.items() if key != name}
            if name not in ("object", "text"):
                assert schemas.faults("tell", fewer), f"{message['type']} without {name}"
        assert schemas.faults("tell", {**message, "more": 1}) == ["more is not described"]


GOOD = [
    {"type": "auth", "token": "a.b.c"}, {"type": "auth", "token": "a.b.c", "after": 0},
    {"type": "auth", "token": "a.b.c", "epoch": "1.a", "after": 3}, {"type": "ack", "seq": 3},
    {"type": "ack", "seq": 3, "active": True}, {"type": "seen", "seq": 1}, {"type": "read", "seq": 2},
    {"type": "read", "ids": ["c-1"]}, {"type": "ping"},
]  # fmt: skip
BAD: list[Message] = [
    {}, {"type": "auth"}, {"type": "auth", "token": "a.b.c", "epoch": "1.a"},
    {"type": "auth", "token": "a.b.c", "epoch": "1.a", "after": "3"}, {"type": "auth", "token": "a.b.c", "after": -1},
    {"type": "ack"}, {"type": "ack", "seq": "3"}, {"type": "ack", "seq": 3, "active": 1}, {"type": "seen"},
    {"type": "read"}, {"type": "read", "seq": 2, "ids": ["c-1"]}, {"type": "read", "ids": "c-1"},
    {"type": "read", "ids": ["c"] * 401},
]  # fmt: skip


def refused(message: Message) -> bool:
    effects = Session("7", None, 256).received(json.dumps(message).encode())
    return any(isinstance(effect, Close) for effect in effects)


@pytest.mark.parametrize("message", GOOD, ids=str)
def test_description_and_server_accept_alike(schemas: Schemas, message: Message) -> None:
    assert schemas.faults("hear", message) == []
    assert not refused(message)


@pytest.mark.parametrize("message", BAD, ids=lambda message: str(message)[:60])
def test_description_and_server_refuse_alike(schemas: Schemas, message: Message) -> None:
    assert schemas.faults("hear", message) != []
    assert refused(message)


def test_the_description_knows_every_message_of_a_client(schemas: Schemas) -> None:
    assert set(schemas.messages("hear")) == sessions._KNOWN


PARSE = """
import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
const [folder, ...files] = process.argv.slice(2);
const {Parser} = createRequire(folder + "/")("@asyncapi/parser");
for (const file of files) {
  const {document, diagnostics} = await new Parser().parse(readFileSync(file, "utf8"));
  const errors = diagnostics.filter(({severity}) => severity === 0).map(({path, message}) => `${path}: ${message}`);
  const messages = document?.allMessages().length ?? 0;
  console.log(JSON.stringify({version: document?.version(), messages, errors}));
}
"""


def test_the_official_parser_takes_the_description(tmp_path: Path) -> None:
    folder = os.environ.get("NOTIFIER_ASYNCAPI_DIR")
    if not folder:
        missing("@asyncapi/parser", "NOTIFIER_ASYNCAPI_DIR does not say where npm has put it (.ci/run does)")
    assert folder is not None
    script, broken = tmp_path / "parse.mjs", tmp_path / "broken.yaml"
    script.write_text(PARSE)
    broken.write_text(text_of(DOCS / "asyncapi.yaml").replace("action: send", "action: shout"))
    done = subprocess.run(
        [node(), script, folder, DOCS / "asyncapi.yaml", broken],
        capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    good, bad = map(json.loads, done.stdout.splitlines())
    assert good == {"version": "3.0.0", "messages": 17, "errors": []}
    assert bad["errors"]


def node() -> str:
    found = shutil.which("node")
    if found is None:
        missing("node", "not in PATH")
    assert found is not None
    return found


# -- the examples


def examples() -> list[tuple[str, Message]]:
    """(`>` or `<`, message) of every transcript in websocket.md."""
    found = []
    for block in code(DOCS / "websocket.md", ""):
        for line in block.splitlines():
            if line.startswith("< close "):
                assert int(line.split()[2]) in OURS
                continue
            direction, _, message = line.partition(" ")
            assert direction in ("<", ">"), line
            found.append((direction, json.loads(message)))
    return found


def test_examples_are_valid_but_for_those_that_show_an_error(schemas: Schemas) -> None:
    said = examples()
    wrong = []
    for direction, message in said:
        if faults := schemas.faults("hear" if direction == ">" else "tell", message):
            wrong.append((direction, message["type"], faults))
    assert [entry[:2] for entry in wrong] == [(">", "typing"), (">", "ack")], wrong
    assert {m["type"] for d, m in said if d == "<"} == set(schemas.messages("tell"))
    assert {m["type"] for d, m in said if d == ">"} - {"typing"} == set(schemas.messages("hear")) - {"seen"}


# -- the clients


def inbox_of_the_page() -> Any:
    """The class of the Python client that keeps list and place, as the page prints it."""
    scope: dict[str, Any] = {}
    exec(code(DOCS / "websocket.md", "python")[0], scope)
    return scope["Inbox"]()


def change(seq: int, kind: str = "notification", floor: int = 0, **members: Any) -> Message:
    return {"type": kind, "seq": seq, "unread": 0, "floor": floor, **members}


def test_the_list_follows_rows_floor_and_marks() -> None:
    inbox = inbox_of_the_page()
    assert inbox.where() == {"after": 0}
    for seq, name in enumerate("abcd", 1):
        inbox.take(change(seq, id=name, read=False))
    inbox.take({"type": "upto", "epoch": "1.a", "seq": 4, "seen": 0, "floor": 0, "unread": 4})
    inbox.take(change(5, "read", ids=["b", "gone"]))
    inbox.take(change(6, "retract", id="c"))
    inbox.take(change(7, id="e", floor=1, read=False))
    inbox.take(change(8, "deleted", ids=["d"], floor=1))
    assert {key: row["read"] for key, row in inbox.rows.items()} == {"b": True, "e": False}
    assert inbox.where() == {"epoch": "1.a", "after": 8}


def test_the_place_moves_with_upto_and_with_the_next_change_only() -> None:
    inbox = inbox_of_the_page()
    inbox.take({"type": "upto", "epoch": "1.a", "seq": 4, "seen": 0, "floor": 0, "unread": 4})
    assert inbox.where() == {"epoch": "1.a", "after": 4}
    inbox.take({"type": "ready", "epoch": "1.b", "seq": 9, "unread": 1})
    assert inbox.where() == {"epoch": "1.a", "after": 4}  # a resume that brought nothing
    inbox.take(change(5, id="a", read=False))
    assert inbox.where() == {"after": 0}  # a resume that was not completed: what it brought may be lost
    inbox.take({"type": "upto", "epoch": "1.b", "seq": 5, "seen": 0, "floor": 0, "unread": 1})
    inbox.take(change(6, id="b", read=False))
    inbox.take(change(8, id="c", read=False))
    assert inbox.place == {"epoch": "1.b", "after": 6}  # the server is catching up; upto follows
    inbox.take({"type": "resync", "reason": ""})
    inbox.take(change(2, id="d", read=False))
    assert inbox.where() == {"after": 0}
    assert inbox.rows == {}


SHIM = """
import {request} from "node:http";
import {randomBytes} from "node:crypto";
// What Node.js has from version 22 on, as far as the client needs it.
class Plain {
  constructor(url, protocol) {
    Object.assign(this, {readyState: 0, bytes: Buffer.alloc(0)});
    const headers = {Connection: "Upgrade", Upgrade: "websocket", "Sec-WebSocket-Version": 13,
      "Sec-WebSocket-Key": randomBytes(16).toString("base64"), "Sec-WebSocket-Protocol": protocol};
    const ask = request(url.replace("ws:", "http:"), {headers});
    ask.on("error", () => this.over(1006, "")).on("response", () => this.over(1006, ""));
    ask.on("upgrade", (_, socket, head) => {
      Object.assign(this, {socket, readyState: 1});
      socket.on("data", (data) => this.take(data)).on("error", () => {}).on("close", () => this.over(1006, ""));
      this.onopen();
      this.take(head);
    }).end();
  }
  take(data) {
    this.bytes = Buffer.concat([this.bytes, data]);
    for (;;) {
      const {bytes} = this, long = (bytes[1] & 127) === 126, at = long ? 4 : 2;
      if (bytes.length < at) return;
      const size = long ? bytes.readUInt16BE(2) : bytes[1] & 127;
      if (bytes.length < at + size) return;
      const body = bytes.subarray(at, at + size);
      this.bytes = bytes.subarray(at + size);
      if ((bytes[0] & 15) === 1) this.onmessage({data: body.toString()});
      if ((bytes[0] & 15) === 8) return this.over(body.readUInt16BE(0), body.subarray(2).toString());
    }
  }
  send(text) {
    const body = Buffer.from(text), size = body.length;
    const head = size < 126 ? [0x81, 0x80 | size] : [0x81, 0xfe, size >> 8, size & 255];
    this.socket.write(Buffer.concat([Buffer.from([...head, 0, 0, 0, 0]), body]));
  }
  over(code, reason) {
    if (this.readyState === 3) return;
    this.readyState = 3;
    this.socket?.destroy();
    this.onclose({code, reason});
  }
}
globalThis.WebSocket ??= Plain;
const {readFileSync} = await import("node:fs");
const {follow} = await import("./client.mjs");
const [url, file] = process.argv.slice(2);
const show = (rows, unread) => console.log(JSON.stringify({rows: rows.map((row) => row.object.id), unread}));
follow(url, async () => readFileSync(file, "utf8").trim(), show);
"""


@dataclasses.dataclass
class Stage:
    """A daemon at one port, and a client of the page beside it; what the client prints goes to a file."""

    folder: Path
    server: Valkey

    def __post_init__(self) -> None:
        self.port = free_port()
        listen = f"tcp:{self.port}:interface=127.0.0.1"
        self.daemon = Daemon(self.folder / "daemon", self.server.url, {"websocket": {"listen": listen}})
        self.tokens = self.folder / "token"
        self.tokens.write_text(token("7"))
        self.out = self.folder / "out"

    def client(self, *command: str | Path) -> subprocess.Popen[bytes]:
        with self.out.open("wb") as out:
            return subprocess.Popen(
                [*command, f"ws://127.0.0.1:{self.port}/v1/websocket", self.tokens],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip

    def like(self, photo: str) -> None:
        event = {"type": "like", "actor": {"id": "42"}, "to": ["7"], "object": {"type": "photo", "id": photo}}
        self.server.call("XADD", "notifier:events", "*", "event", json.dumps(event))

    def printed(self) -> list[str]:
        text = self.out.read_text()
        return text[: text.rfind("\n") + 1].splitlines()

    def shows(self, rows: Callable[[], list[str]], *wanted: str) -> None:
        wait_until(
            lambda: rows() == list(wanted), 15, lambda: f"wanted {wanted}, printed:\n{self.out.read_text()}"
        )

    def play(self, rows: Callable[[], list[str]]) -> None:
        """History, a change, a restart with an event meanwhile, an inbox that is another one suddenly."""
        self.like("1")
        self.shows(rows, "1")
        self.like("2")
        self.shows(rows, "1", "2")
        self.daemon.stop()
        self.like("3")
        self.daemon.start()
        self.shows(rows, "1", "2", "3")
        self.server.call("DEL", "inbox:{0}:7")
        self.like("4")
        self.shows(rows, "4")


@pytest.fixture
def stage(tmp_path: Path, valkey: Valkey, redis_url: str) -> Iterator[Stage]:
    stage = Stage(tmp_path, valkey)
    with stage.daemon:
        yield stage


def test_the_python_client_follows_an_inbox_through_it_all(stage: Stage, schemas: Schemas) -> None:
    program = stage.folder / "client.py"
    program.write_text("\n".join(code(DOCS / "websocket.md", "python")))
    client = stage.client(sys.executable, program)

    def rows() -> list[str]:
        inbox = inbox_of_the_page()
        for line in stage.printed():
            inbox.take(json.loads(line))
        return [row["object"]["id"] for row in inbox.rows.values()]

    try:
        stage.play(rows)
        said = [json.loads(line) for line in stage.printed()]
        assert [message["type"] for message in said].count("ready") == 2
        assert [schemas.faults("tell", message) for message in said] == [[]] * len(said)
        assert {"ready", "notification", "upto", "drain", "resync"} <= {message["type"] for message in said}
        kinds = [message["type"] for message in said]
        again = kinds.index("drain") + 1
        assert kinds[again : again + 3] == ["ready", "notification", "upto"]  # only what was missed
        stage.server.call("SET", "revoked:{0}:7", int(time.time()) + 1, "EX", 60)
        stage.server.call("PUBLISH", "notifier:control", "revoke 7")
        assert client.wait(10) == 0
        assert "closed for good: 4509" in stage.out.read_text()
    finally:
        client.kill()
        client.wait()


def test_the_javascript_client_follows_an_inbox_through_it_all(stage: Stage) -> None:
    (stage.folder / "client.mjs").write_text("\n".join(code(DOCS / "websocket.md", "js")[1:2]))
    (stage.folder / "run.mjs").write_text(SHIM)
    client = stage.client(node(), "run.mjs")

    def last() -> Message:
        printed = stage.printed()
        found: Message = json.loads(printed[-1]) if printed else {"rows": []}
        return found

    try:
        stage.play(lambda: list(last()["rows"]))
        assert last() == {"rows": ["4"], "unread": 1}
    finally:
        client.kill()
        client.wait()


# -- what a place is on the wire


def test_the_epoch_in_the_examples_is_one_that_the_server_gives() -> None:
    epochs = {message["epoch"] for _, message in examples() if "epoch" in message}
    assert epochs
    for epoch in epochs:
        place = Place.parse(epoch, 1)
        assert place is not None
        assert place.epoch == epoch
