"""A notifier daemon for a bench: Redis, keys, tokens and listeners of its own, every other setting at its default."""

from __future__ import annotations

import itertools
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bench.harness import (
    LOAD_CORE,
    SERVER_CORE,
    BenchFailed,
    Process,
    Running,
    free_port,
    scratch,
    start_redis,
)

AOF = (
    "--appendonly",
    "yes",
    "--appendfsync",
    "everysec",
    "--auto-aof-rewrite-min-size",
    "1gb",
    "--rdbcompression",
    "no",
)  # as in conf/
SECRET = b"not-secret-and-32-bytes-at-least"

_runs = itertools.count(1)


@cache
def _private_keys() -> dict[str, EllipticCurvePrivateKey | Ed25519PrivateKey | bytes]:
    return {
        "ES256": generate_private_key(SECP256R1()),
        "EdDSA": Ed25519PrivateKey.generate(),
        "HS256": SECRET,
    }


@cache
def tokens(people: int, algorithm: str = "ES256") -> Path:
    """One token a line, line i for the user whose id is i in six digits; valid for two hours."""
    key, now = _private_keys()[algorithm], int(time.time())
    lines = [
        jwt.encode(
            {"sub": f"{user:06d}", "aud": "notifier", "iat": now, "exp": now + 7200},
            key,
            algorithm,
            headers={"kid": algorithm},
        )
        for user in range(people)
    ]
    return scratch(f"tokens-{algorithm}-{people}", "\n".join([*lines, ""]).encode())


@cache
def token_keys() -> tuple[tuple[str, str, Path], ...]:
    """(kid, algorithm, file) of each key whose tokens are accepted; the kid is the algorithm's name."""
    found = []
    for algorithm, key in _private_keys().items():
        if isinstance(key, bytes):
            content = key
        else:
            content = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        file = scratch(f"key-{algorithm}", content)
        file.chmod(0o600)
        found.append((algorithm, algorithm, file))
    return tuple(found)


@dataclass
class Daemon(Running):
    """A daemon that is ready; `admin_port` serves its metrics."""

    admin_port: int = 0

    def metric(self, name: str) -> float:
        """One unlabelled metric, without its prefix. Raises BenchFailed if there is none of that name."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}/metrics", timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith(f"notifier_{name} "):
                    return float(line.split(" ")[1])
        raise BenchFailed(f"the daemon has no metric notifier_{name}")


def start_daemon(
    aof: bool = False,
    settings: str = "",
    program: Sequence[str | Path] = (Path(sys.executable).with_name("twistd"),),
    pinned: bool = True,
    daemons: int = 1,
    top: str = "",
    allocator: str = "",
) -> Daemon:
    """A fresh Redis and a fresh daemon. `settings`: more TOML, for what a bench must set; `top`: the same, in front of
    all tables; `program`: what Python runs in the place of twistd; `allocator`: Redis's. Not pinned, all run on any
    core. Of several daemons the first one has the sockets."""
    run = next(_runs)
    appending = (*AOF, "--appenddirname", f"aof-{run}") if aof else ()
    redis, redis_port = start_redis(*appending, core=LOAD_CORE if pinned else None, allocator=allocator)
    made = [_start(run * 100 + at, redis_port, top, settings, program, pinned) for at in range(daemons)]
    time.sleep(0.5)  # they have just listened; what they do once at their start shall not count
    pids = [pid for process, _ in made for pid in process.pids()]
    groups = {"server": pids, "redis": redis.pids()}
    ports = made[0][1]
    processes = (*(process for process, _ in made), redis)
    return Daemon(ports["websocket"], processes, redis_port, groups, ports["admin"])


def _start(
    run: int, redis_port: int, top: str, settings: str, program: Sequence[str | Path], pinned: bool
) -> tuple[Process, dict[str, int]]:
    ports = {name: free_port() for name in ("websocket", "api", "admin")}
    lines = [f'redis.url = "redis://127.0.0.1:{redis_port}/0"', top]
    lines += [f'{name}.listen = "tcp:{port}:interface=127.0.0.1"' for name, port in ports.items()]
    for kid, algorithm, file in token_keys():
        lines += ["[[tokens.keys]]", f'kid = "{kid}"', f'algorithm = "{algorithm}"', f'file = "{file}"']
    config = scratch(f"notifier-{run}.toml", "\n".join([*lines, settings, ""]).encode())
    words = ("--nodaemon", "--pidfile=", "notifier", "--config", config)
    process = Process("daemon", [sys.executable, *program, *words], SERVER_CORE if pinned else None)
    for port in ports.values():
        process.wait_for_port(port)
    return process, ports
