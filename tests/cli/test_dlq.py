"""`notifier dlq` as an operator uses it."""

from __future__ import annotations

import json
import os
import time
from base64 import b64decode

import pytest
from click.testing import CliRunner

from notifier.cli.main import notifier as group
from notifier.core.payload import iso
from tests.cli.program import GOOD, Program
from tests.cli.test_letters import SOURCE, bury
from tests.daemon import Daemon, wait_until
from tests.servers import Valkey
from tests.stored import state_of

EVENTS = "notifier:events"


@pytest.fixture
def beside(notifier: Program, redis_url: str) -> Program:
    """The program, where a demo seems to run."""
    (notifier.folder / ".demo").mkdir()
    (notifier.folder / ".demo/endpoints.json").write_text(json.dumps({"redis": redis_url}))
    return notifier


@pytest.mark.parametrize(
    "arguments",
    [
        ["retry"],
        ["retry", "--all", "--reason", "schema"],
        ["retry", "--all", "0/schema/1-0"],
        ["retry", "schema"],
        ["drop"],
        ["show"],
        ["show", "{0}/schema/1-0"],
        ["ls", "--reason", "shema"],
        ["ls", "--limit", "-1"],
        ["drop", "--all"],  # and nobody can be asked
    ],
    ids=" ".join,
)
def test_usage(arguments: list[str]) -> None:
    result = CliRunner().invoke(group, ["dlq", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")


def test_drop_says_what_it_wants_where_nobody_can_be_asked() -> None:
    assert "give --yes" in CliRunner().invoke(group, ["dlq", "drop", "--all"]).stderr


def test_nothing_there(beside: Program) -> None:
    for arguments in (["ls", "--json"], ["ls", "--count"]):
        said = beside.run("dlq", *arguments)
        assert (said.code, said.out) == (0, "")
        assert "no dead letters" in said.err


def test_ls(beside: Program, valkey: Valkey) -> None:
    bury(valkey, "dead:{0}:schema", entry="1764000000000-0")
    bury(valkey, "dead:{notifier:events}:not_json", raw=b"\xff{", entry="1764000000000-1")
    bury(valkey, "dead:{0}:handover", to="8", entry="1764000000001-0")
    ids = ["0/schema/1764000000000-0", "in/not_json/1764000000000-1", "0/handover/1764000000001-0"]
    said = beside.run("dlq", "ls", "--json")
    found = [json.loads(line) for line in said.out.splitlines()]
    assert (said.code, said.err) == (0, "")
    assert [letter["id"] for letter in found] == ids[::-1]
    assert found[2] == {
        "id": ids[0], "at": "2025-11-24T16:00:00.000Z", "reason": "schema", "detail": "why", "source": SOURCE,
        "to": None, "raw": GOOD.decode(),
    }  # fmt: skip
    assert (found[1]["encoding"], b64decode(found[1]["raw"])) == ("base64", b"\xff{")
    assert found[0]["to"] == "8"
    plain = beside.run("dlq", "ls", "--limit", "2").out.splitlines()
    assert [line.split()[0] for line in plain] == ["ID", *ids[:0:-1]]
    assert beside.run("dlq", "ls", "--reason", "schema").out.splitlines()[1].split()[0] == ids[0]


def test_ls_counts(beside: Program, valkey: Valkey) -> None:
    for key in ("dead:{0}:schema", "dead:{0}:schema", "dead:{0}:stale"):
        bury(valkey, key)
    assert beside.run("dlq", "ls", "--count").out.split() == ["2", "schema", "1", "stale"]
    assert [json.loads(line) for line in beside.run("dlq", "ls", "--count", "--json").out.splitlines()] == [
        {"reason": "schema", "count": 2},
        {"reason": "stale", "count": 1},
    ]


def test_the_shards_are_those_of_the_stored_set_up(beside: Program, valkey: Valkey) -> None:
    valkey.call("HSET", "notifier:setup", "shards", 4)
    bury(valkey, "dead:{3}:schema")
    assert "3/schema/" in beside.run("dlq", "ls").out


def test_show(beside: Program, valkey: Valkey) -> None:
    name = "0/schema/" + bury(
        valkey, "dead:{0}:schema", raw=GOOD[:-1] + ',"text":"\x9b2J"}'.encode()
    )  # a terminal obeys U+009B
    said = beside.run("dlq", "show", name, "0/schema/1-0")
    assert said.code == 1
    assert said.err.startswith("0/schema/1-0: not there")
    assert name in said.out
    assert '  "type": "like"' in said.out
    assert r'"text": "\x9b2J"' in said.out
    assert beside.run("dlq", "show", "--raw", name).out == GOOD[:-1].decode() + ',"text":"\x9b2J"}\n'


def test_retry_by_id_is_once(beside: Program, valkey: Valkey) -> None:
    name = f"0/schema/{bury(valkey, 'dead:{0}:schema')}"
    said = beside.run("dlq", "retry", name)
    assert (said.code, said.out, said.err) == (0, "", "1 dead letter put back through the front door\n")
    again = beside.run("dlq", "retry", name)
    assert again.code == 1
    assert "not there" in again.err
    assert valkey.call("XLEN", EVENTS) == 1


def test_two_retries_of_everything_at_once(beside: Program, valkey: Valkey) -> None:
    for at in range(1500):
        bury(valkey, "dead:{0}:schema" if at % 2 else "dead:{0}:stale", raw=b"%d" % at)
    processes = [beside.start("dlq", "retry", "--all") for _ in range(2)]
    done = 0
    for process in processes:
        _, err = process.communicate(timeout=20)
        assert process.returncode in (0, 1)
        done += int(err.decode().splitlines()[-1 - process.returncode].split()[0])
    assert done == 1500
    entries = valkey.call("XRANGE", EVENTS, "-", "+")
    assert isinstance(entries, list)
    assert sorted(int(fields[1]) for _, fields in entries) == list(range(1500))


def test_retry_leaves_what_holds_no_event(beside: Program, valkey: Valkey) -> None:
    bury(valkey, "dead:{0}:no_event")
    bury(valkey, "dead:{0}:schema")
    said = beside.run("dlq", "retry", "--all")
    assert said.code == 1
    assert "holds no event" in said.err
    assert "1 dead letter put back" in said.err
    assert valkey.call("XLEN", "dead:{0}:no_event") == 1


def test_drop(beside: Program, valkey: Valkey) -> None:
    name = f"0/schema/{bury(valkey, 'dead:{0}:schema')}"
    for _ in range(250):
        bury(valkey, "dead:{0}:stale")
    assert beside.run("dlq", "drop", "--reason", "stale", "--yes").err == "250 dead letters removed\n"
    assert beside.run("dlq", "drop", name, "-y").code == 0
    assert beside.run("dlq", "drop", name, "-y").code == 1
    assert valkey.call("XLEN", EVENTS) == 0


@pytest.mark.parametrize(("answer", "code", "left"), [(b"n\n", 1, 1), (b"y\n", 0, 0)])
def test_drop_asks_on_a_terminal(
    beside: Program, valkey: Valkey, answer: bytes, code: int, left: int
) -> None:
    bury(valkey, "dead:{0}:stale")
    ours, theirs = os.openpty()
    os.write(ours, answer)
    with beside.start("dlq", "drop", "--all", stdin=theirs) as process:
        os.close(theirs)
        assert process.wait(10) == code
        assert process.stderr is not None
        assert b"for good (all there are)? [y/N]" in process.stderr.read()
    os.close(ours)
    assert valkey.call("XLEN", "dead:{0}:stale") == left


def test_ls_into_a_pipe_that_closes(beside: Program, valkey: Valkey) -> None:
    for _ in range(300):
        bury(valkey, "dead:{0}:schema", raw=b"x" * 1000)
    with beside.start("dlq", "ls", "--json", "--limit", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(10) == 1
        assert process.stderr.read() == b""


def test_from_the_dead_letters_into_the_inbox(beside: Program, valkey: Valkey) -> None:
    """What the daemon buried arrives, once, after the cause is gone."""
    event = GOOD.replace(b"like", b"wave")
    with Daemon(beside.folder / "one", valkey.url) as daemon:
        assert beside.run("publish", "--force", given=event).code == 0
        wait_until(lambda: daemon.metrics()['dead_letters_total{reason="unknown_type"}'] == 1, 5)
        daemon.stop()
    with Daemon(beside.folder / "two", valkey.url, {"events": {"types": ["wave"]}}):
        assert beside.run("dlq", "retry", "--reason", "unknown_type").code == 0
        wait_until(lambda: state_of(valkey, "7").seq == 1, 5)
    assert beside.run("dlq", "ls", "--count").out == ""


def test_what_could_not_be_written_is_written_after_all(beside: Program, valkey: Valkey) -> None:
    """Buried for one of two people; when the cause is gone it reaches that one, and the other only once."""
    valkey.call("SET", "inbox:{0}:8", "not an inbox")
    events = [
        {"type": "like", "actor": {"id": "42"}, "to": ["7", "8"]},
        {
            "type": "like",
            "actor": {"id": "43"},
            "to": ["7", "8"],
            "id": "a",
            "time": iso(int(time.time() * 1000)),
        },
    ]
    with Daemon(beside.folder / "daemon", valkey.url):
        assert beside.run("publish", given="\n".join(map(json.dumps, events)).encode()).code == 0
        wait_until(lambda: valkey.call("XLEN", "dead:{0}:handover") == 2, 10)
        valkey.call("DEL", "inbox:{0}:8")
        assert beside.run("dlq", "retry", "--reason", "handover").code == 0
        wait_until(lambda: state_of(valkey, "8").live == 2, 5)
        wait_until(lambda: valkey.call("XLEN", EVENTS) == 0, 5)
    assert state_of(valkey, "7").seq == 2
    assert valkey.call("XLEN", "dead:{0}:handover") == 0
