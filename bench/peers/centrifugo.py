"""Centrifugo, in Go: its Redis stream consumer takes the events, its Redis engine carries them to the sockets."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from urllib.parse import quote

from bench.harness import (
    BUILD,
    SERVER_CORE,
    NotInstalled,
    Process,
    Running,
    event_json,
    free_port,
    redis_command,
    scratch,
    start_redis,
)
from bench.peers.peer import Event, Peer

PROGRAM = BUILD / "bin" / "centrifugo"
INSTALL = "GOBIN=$PWD/bench/.build/bin go install github.com/centrifugal/centrifugo/v6@latest"
STREAM = "centrifugo:events"
CHANNELS = "channels"  # the field of an entry that names them
EVERYBODY = "everybody"


def settings(port: int, redis_port: int) -> dict[str, object]:
    """Everything at its default but the addresses, the ways in and out, and authentication, which is off."""
    redis = {"address": [f"redis://127.0.0.1:{redis_port}"]}
    consumer = {
        "enabled": True,
        "name": "events",
        "type": "redis_stream",
        "redis_stream": {
            **redis,
            "streams": [STREAM],
            "consumer_group": "centrifugo",
            "publication_data_mode": {"enabled": True, "channels_value": CHANNELS},
        },
    }
    return {
        "http_server": {"address": "127.0.0.1", "port": port},
        "log": {"level": "error"},
        "engine": {"type": "redis", "redis": redis},
        "client": {"insecure": True, "allowed_origins": ["*"]},
        "uni_websocket": {"enabled": True},
        "consumers": [consumer],
    }


def start() -> Running:
    """A fresh Redis and one Centrifugo node on one core."""
    program = PROGRAM if PROGRAM.exists() else shutil.which("centrifugo")
    if program is None:
        raise NotInstalled(f"Centrifugo 6 ({INSTALL})")
    redis, redis_port = start_redis()
    port = free_port()
    config = scratch(f"centrifugo-{port}.json", json.dumps(settings(port, redis_port)).encode())
    process = Process("centrifugo", [program, "--config", config], SERVER_CORE)
    process.wait_for_port(port)
    groups = {"server": process.pids(), "redis": redis.pids()}
    return Running(port, (process, redis), redis_port, groups)


def clients(event: Event) -> tuple[str, ...]:
    """The one-way WebSocket, whose address holds the connect request with the channel."""
    channel = EVERYBODY if event == "all" else "U" * 6
    request = quote(json.dumps({"subs": {channel: {}}}, separators=(",", ":")))
    return ("-F", "-u", f"/connection/uni_websocket?cf_connect={request}")


def template(event: Event) -> Path:
    """One XADD; trimmed, for a consumer acknowledges entries and does not delete them."""
    channel = EVERYBODY if event == "all" else "U" * 6
    payload = event_json().replace("U" * 6, "*" * 6)
    words = ("XADD", STREAM, "MAXLEN", "~", "100000", "*", CHANNELS, channel, "payload", payload)
    return scratch(f"centrifugo-{event}", redis_command(*words))


CENTRIFUGO = Peer("Centrifugo", start, clients, template)
