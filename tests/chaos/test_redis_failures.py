"""Redis fails in every way it can: sockets stay open, messages are clear, and nothing is lost that Redis kept."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import hiredis
import pytest

from notifier.edge.embedded import free_port
from tests.chaos.checker import Inbox, Sent
from tests.chaos.producer import STREAM
from tests.chaos.scene import Scene, read_inboxes
from tests.daemon import READY, Daemon, wait_until
from tests.servers import Valkey


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[Valkey]:
    """A server that has written what it answers for: a crash of it loses nothing."""
    with Valkey(tmp_path / "valkey", extra={"appendfsync": "always"}) as server:
        yield server


def calm(daemon: Daemon) -> None:
    """Whatever happened was expected: no traceback."""
    assert [line for line in daemon.lines() if "traceback" in line] == []


def metric(daemon: Daemon, name: str) -> float:
    return daemon.metrics()[name]


# --- restarts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["in order", "by a crash"])
def test_a_restart_in_the_middle_loses_nothing(tmp_path: Path, durable: Valkey, how: str) -> None:
    with Scene(tmp_path, durable) as scene:
        scene.publish(300)
        scene.publish(1500, wait=False)
        time.sleep(0.1)
        if how == "in order":
            durable.stop()
        else:
            durable.kill()
        time.sleep(0.5)
        durable.start()
        scene.settle()
        assert scene.producer.retries > 0, "the restart fell into the middle"
        assert scene.stayed()
        assert all(copy.resyncs == 0 for copy in scene.crowd.copies().values())
        scene.daemon.wait_for(f"connected to redis://127.0.0.1:{durable.port}/0 again")
        wait_until(lambda: scene.daemon.get("/readyz")[0] == 200, 10, "ready again")
        calm(scene.daemon)


def test_the_tail_of_the_file_is_lost_twice_with_sockets_open(tmp_path: Path, own_server: Valkey) -> None:
    server = own_server
    with Scene(tmp_path, server, plain=True) as scene:
        wanted: list[Sent] = []
        for cut in (100_000, 60_000):
            for count in (400, 100):
                scene.publish(count)
                wait_until(lambda: server.call("XLEN", STREAM) == 0, 20, "all is handed over")
            before = len(scene.producer.sent)
            server.kill()
            server.truncate_aof(cut)
            wanted = kept(tmp_path / f"copy-{cut}", server, scene.people)
            server.start()
            scene.publish(20)  # new changes take the seqs of the lost ones
            wanted += scene.producer.sent[before:]
            scene.settle(wanted)
        copies = scene.crowd.copies().values()
        assert sum(copy.resyncs for copy in copies) > 0, "something was lost that clients had seen"
        assert scene.stayed()
        lost = {event.id for event in scene.producer.sent} - {event.id for event in wanted}
        assert lost, "the cut took events with it"


def kept(folder: Path, server: Valkey, people: list[str]) -> list[Sent]:
    """What a server holds that starts from this file: rows, and what still stands in the stream."""
    shutil.copytree(server.folder, folder)
    with Valkey(folder) as copy:
        inboxes: Mapping[str, Inbox] = read_inboxes(copy, people)
        rows = [(row.seq, user, row.id) for user, inbox in inboxes.items() for row in inbox.rows]
        entries = copy.call("XRANGE", STREAM, "-", "+")
        assert isinstance(entries, list)
    found = [Sent(nid, (user,)) for _, user, nid in sorted(rows)]
    for _, fields in entries:
        event = json.loads(fields[1])
        found.append(Sent(event["id"], tuple(event["to"])))
    return found


def test_a_server_that_hangs_is_given_up_and_found_again(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server) as scene:
        scene.publish(100)
        own_server.pause()
        scene.daemon.wait_for("has not answered for 1 s: connection dropped")
        wait_until(lambda: scene.daemon.get("/readyz")[0] == 503, 5, "not ready, and it says so")
        own_server.resume()
        scene.publish(200)
        scene.settle()
        assert scene.stayed()
        assert metric(scene.daemon, 'redis_errors_total{kind="timeout"}') >= 1


# --- refusals ----------------------------------------------------------------------------------------------


def test_at_maxmemory_producers_wait_consumers_drain_and_all_recovers(tmp_path: Path) -> None:
    with (
        Valkey(tmp_path / "valkey", aof=False, maxmemory="24mb") as server,
        # few rows a person: what was drained is gone
        Scene(tmp_path, server, {"inbox": {"cap": 5}}, people=10) as scene,
    ):
        scene.daemon.pause()
        event = {"type": "comment", "actor": {"id": "ana"}, "to": ["p0"], "text": "x" * 4000}
        accepted = fill(server, json.dumps(event))
        assert 1000 < accepted < 10_000
        with pytest.raises(hiredis.ReplyError, match=r"^OOM"):
            server.call("XADD", STREAM, "*", "event", json.dumps(event))
        scene.daemon.resume()
        wait_until(lambda: server.call("XLEN", STREAM) == 0, 30, "the stream is drained, over the limit")
        assert metric(scene.daemon, "handover_failures_total") == 0
        # exactly these were applied: one change of the inbox each
        assert read_inboxes(server, ["p0"])["p0"].seq == accepted
        server.call("XADD", STREAM, "*", "event", json.dumps(event))
        wait_until(lambda: read_inboxes(server, ["p0"])["p0"].seq == accepted + 1, 5, "and it goes on")
        wait_until(lambda: scene.crowd.copies()["p0"].seq == accepted + 1, 10, "on the socket too")
        assert len(scene.crowd.copies()["p0"].rows) == 5
        assert scene.crowd.copies()["p0"].faults == []


def fill(server: Valkey, event: str) -> int:
    """Append until the server refuses; how many it took."""
    for count in range(100_000):
        try:
            server.call("XADD", STREAM, "*", "event", event)
        except hiredis.ReplyError as error:
            assert str(error).startswith("OOM")
            return count
    raise AssertionError("the server takes everything")


def test_a_read_only_server_is_named_and_waited_for(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server) as scene:
        scene.publish(100)
        scene.daemon.pause()
        scene.publish(200)  # these wait in the stream
        own_server.call("REPLICAOF", "127.0.0.1", "1")
        scene.daemon.resume()
        scene.daemon.wait_for("READONLY")
        assert scene.daemon.get("/healthz")[0] == 200
        wait_until(lambda: scene.daemon.get("/readyz")[0] == 503, 5, "not ready, and it says so")
        own_server.call("REPLICAOF", "NO", "ONE")
        scene.publish(100)
        scene.settle()
        assert scene.stayed()
        assert metric(scene.daemon, 'redis_errors_total{kind="readonly"}') >= 1
        wait_until(lambda: scene.daemon.get("/readyz")[0] == 200, 10, "ready again")


def test_forgotten_scripts_are_loaded_again_unseen(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server) as scene:
        scene.publish(2000, wait=False)
        for _ in range(20):
            own_server.call("SCRIPT", "FLUSH")
            time.sleep(0.02)
        scene.settle()
        assert scene.stayed()
        assert [
            line for line in scene.daemon.lines() if line.get("level") in ("warn", "error", "critical")
        ] == []


def test_a_lost_consumer_group_is_made_again_and_nothing_twice(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server) as scene:
        for _ in range(3):
            scene.publish(400, wait=False)
            time.sleep(0.03)
            own_server.call("XGROUP", "DESTROY", STREAM, "notifier")
        scene.settle()
        assert scene.stayed()
        assert metric(scene.daemon, "group_recreated_total") >= 1
        scene.daemon.wait_for("consumer group was gone: made again at 0")


def test_a_deleted_stream_goes_on_with_the_next_event(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server) as scene:
        scene.publish(100)
        scene.settle()
        own_server.call("DEL", STREAM)
        scene.publish(100)
        scene.settle()
        assert scene.stayed()


def test_everything_flushed_is_a_new_beginning(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server, plain=True) as scene:
        scene.publish(100)
        scene.settle()
        before = len(scene.producer.sent)
        own_server.call("FLUSHALL")
        scene.publish(100)
        scene.settle(scene.producer.sent[before:])
        assert scene.stayed()


def test_a_key_of_the_wrong_type_stops_one_person_alone(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server, people=3, plain=True) as scene:
        own_server.call("SET", "inbox:{0}:broken", "by hand")
        event = {"type": "like", "actor": {"id": "ana"}, "to": ["broken", "p0"]}
        own_server.call("XADD", STREAM, "*", "event", json.dumps(event))
        wait_until(lambda: own_server.call("XLEN", "dead:{0}:handover") == 1, 10, "buried after its tries")
        letter = own_server.call("XRANGE", "dead:{0}:handover", "-", "+")
        assert isinstance(letter, list)
        fields = dict(zip(letter[0][1][::2], letter[0][1][1::2], strict=True))
        assert fields[b"to"] == b"broken"
        assert b"WRONGTYPE" in fields[b"detail"]
        assert json.loads(fields[b"raw"]) == event
        wait_until(lambda: len(scene.crowd.copies()["p0"].rows) == 1, 5, "the other person has it")


# --- at the door -------------------------------------------------------------------------------------------


def secured(tmp_path: Path, password: str, given: str) -> tuple[Valkey, Daemon]:
    server = Valkey(tmp_path / "valkey", extra={"requirepass": password})
    server.start()
    secret = tmp_path / "redis.password"
    secret.write_text(given + "\n")
    secret.chmod(0o600)
    return server, Daemon(tmp_path, server.url, {"redis": {"password_file": str(secret)}})


def test_a_wrong_password_is_said_and_a_mended_one_found(tmp_path: Path) -> None:
    server, daemon = secured(tmp_path, "right", "wrong")
    try:
        daemon.launch()
        said = daemon.wait_for("WRONGPASS")
        assert f"redis://127.0.0.1:{server.port}/0" in str(said["message"])
        status, body = daemon.get("/readyz")
        assert status == 503
        assert "WRONGPASS" in json.loads(body)["parts"]["redis"]["detail"]
        assert "wrong" not in "".join(daemon.messages()).replace("WRONGPASS", "").replace("wrong number", "")
        assert daemon.get("/healthz")[0] == 200
        server.call("CONFIG", "SET", "requirepass", "wrong")
        daemon.wait_for(READY, 20)
        wait_until(lambda: daemon.get("/readyz")[0] == 200, 10, "ready")
        calm(daemon)
    finally:
        daemon.kill()
        server.stop()


def test_a_missing_password_is_said(tmp_path: Path) -> None:
    with Valkey(tmp_path / "valkey", extra={"requirepass": "right"}) as server:
        daemon = Daemon(tmp_path, server.url)
        daemon.launch()
        try:
            daemon.wait_for("NOAUTH")
            calm(daemon)
        finally:
            daemon.kill()


def test_unreachable_at_the_start_is_said_and_waited_for(tmp_path: Path) -> None:
    port = free_port()
    server = Valkey(tmp_path / "valkey", port=port)
    daemon = Daemon(tmp_path, f"redis://127.0.0.1:{port}/0")
    try:
        daemon.launch()
        said = str(daemon.wait_for(f"redis://127.0.0.1:{port}/0")["message"])
        assert "refused" in said, said
        assert daemon.get("/healthz")[0] == 200
        status, body = daemon.get("/readyz")
        assert status == 503
        assert "refused" in body.decode()
        server.start()
        daemon.wait_for(READY, 20)
        wait_until(lambda: daemon.get("/readyz")[0] == 200, 10, "ready")
        calm(daemon)
    finally:
        daemon.kill()
        server.stop()


def test_a_stop_while_redis_is_away_ends_in_time(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server) as scene:
        scene.publish(50)
        own_server.kill()
        scene.ports = ()
        began = time.monotonic()
        scene.daemon.stop()
        assert time.monotonic() - began < 8


# --- bells and names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("link", ["bell", "reader"])
def test_lost_bells_are_made_good(tmp_path: Path, own_server: Valkey, link: str) -> None:
    """Off the bus, and with the answers to handovers: who reads hears its own bells there."""
    with Scene(tmp_path, own_server) as scene:
        for _ in range(5):
            scene.publish(200, wait=False)
            time.sleep(0.05)
            cut(own_server, link)
        wait_until(lambda: scene.producer.idle, 10, "all are appended")
        scene.settle()
        assert scene.stayed()
        assert metric(scene.daemon, f'redis_reconnects_total{{link="{link}"}}') >= 1


def cut(server: Valkey, link: str) -> None:
    """The subscription, or all that runs scripts."""
    if link == "bell":
        server.call("CLIENT", "KILL", "TYPE", "pubsub")
        return
    clients = server.call("CLIENT", "LIST")
    assert isinstance(clients, bytes)
    for line in clients.decode().splitlines():
        told = dict(word.split("=", 1) for word in line.split() if "=" in word)
        if told["cmd"] == "evalsha":
            server.call("CLIENT", "KILL", "ID", told["id"])


@pytest.mark.parametrize("seconds", [2, pytest.param(30, marks=pytest.mark.campaign)])
def test_the_last_bell_lost_leaves_nobody_behind(tmp_path: Path, own_server: Valkey, seconds: int) -> None:
    """Nothing follows that could show the gap, and the subscription stands: only the sweep can tell."""
    with Scene(tmp_path, own_server, {"websocket": {"refresh_seconds": seconds}}) as scene:
        scene.publish(50)
        scene.settle()
        presence = own_server.call("SMEMBERS", "on:{0}:p0")
        assert isinstance(presence, list)
        # for the scripts this process is dead for a moment: they ring no bell for it
        own_server.call("DEL", f"alive:{{0}}:{presence[0].decode()}")
        event = {"type": "like", "actor": {"id": "ana"}, "to": ["p0"], "id": "last", "time": now()}
        own_server.call("XADD", STREAM, "*", "event", json.dumps(event))
        wait_until(lambda: "last" in scene.crowd.copies()["p0"].rows, seconds + 3, "the sweep has found it")
        assert scene.stayed()


def now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def test_two_processes_with_one_slot_name(tmp_path: Path, own_server: Valkey) -> None:
    with Scene(tmp_path, own_server, daemons=2) as scene:
        names = own_server.call("KEYS", "slot:*")
        assert isinstance(names, list)
        assert sorted(names) == [b"slot:notifier-1", b"slot:notifier-2"]
        # the names are lost: both take the first free one when they look after them
        holders = [own_server.call("GET", name) for name in sorted(names)]
        own_server.call("SET", "slot:notifier-2", "stranger", "PX", 300)
        assert isinstance(holders[0], bytes)
        for _ in range(4):
            scene.publish(300)
            for daemon in scene.daemons:
                daemon.pause()
                time.sleep(0.7)  # past the lease
                daemon.resume()
        scene.settle()
        assert scene.stayed()
        assert scene.total("entries_lost_total") == 0
        wait_until(lambda: len(set(slots(own_server))) == 2, 15, "each has a name of its own again")


def slots(server: Valkey) -> list[object]:
    names = server.call("KEYS", "slot:*")
    assert isinstance(names, list)
    return [server.call("GET", name) for name in names]
