"""redis.conf and users.acl on real servers: the whole path under its user, and nothing beside it for anybody."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import hiredis
import pytest

from notifier.edge.embedded import free_port
from tests.cli.program import Program, Said
from tests.client import Socket, token
from tests.conf.shipped import Shipped
from tests.daemon import ROOT, Daemon, wait_until
from tests.servers import Kind, binary_of

CONF: Final = ROOT / "conf"
EDGE: Final = ROOT / "notifier/edge"
LUA: Final = EDGE / "lua"
CLI: Final = ROOT / "notifier/cli"
ROLES: Final = ("producer", "daemon", "operator", "admin")
HOLE: Final = "#SET-SHA-256-OF-THE-PASSWORD"
EVENT: Final = '{"type":"like","actor":{"id":"42"},"to":["7"]}'
# These any connection may say: they need no permission, and give none.
FREE: Final = {"auth", "hello", "quit", "reset"}


class Guarded(Shipped):
    """A server with the redis.conf and users.acl that we ship; `passwords` by role. A context manager.

    filled_in: the folder holds a users.acl with passwords already
    """

    def __init__(self, folder: Path, kind: Kind, *, filled_in: bool = False) -> None:
        super().__init__(folder)
        self.binary = binary_of(kind)
        self.passwords = {role: f"password of {role}" for role in ROLES}
        self.port = free_port()
        self._acl = folder / "users.acl"
        if not filled_in:
            self._acl.write_text(self._filled_in())

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def _filled_in(self) -> str:
        lines = (CONF / "users.acl").read_text().splitlines()
        for role, password in self.passwords.items():
            digest = hashlib.sha256(password.encode()).hexdigest()
            lines = [line.replace(HOLE, f"#{digest}") if f"user {role} " in line else line for line in lines]
        return "\n".join(lines) + "\n"

    def command(self) -> list[str | Path]:
        return self.started_with(self._acl)

    def started_with(self, acl: Path) -> list[str | Path]:
        here = {"port": str(self.port), "bind": "127.0.0.1", "dir": str(self.folder), "aclfile": str(acl)}
        arguments = [word for name, value in here.items() for word in (f"--{name}", value)]
        return [self.binary, CONF / "redis.conf", *arguments]

    def answers(self) -> bool:
        try:
            return bool(self.call("admin", "PING") == "PONG")
        except OSError:
            return False

    def call(self, role: str, *command: str) -> Any:
        """One command as somebody; text is decoded. Raises hiredis.ReplyError."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as link:
            _answer(link, ("AUTH", role, self.passwords[role]))
            return _answer(link, command)

    def refused(self) -> list[str]:
        """What users tried and may not, as ACL LOG has it."""
        rows = [dict(zip(row[::2], row[1::2], strict=True)) for row in self.call("admin", "ACL", "LOG")]
        return [f"{row['username']}: {row['reason']} {row['object']} ({row['context']})" for row in rows]

    def settings(self, folder: Path, role: str) -> dict[str, object]:
        """The section [redis] of somebody's configuration."""
        password = folder / f"{role}.password"
        password.write_text(self.passwords[role])
        password.chmod(0o600)
        return {"url": self.url, "username": role, "password_file": str(password)}


def _answer(link: socket.socket, command: tuple[str, ...]) -> Any:
    reader = hiredis.Reader(encoding="utf-8")
    link.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub is wrong
    while (reply := reader.gets()) is False:
        reader.feed(link.recv(65536) or b"-ERR closed\r\n")
    if isinstance(reply, hiredis.ReplyError):
        raise reply
    return reply


@pytest.fixture(scope="module", params=["valkey", "redis"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with Guarded(tmp_path_factory.mktemp(f"guarded-{request.param}"), request.param) as server:
        yield server


@pytest.fixture
def empty(guarded: Guarded) -> Guarded:
    """The server, without data and without memories of refusals."""
    guarded.call("admin", "FLUSHALL")
    guarded.call("admin", "SCRIPT", "FLUSH")
    guarded.call("admin", "ACL", "LOG", "RESET")
    return guarded


# -- the configuration


def test_it_is_set_as_the_promise_needs(guarded: Guarded) -> None:
    wanted = {
        "appendonly": "yes", "appendfsync": "everysec", "no-appendfsync-on-rewrite": "no", "save": "",
        "maxmemory-policy": "noeviction", "set-max-intset-entries": "512",
    }  # fmt: skip
    found = {name: guarded.call("admin", "CONFIG", "GET", name)[1] for name in wanted}
    assert found == wanted
    limits = guarded.call("admin", "CONFIG", "GET", "client-output-buffer-limit")[1]
    assert re.search(r"pubsub (\d+) (\d+) 30", limits)
    assert guarded.call("admin", "CONFIG", "GET", "maxmemory")[1] != "0"


def test_a_copy_without_passwords_does_not_start(guarded: Guarded, tmp_path: Path) -> None:
    other = Guarded(tmp_path, "valkey")
    other.binary = guarded.binary
    assert other.launch(other.started_with(CONF / "users.acl")).wait(10) != 0
    assert "Aborting" in (said := other.said()) and "ACL errors" in said


def test_nobody_gets_in_without_a_name(guarded: Guarded) -> None:
    with socket.create_connection(("127.0.0.1", guarded.port), timeout=20) as link:
        link.sendall(b"PING\r\n")
        assert link.recv(1024).startswith(b"-NOAUTH")


def test_the_recipe_for_passwords_works(tmp_path: Path, guarded: Guarded) -> None:
    """The first block of docs/operations.md, but for what only root may do."""
    recipe = (ROOT / "docs/operations.md").read_text().split("```sh\n")[1].split("chmod")[0]
    shutil.copy(CONF / "users.acl", tmp_path)
    script = recipe.replace("/etc/redis", str(tmp_path))
    subprocess.run(["bash", "-euc", script], check=True, timeout=20)
    other = Guarded(tmp_path, "valkey", filled_in=True)
    other.binary = guarded.binary
    other.passwords = {role: (tmp_path / f"{role}.password").read_text() for role in ROLES}
    with other:
        assert all(other.call(role, "PING") == "PONG" for role in ROLES)


# -- the daemon


@pytest.mark.parametrize("shards", [1, 2])
def test_the_daemon_goes_the_whole_path_under_its_user(empty: Guarded, tmp_path: Path, shards: int) -> None:
    settings = {"redis": {**empty.settings(tmp_path, "daemon"), "shards": shards}}
    # Before it starts: so that it has to claim, and to bury.
    empty.call("producer", "XADD", "notifier:events", "*", "event", EVENT)
    empty.call("producer", "XADD", "notifier:events", "*", "event", "no event")
    with Daemon(tmp_path, empty.url, settings) as daemon:
        with Socket(daemon.port("websocket")) as client:
            client.send({"type": "auth", "token": token("7"), "after": 0})
            row = client.until("notification")
            place = client.until("upto")
            empty.call("producer", "XADD", "notifier:events", "*", "event", EVENT.replace("42", "43"))
            assert client.until("notification")["actors"] == [{"id": "43"}]
            client.send({"type": "seen", "seq": place["seq"]})
            client.until("seen")
            inbox(daemon, "GET", "/v1/sync")
            assert inbox(daemon, "POST", "/v1/inbox/read", {"ids": [row["id"]]})["changed"] == 1
            assert inbox(daemon, "DELETE", f"/v1/inbox/{row['id']}")["changed"] == 1
            client.until("deleted")
        assert len(inbox(daemon, "GET", "/v1/inbox")["rows"]) == 1
        wait_until(lambda: daemon.get("/readyz")[0] == 200, 10, lambda: daemon.get("/readyz")[1].decode())
        assert daemon.metrics()['dead_letters_total{reason="not_json"}'] == 1
        time.sleep(1.2)  # once more around: slots, depths, sweeps
        daemon.stop()
    assert empty.refused() == []


@pytest.mark.parametrize("guarded", ["valkey"], indirect=True)
@pytest.mark.parametrize("tag", ["{1}", "{notifier:events}"])
def test_a_canary_that_is_stuck_is_looked_for_under_the_same_user(
    empty: Guarded, tmp_path: Path, tag: str
) -> None:
    settings = {"redis": {**empty.settings(tmp_path, "daemon"), "shards": 2}}
    with Daemon(tmp_path, empty.url, settings) as daemon:

        def found() -> bool:
            empty.call("admin", "SET", f"lease:{tag}", "sleeper", "PX", "300")
            return b"which another process reads (sleeper)" in daemon.get("/readyz")[1]

        wait_until(found, 30, lambda: daemon.get("/readyz")[1].decode())
    assert empty.refused() == []


def inbox(daemon: Daemon, method: str, path: str, content: object = None) -> Any:
    """A call of the API as person 7."""
    fields = {"Authorization": f"Bearer {token('7')}", "Content-Type": "application/json"}
    data = None if content is None else json.dumps(content).encode()
    url = f"http://127.0.0.1:{daemon.port('api')}{path}"
    with urllib.request.urlopen(
        urllib.request.Request(url, data, fields, method=method), timeout=5
    ) as answer:
        return json.load(answer)


# -- producers


NOT_FOR_PRODUCERS: Final = (
    "XADD notifier:other * event x", "XADD inbox:{0}:7 * event x", "GET notifier:setup", "GET inbox:{0}:7",
    "GET notifier:events", "SET notifier:pressure 1", "DEL notifier:pressure", "XLEN notifier:events",
    "XRANGE notifier:events - +", "XREAD STREAMS notifier:events 0", "XDEL notifier:events 1-1",
    "XTRIM notifier:events MAXLEN 0", "DEL notifier:events", "XGROUP DESTROY notifier:events notifier",
    "XINFO STREAM notifier:events", "PUBLISH notifier:control revoke", "SUBSCRIBE notifier:control",
    "PSUBSCRIBE *", "EVAL return 0", "SCRIPT FLUSH", "FUNCTION LIST", "KEYS *", "SCAN 0", "DBSIZE", "INFO",
    "SELECT 1", "CONFIG GET dir", "CLIENT LIST", "ACL WHOAMI", "MONITOR", "SAVE", "FLUSHALL",
    "SWAPDB 0 1", "MULTI", "COPY notifier:pressure notifier:x", "RENAME notifier:events x", "SHUTDOWN",
)  # fmt: skip


def test_a_producer_appends_and_sees_whether_to_wait(empty: Guarded) -> None:
    assert empty.call("producer", "XADD", "notifier:events", "*", "event", EVENT)
    assert empty.call("producer", "GET", "notifier:pressure") is None
    empty.call("daemon", "SET", "notifier:pressure", "5", "EX", "10")
    assert empty.call("producer", "GET", "notifier:pressure") == "5"


@pytest.mark.parametrize("command", NOT_FOR_PRODUCERS)
def test_a_producer_can_do_nothing_else(guarded: Guarded, command: str) -> None:
    with pytest.raises(hiredis.ReplyError, match=r"^NOPERM"):
        guarded.call("producer", *command.split(" "))


def test_a_producer_is_allowed_no_other_command(guarded: Guarded) -> None:
    rules = dict(zip(*[iter(guarded.call("admin", "ACL", "GETUSER", "producer"))] * 2, strict=True))
    assert set(rules["commands"].split()) == {"-@all", "+xadd", "+get", "+exists", "+ping"}
    assert set(rules["keys"].split()) == {"%W~notifier:events", "%R~notifier:pressure"}
    assert (rules["channels"], rules["selectors"]) == ("", [])


def test_what_no_acl_can_hold_back_is_as_the_page_on_security_says(empty: Guarded) -> None:
    """Arguments are nobody's business to an ACL. Should a server learn it one day, users.acl can say so."""
    empty.call("producer", "XADD", "notifier:events", "*", "event", EVENT)
    empty.call("producer", "XADD", "notifier:events", "MAXLEN", "0", "*", "event", EVENT)
    assert empty.call("admin", "XLEN", "notifier:events") == 0
    assert "MAXLEN 0" in (ROOT / "docs/security.md").read_text()


# -- the command line


def program(server: Guarded, folder: Path) -> Program:
    """The command line in a folder with a configuration for each role that uses it."""
    for role in ("producer", "operator"):
        lines = (f"{name} = {json.dumps(value)}\n" for name, value in server.settings(folder, role).items())
        (folder / f"{role}.toml").write_text("[redis]\n" + "".join(lines))
    return Program(folder)


def well(said: Said) -> str:
    assert said.code == 0, said.err
    return said.out


@pytest.mark.parametrize("guarded", ["valkey"], indirect=True)
def test_commands_work_under_their_users(empty: Guarded, tmp_path: Path) -> None:
    notifier, as_operator = program(empty, tmp_path), ("--config", "operator.toml")
    publish = ("publish", "--config", "producer.toml", "--force")
    well(notifier.run(*publish, given=b"no event\nnone either\n"))
    settings = {"redis": empty.settings(tmp_path, "daemon")}
    with Daemon(tmp_path, empty.url, settings) as daemon, Socket(daemon.port("websocket")) as client:
        client.auth("7")
        rows = well(notifier.run("dlq", "ls", "--json", *as_operator)).splitlines()
        first, second = (json.loads(row)["id"] for row in rows)
        assert "no" in well(notifier.run("dlq", "show", "--raw", first, *as_operator))
        well(notifier.run("dlq", "retry", first, *as_operator))
        well(notifier.run("dlq", "drop", "--yes", second, *as_operator))
        well(notifier.run("publish", *as_operator, given=EVENT.encode()))
        assert client.until("notification")
        add = ("device", "add", "7", "--platform", "apns", "--app", "photos", *as_operator)
        for user in ("7", "8"):
            well(notifier.run(*add[:2], user, *add[3:], given=b"0a" * 32))
        assert well(notifier.run("device", "ls", "7", *as_operator)) == ""
        exported = well(notifier.run("device", "export", *as_operator))
        well(notifier.run("device", "import", "-", *as_operator, given=exported.encode()))
        (name, *_) = well(notifier.run("device", "ls", "8", *as_operator)).split()
        well(notifier.run("device", "rm", "8", name, *as_operator))
        well(notifier.run("revoke", "7", *as_operator))
        assert client.closing().code == 4509
    assert empty.refused() == []


# -- every permission is used, and every command is permitted


def granted(role: str) -> set[str]:
    line = next(
        line for line in (CONF / "users.acl").read_text().splitlines() if line.startswith(f"user {role} ")
    )
    return {word[1:] for word in line.split() if word.startswith("+")}


def spoken(paths: Iterable[Path], known: set[str]) -> set[str]:
    """The Redis commands in our code: first words of calls and of tuples, `command|subcommand` where there is one."""
    found = set()
    for path in paths:
        if path.suffix == ".lua":
            for first, second in re.findall(r"call\('([A-Z]+)'(?:, '([A-Z]+)')?", path.read_text()):
                nested = f"{first}|{second}".lower()
                found.add(nested if nested in known else first.lower())
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            words = (
                node.args if isinstance(node, ast.Call) else node.elts if isinstance(node, ast.Tuple) else []
            )
            texts = [str(each.value) if isinstance(each, ast.Constant) else "" for each in words[:2]]
            first, nested = (*texts, "")[0], "|".join(texts).lower()
            if first.isupper() and first.lower() in known:
                found.add(nested if nested in known else first.lower())
    return found - FREE


def commands(guarded: Guarded) -> set[str]:
    names = set(guarded.call("admin", "COMMAND", "LIST"))
    nested = {each for name in ("script", "xgroup", "xinfo") for each in names_below(guarded, name)}
    return {name.lower() for name in names | nested}


def names_below(guarded: Guarded, name: str) -> list[str]:
    return [sub[0] for sub in guarded.call("admin", "COMMAND", "INFO", name)[0][9]]


def test_the_daemon_has_what_it_uses_and_no_more(guarded: Guarded) -> None:
    others = {EDGE / "letters.py", EDGE / "embedded.py", LUA / "retry.lua"}
    paths = {*EDGE.glob("*.py"), *LUA.glob("*.lua"), ROOT / "notifier/service.py"} - others
    # Chosen by configuration: RedisLog's rules.publish; and what Lua calls by way of a variable.
    used = spoken(paths, commands(guarded)) | {"publish"}
    used -= {"scan"}  # devices are listed for the command line alone
    assert used == granted("daemon")


def test_the_operator_has_what_the_command_line_uses_and_no_more(guarded: Guarded) -> None:
    web = {CLI / "page_server.py", CLI / "probe.py"}  # their GET is that of HTTP
    scripts = {LUA / f"{name}.lua" for name in ("retry", "device", "devices")}
    paths = {*CLI.glob("*.py"), EDGE / "letters.py", *scripts} - web
    devices = {"hgetall", "mget", "scan"}  # RedisDevices speaks them
    lanes = {"smembers", "time", "xlen", "xrange"}  # and RedisLanes these
    # select: txredisapi's, for a database other than 0
    used = spoken(paths, commands(guarded)) | devices | lanes | {"select"}
    assert used == granted("operator")
