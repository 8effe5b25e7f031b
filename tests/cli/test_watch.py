"""`notifier watch` and `notifier revoke` beside a real server."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from notifier.cli.main import notifier as group
from notifier.core.keys import revoked
from notifier.edge.embedded import free_port
from notifier.edge.operator_key import make_operator_key
from tests.cli.program import Program
from tests.client import token
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey
from tests.stored import state_of


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("watched"), aof=False) as server:
        yield server


@pytest.fixture(scope="module")
def daemon(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    # a port that stays the same over a restart
    listen = f"tcp:{free_port()}:interface=127.0.0.1"
    with Daemon(tmp_path_factory.mktemp("daemon"), server.url, {"websocket": {"listen": listen}}) as daemon:
        yield daemon


@pytest.fixture
def beside(notifier: Program, daemon: Daemon, server: Valkey) -> Program:
    """The program, where a demo seems to run."""
    if not daemon.running:
        daemon.start()
    folder = notifier.folder / ".demo"
    folder.mkdir()
    url = f"ws://127.0.0.1:{daemon.port('websocket')}/v1/websocket"
    (folder / "endpoints.json").write_text(json.dumps({"redis": server.url, "websocket": url}))
    return notifier


def _publish(server: Valkey, user: str, *texts: str) -> None:
    for text in texts:
        event = {"type": "comment", "actor": {"id": "42", "name": "ana"}, "to": [user], "text": text}
        server.call("XADD", "notifier:events", "*", "event", json.dumps(event))


def _texts(out: str) -> list[str]:
    return [match[1] for match in re.finditer(r'"(\w+)"  \d+ unread$', out, re.MULTILINE)]


def test_what_is_published_is_printed_and_acknowledged(beside: Program, server: Valkey) -> None:
    arguments = ("watch", "ann", "--count", "2", "--timeout", "10")
    with beside.start(*arguments, environ={"NOTIFIER_TOKEN": token("ann")}) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"connected" in process.stderr.readline()
        _publish(server, "ann", "one", "two")
        assert process.wait(30) == 0
        assert _texts(process.stdout.read().decode()) == ["one", "two"]
    wait_until(lambda: state_of(server, "ann").ack == 2, 2)


def test_from_the_start_as_json(beside: Program, server: Valkey) -> None:
    _publish(server, "bea", "one")
    (beside.folder / "token").write_text(token("bea") + "\n")
    wait_until(lambda: server.call("EXISTS", "inbox:{0}:bea"), 5)
    said = beside.run(
        "watch", "bea", "--from-start", "--json", "--timeout", "0.7", "-q", "--token-file", "token"
    )
    assert (said.code, said.err) == (0, "")
    assert [json.loads(line)["type"] for line in said.out.splitlines()] == ["ready", "notification", "upto"]


def test_it_goes_on_where_it_was_after_a_restart(beside: Program, daemon: Daemon, server: Valkey) -> None:
    arguments = ("watch", "cem", "--count", "3", "--timeout", "15")
    with beside.start(*arguments, environ={"NOTIFIER_TOKEN": token("cem")}) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"connected" in process.stderr.readline()
        _publish(server, "cem", "one")
        assert b'"one"' in process.stdout.readline()
        wait_until(lambda: state_of(server, "cem").ack == 1, 2)  # and not only when it ends
        daemon.stop()
        _publish(server, "cem", "two", "three")
        daemon.start()
        assert process.wait(15) == 0
        assert _texts(process.stdout.read().decode()) == ["two", "three"]
        assert b"disconnected" in process.stderr.read()


def test_fewer_than_wanted_is_1(beside: Program) -> None:
    said = beside.run(
        "watch", "dan", "--count", "1", "--timeout", "0.5", environ={"NOTIFIER_TOKEN": token("dan")}
    )
    assert (said.code, said.out) == (1, "")
    assert "fewer than 1" in said.err


@pytest.mark.parametrize(("given", "code"), [("x.y.z", "4501"), (token("eve", -3600), "4001")])
def test_a_bad_token_is_1_and_final(beside: Program, given: str, code: str) -> None:
    said = beside.run("watch", "eve", environ={"NOTIFIER_TOKEN": given})
    assert said.code == 1
    assert f"closed with {code}" in said.err


def test_a_token_is_minted_with_the_key_of_the_demo(beside: Program) -> None:
    make_operator_key(beside.folder / ".demo/keys", "demo")
    said = beside.run(
        "watch", "eve"
    )  # this server does not know that key: it says so, and that is all that is wanted
    assert said.code == 1
    assert "4501" in said.err


def test_a_server_that_is_not_there(notifier: Program) -> None:
    said = notifier.run(
        "watch", "7", "--url", "ws://127.0.0.1:1/v1/websocket", environ={"NOTIFIER_TOKEN": "x"}
    )
    assert (said.code, said.out) == (3, "")
    assert "Connection refused" in said.err
    assert "Traceback" not in said.err


@pytest.mark.parametrize(
    ("arguments", "token", "code", "says"),
    [
        (["--url", "http://127.0.0.1/"], "x", 2, "is not ws://"),
        (["--url", "ws://127.0.0.1:port/"], "x", 2, "is not ws://"),
        (["--url", "ws://127.0.0.1:1/", "--token-file", "nothing"], "", 1, "--token-file nothing"),
        (["--url", "ws://127.0.0.1:1/"], "", 1, "NOTIFIER_TOKEN"),
        ([], "x", 3, "no demo here"),
    ],
)
def test_what_cannot_begin(
    arguments: list[str], token: str, code: int, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTIFIER_DEMO", raising=False)
    result = CliRunner(env={"NOTIFIER_TOKEN": token}).invoke(group, ["watch", "7", *arguments])
    assert (result.exit_code, result.stdout) == (code, "")
    assert says in result.stderr


def test_revoke_closes_and_voids(beside: Program, server: Valkey) -> None:
    environ = {"NOTIFIER_TOKEN": token("flo")}
    with beside.start("watch", "flo", environ=environ) as process:
        assert process.stderr is not None
        assert b"connected" in process.stderr.readline()
        before = int(time.time())
        said = beside.run("revoke", "flo")
        assert (said.code, said.out) == (0, "")
        assert "1 server process heard it" in said.err
        assert process.wait(30) == 1
        assert b"4509" in process.stderr.read()
    until = server.call("GET", "revoked:{0}:flo")
    assert isinstance(until, bytes)
    assert before <= int(until) <= time.time()
    assert "4509" in beside.run("watch", "flo", environ=environ).err


def test_an_interrupt_ends_it_without_a_word(beside: Program) -> None:
    with beside.start("watch", "gil", environ={"NOTIFIER_TOKEN": token("gil")}) as process:
        assert process.stderr is not None
        assert b"connected" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read() == b""


def test_nobody_reads_it(beside: Program, server: Valkey) -> None:
    with beside.start("watch", "hal", environ={"NOTIFIER_TOKEN": token("hal")}) as process:
        assert process.stderr is not None
        assert process.stdout is not None
        assert b"connected" in process.stderr.readline()
        process.stdout.close()
        _publish(server, "hal", "one")
        assert process.wait(30) == 1
        assert process.stderr.read() == b""


def test_revoke_without_a_server(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    valkey.call("HSET", "notifier:setup", "shards", 4)
    said = notifier.run("revoke", "7", "--redis", redis_url)
    assert said.code == 0
    assert "no server process heard it" in said.err
    # the shard is that of the stored set-up, not of a configuration that this command was not given
    assert valkey.call("KEYS", "revoked:*") == [revoked("7", 4).encode()]
