"""Two servers on Node: ws with ioredis, which reads a stream as we do, and socket.io with its Redis adapter."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import msgspec

from bench.harness import (
    BUILD,
    SERVER_CORE,
    NotInstalled,
    Process,
    Running,
    event_json,
    floor_template,
    free_port,
    redis_command,
    scratch,
    start_redis,
)
from bench.peers.peer import Event, Peer

HERE = Path(__file__).resolve().parent
MODULES = BUILD / "node" / "node_modules"
PACKAGES = {
    "ws": "8.23.0",
    "ioredis": "6.0.0",
    "socket.io": "4.8.4",
    "@socket.io/redis-adapter": "8.3.0",
}
INSTALL = " ".join(["npm install --prefix bench/.build/node", *(f"{n}@{v}" for n, v in PACKAGES.items())])


def start(script: str) -> Running:
    """A fresh Redis and one Node process that runs the script."""
    node = shutil.which("node")
    if node is None:
        raise NotInstalled("Node (Debian: apt-get install nodejs npm)")
    for package in PACKAGES:
        if not (MODULES / package).is_dir():
            raise NotInstalled(f"the npm package {package} ({INSTALL})")
    redis, redis_port = start_redis()
    port = free_port()
    argv: list[str | Path] = [node, HERE / script, str(port), str(redis_port)]
    process = Process(script, argv, SERVER_CORE, {"NODE_PATH": str(MODULES), "NODE_ENV": "production"})
    process.wait_for_port(port)
    groups = {"server": process.pids(), "redis": redis.pids()}
    return Running(port, (process, redis), redis_port, groups)


def ws_template(event: Event) -> Path:
    """One XADD, as for the floor."""
    return floor_template(broadcast=event == "all")


def socket_io_template(event: Event) -> Path:
    """What `io.to(user).emit("notification", event)` of another server publishes: the adapter's own message.

    That is [sender, packet, options] in MessagePack on a channel that names the room; packet type 2 is an event.
    """
    everybody = event == "all"
    notification = json.loads(event_json().replace("U" * 6, "*" * 6))
    packet = {"type": 2, "data": ["notification", notification], "nsp": "/"}
    options = {"rooms": [] if everybody else ["U" * 6], "except": [], "flags": {}}
    message = msgspec.msgpack.encode(["bench", packet, options])
    channel = "socket.io#/#" + ("" if everybody else "U" * 6 + "#")
    head = redis_command("PUBLISH", channel).replace(b"*2\r\n", b"*3\r\n", 1)
    return scratch(f"socketio-{event}", head + b"$%d\r\n%s\r\n" % (len(message), message))


WS = Peer("Node ws + ioredis", partial(start, "ws.js"), lambda event: ("-F",), ws_template)
SOCKET_IO = Peer(
    "socket.io + Redis adapter", partial(start, "socketio.js"), lambda event: ("-S",), socket_io_template
)
