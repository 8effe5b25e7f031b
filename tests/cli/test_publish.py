"""`notifier publish`: lines, checks, what Redis answers, pipes, and 50 000 events."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from notifier.cli.lines import LONGEST, Line, Lines, ranges
from notifier.cli.main import notifier as group
from notifier.cli.publish import event_of
from tests.cli.program import GOOD, Program
from tests.daemon import wait_until
from tests.servers import Valkey

EVENTS = "notifier:events"
LIKE = ("--type", "like", "--actor", "42", "--to", "7")


# --- pure ----------------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=6).filter(lambda line: b"\n" not in line)), st.integers(1, 9), st.booleans()
)
def test_lines_do_not_depend_on_the_pieces(texts: list[bytes], size: int, ends: bool) -> None:
    data = b"\n".join(texts) + (b"\n" if ends else b"")
    lines = Lines()
    found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
    found += lines.feed(b"")
    assert found == [Line(at, text.strip()) for at, text in enumerate(texts, 1) if text.strip()]


def test_a_line_too_long_is_thrown_away_and_the_next_is_read() -> None:
    lines = Lines()
    found = (
        lines.feed(b"first\n" + b"x" * (LONGEST + 1)) + lines.feed(b"y" * LONGEST) + lines.feed(b"y\nlast\n")
    )
    assert found == [Line(1, b"first"), Line(2, None), Line(3, b"last")]
    assert lines.feed(b"z" * (LONGEST + 1)) + lines.feed(b"") == [Line(4, None)]


@pytest.mark.parametrize(("numbers", "text"), [([], ""), ([4], "4"), ([1, 2, 3, 7, 9, 10], "1-3, 7, 9-10")])
def test_ranges(numbers: list[int], text: str) -> None:
    assert ranges(numbers) == text


def test_an_event_from_options() -> None:
    nothing = dict.fromkeys(("kind", "actor", "name", "object", "text", "id", "time")) | {"to": ()}
    given = {
        "kind": "like",
        "actor": "42",
        "name": "ana",
        "to": ("7", "8"),
        "object": "photo/9/9",
        "text": "ü",
    }
    assert event_of(nothing) == b""
    assert json.loads(event_of(nothing | given)) == {
        "type": "like",
        "actor": {"id": "42", "name": "ana"},
        "to": ["7", "8"],
        "text": "ü",
        "object": {"type": "photo", "id": "9/9"},
    }


@pytest.mark.parametrize(
    "arguments",
    [
        ["--actor", "42"],
        ["--type", "like"],
        ["--type", "like", "--actor", "42"],
        [*LIKE, "--object", "photo"],
        [*LIKE, "events.jsonl"],
        ["events.jsonl", "--check", "--force"],
        ["/nowhere/events.jsonl", "--check"],
        ["/", "--check"],
        [*LIKE, "--redis", "http://127.0.0.1"],
        [*LIKE, "--redis", "redis://user:secret@127.0.0.1/0"],
    ],
    ids=" ".join,
)
def test_faults_of_usage(arguments: list[str]) -> None:
    result = CliRunner().invoke(group, ["publish", *arguments])
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error: " in result.stderr
    assert "NOTIFIER_REDIS__URL" not in result.stderr  # nobody has set it
    assert "secret" not in result.stderr


def test_check(notifier: Program) -> None:
    text = GOOD + b'\n\n{"type":"lke","actor":{"id":"1"},"to":["7"]}\r\n\xff\n' + GOOD
    said = notifier.run("publish", "--check", "--redis", "redis://127.0.0.1:1/0", given=text)
    assert (said.code, said.out) == (1, "")
    assert said.err.splitlines() == [
        "line 3: unknown_type: 'lke' is not one of: follow, unfollow, like, unlike, comment, uncomment",
        "line 4: not_json: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte",
        "2 events in order",
        "2 lines refused, see above",
    ]
    assert notifier.run("publish", "--check", "-q", given=GOOD).err == ""


def test_the_types_are_those_of_the_configuration(notifier: Program) -> None:
    (notifier.folder / "n.toml").write_text('[events]\ntypes = ["wave"]\n')
    wave = GOOD.replace(b"like", b"wave")
    assert notifier.run("publish", "--check", "--config", "n.toml", given=wave).code == 0
    assert notifier.run("publish", "--check", given=wave).code == 1


# --- with Redis ----------------------------------------------------------------------------------------


def _stored(valkey: Valkey) -> list[bytes]:
    entries = valkey.call("XRANGE", EVENTS, "-", "+")
    assert isinstance(entries, list)
    assert all(fields[::2] == [b"event"] for _, fields in entries)
    return [fields[1] for _, fields in entries]


def test_one_event_from_options(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    said = notifier.run("publish", *LIKE, "--object", "photo/99", "--ids", "--redis", redis_url)
    assert (said.code, said.err) == (0, "1 event accepted\n")
    assert json.loads(_stored(valkey)[0])["object"] == {"type": "photo", "id": "99"}
    assert valkey.call("XRANGE", EVENTS, said.out.strip(), said.out.strip())


def test_one_bad_event_from_options(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    said = notifier.run("publish", *LIKE, "--id", "a", "--redis", redis_url)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("the event: id_without_time")
    assert _stored(valkey) == []


def test_good_lines_go_though_others_are_bad(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    text = b"nope\n" + GOOD + b"\n\n[]\n " + GOOD + b"\r\n"
    said = notifier.run("publish", "-", "--ids", given=text, environ={"NOTIFIER_REDIS__URL": redis_url})
    assert said.code == 1
    assert [line.partition(":")[0] for line in said.err.splitlines()[:2]] == ["line 1", "line 4"]
    assert "2 events accepted" in said.err
    assert _stored(valkey) == [GOOD, GOOD]
    ids = valkey.call("XRANGE", EVENTS, "-", "+")
    assert isinstance(ids, list)
    assert said.out.split() == [entry.decode() for entry, _ in ids]


def test_force_sends_what_is_bad(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    (notifier.folder / "n.toml").write_text(f'[redis]\nurl = "{redis_url}"\n')
    assert notifier.run("publish", "--force", "--config", "n.toml", given=b"nope\n").code == 0
    assert _stored(valkey) == [b"nope"]


def test_the_demo_beside_is_found(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    (notifier.folder / ".demo").mkdir()
    (notifier.folder / ".demo/endpoints.json").write_text(json.dumps({"redis": redis_url}))
    assert notifier.run("publish", *LIKE).code == 0
    assert len(_stored(valkey)) == 1


def test_fifty_thousand_in_order(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    events = [GOOD[:-1] + b',"text":"%d"}' % number for number in range(50_000)]
    (notifier.folder / "events.jsonl").write_bytes(b"\n".join(events))
    said = notifier.run("publish", "events.jsonl", "--redis", redis_url)
    assert (said.code, said.out) == (0, "")
    assert "50000 events accepted" in said.err
    assert _stored(valkey) == events


def test_a_line_goes_when_it_comes(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    with notifier.start("publish", "--ids", "--redis", redis_url) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for count in (1, 2):
            process.stdin.write(GOOD + b"\n")
            process.stdin.flush()
            entry = process.stdout.readline().strip()
            assert valkey.call("XREVRANGE", EVENTS, "+", "-", "COUNT", 1) == [[entry, [b"event", GOOD]]]
            assert valkey.call("XLEN", EVENTS) == count
        process.send_signal(signal.SIGINT)  # while it waits for stdin
        assert process.wait(30) == 130
        assert process.stderr is not None
        assert process.stderr.read() == b"2 events accepted\nnot sent: everything after line 2\n"


def test_ids_that_nobody_reads(notifier: Program, redis_url: str) -> None:
    (notifier.folder / "events.jsonl").write_bytes((GOOD + b"\n") * 5000)
    arguments = ("publish", "events.jsonl", "--ids", "--redis", redis_url)
    with notifier.start(*arguments) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(10) == 1
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_pressure_is_waited_for(notifier: Program, valkey: Valkey, redis_url: str) -> None:
    valkey.call("SET", "notifier:pressure", "1000001")
    with notifier.start("publish", *LIKE, "--redis", redis_url) as process:
        assert process.stderr is not None
        assert b"notifier:pressure" in process.stderr.readline()
        assert valkey.call("XLEN", EVENTS) == 0
        valkey.call("DEL", "notifier:pressure")
        assert process.wait(30) == 0
    assert valkey.call("XLEN", EVENTS) == 1
    valkey.call("SET", "notifier:pressure", "1000001")
    assert notifier.run("publish", *LIKE, "--no-wait", "--redis", redis_url).code == 0


# --- when Redis does not want, or is not there -----------------------------------------------------------


def test_lost_while_it_waits_names_what_was_not_sent(notifier: Program, own_server: Valkey) -> None:
    with notifier.start("publish", "--redis", own_server.url) as process:
        assert process.stdin is not None
        process.stdin.write(GOOD + b"\n" + GOOD + b"\n")
        process.stdin.flush()
        wait_until(lambda: own_server.call("XLEN", EVENTS) == 2, 5)
        time.sleep(0.6)  # so that it looks at notifier:pressure again
        own_server.stop()
        process.stdin.write(GOOD + b"\n")
        process.stdin.close()
        assert process.wait(30) == 3
        assert process.stderr is not None
        err = process.stderr.read().decode()
    assert err.splitlines()[:2] == ["2 events accepted", "not sent: everything after line 2"]
    assert f"connection to {own_server.url} lost" in err
    assert "Traceback" not in err


def test_out_of_memory_names_what_was_not_accepted(notifier: Program, tmp_path: Path) -> None:
    lines = 6000
    events = [b'%b,"text":"%d %b"}\n' % (GOOD[:-1], number, b"x" * 4000) for number in range(1, lines + 1)]
    (notifier.folder / "events.jsonl").write_bytes(b"".join(events))
    with Valkey(tmp_path / "small", aof=False, maxmemory="8mb") as server:
        said = notifier.run("publish", "events.jsonl", "--redis", server.url)
        stored = {int(json.loads(event)["text"].split()[0]) for event in _stored(server)}
    assert said.code == 1
    assert f"{len(stored)} events accepted" in said.err
    refused = re.search(r"not accepted: lines ([0-9, -]+): OOM", said.err)
    end = re.search(r"not sent: everything after line (\d+)\n", said.err)
    assert refused is not None
    assert end is not None
    named = set(range(int(end[1]) + 1, lines + 1))
    for span in refused[1].split(", "):
        first, _, last = span.partition("-")
        named |= set(range(int(first), int(last or first) + 1))
    assert stored
    assert named == set(range(1, lines + 1)) - stored  # exactly those that the producer still owns


@pytest.mark.parametrize("command", [["publish", *LIKE], ["dlq", "ls"]], ids=" ".join)
def test_unreachable_is_3_and_says_where(notifier: Program, command: list[str]) -> None:
    said = notifier.run(*command, "--redis", "redis://127.0.0.1:1/0")
    assert (said.code, said.out) == (3, "")
    assert "cannot reach Redis at redis://127.0.0.1:1/0" in said.err
    assert "Connection refused" in said.err
    assert "Traceback" not in said.err


def test_a_wrong_password_is_3_at_once(notifier: Program, tmp_path: Path) -> None:
    with Valkey(tmp_path / "locked", aof=False, extra={"requirepass": "right"}) as server:
        (tmp_path / "n.toml").write_text(f'[redis]\nurl = "{server.url}"\npassword_file = "password"\n')
        said = {}
        for password in ("wrong", "right"):
            (tmp_path / "password").write_text(f"{password}\n")
            (tmp_path / "password").chmod(0o600)
            said[password] = notifier.run("publish", *LIKE, "--config", "n.toml")
        said["none"] = notifier.run("publish", *LIKE, "--redis", server.url)
    assert [said[name].code for name in ("wrong", "right", "none")] == [3, 0, 3]
    assert "WRONGPASS" in said["wrong"].err
    assert "NOAUTH" in said["none"].err
    assert "password_file" in said["none"].err


def test_a_silent_server_is_3_and_what_was_sent_is_told(notifier: Program, own_server: Valkey) -> None:
    (notifier.folder / "n.toml").write_text(f'[redis]\nurl = "{own_server.url}"\ntimeout_seconds = 0.5\n')
    with notifier.start("publish", "--no-wait", "--config", "n.toml") as process:
        assert process.stdin is not None
        process.stdin.write(GOOD + b"\n")
        process.stdin.flush()
        wait_until(lambda: own_server.call("XLEN", EVENTS) == 1, 5)
        own_server.pause()
        process.stdin.write(GOOD + b"\n")
        process.stdin.close()
        code = process.wait(30)
        own_server.resume()
        assert process.stderr is not None
        err = process.stderr.read().decode()
    assert code == 3
    assert "1 event accepted" in err
    assert "unknown: line 2: sent and not answered" in err
    assert "no answer for 0.5 s" in err


def test_a_port_that_accepts_and_says_nothing(notifier: Program) -> None:
    (notifier.folder / "n.toml").write_text("[redis]\ntimeout_seconds = 0.5\n")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        said = notifier.run("publish", *LIKE, "--config", "n.toml", "--redis", f"redis://127.0.0.1:{port}/0")
    assert said.code == 3
    assert "no answer for 0.5 s" in said.err


def test_stdin_closed_is_no_terminal(notifier: Program, redis_url: str) -> None:
    with notifier.start("publish", "--redis", redis_url, stdin=subprocess.DEVNULL) as process:
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b"0 events accepted\n"


def test_a_terminal_sees_a_bar_and_bad_lines_above_it(notifier: Program, redis_url: str) -> None:
    ours, theirs = os.openpty()
    (notifier.folder / "events.jsonl").write_bytes(b"nope\n" + (GOOD + b"\n") * 5000)
    with notifier.start("publish", "events.jsonl", "--redis", redis_url, stderr=theirs) as process:
        os.close(theirs)
        seen = b""
        try:
            while piece := os.read(ours, 65536):
                seen += piece
        except OSError:  # EIO: the other side has closed
            pass
        assert process.wait(30) == 1
    os.close(ours)
    assert b"publishing" in seen
    assert b"events, " in seen  # and the rate
    assert b"\r\x1b[Kline 1: not_json" in seen
    assert b"5000 events accepted" in seen
