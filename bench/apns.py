"""CPU of a push to APNs or FCM over TLS: ours beside h2load, Node's http2, node-apn, aioapns, against a server in C."""

from __future__ import annotations

import argparse
import importlib.util
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.harness import (
    BUILD,
    LOAD_CORE,
    SERVER_CORE,
    BenchFailed,
    Column,
    NotInstalled,
    Process,
    Result,
    Running,
    Variant,
    build_push_server,
    free_port,
    interleave,
    scratch,
)
from bench.pushers.figures import BODY, FCM_BODY, FCM_PATH, FCM_TOKENS, TOKENS, TOPIC
from notifier.sandbox.authority import Certificates, make_certificates

HERE = Path(__file__).resolve().parent / "pushers"
MODULES = BUILD / "node" / "node_modules"
NODE_APN = "@parse/node-apn"
STREAMS = 1_000
ERROR_EVERY = 100
COLUMNS = (
    Column("cpu_us_per_push", "client CPU µs/push", 2),
    Column("server_us_per_push", "server µs", 2),
    Column("pushes_per_s", "pushes/s", 0),
    Column("p50_ms", "p50 ms", 2),
    Column("p99_ms", "p99 ms", 2),
)
Argv = Callable[[int, Path, int, int], list[str | Path]]


def start(papers: Certificates) -> Running:
    """The server in C, on the core that is not measured."""
    port = free_port()
    control = str(free_port())
    argv: list[str | Path] = [
        build_push_server(), str(port), control, papers.server, str(STREAMS), str(ERROR_EVERY),
    ]  # fmt: skip
    server = Process("push server", argv, LOAD_CORE)
    server.wait_for_port(port)
    return Running(port, (server,), groups={"server": server.pids()})


def program(argv: Argv, papers: Certificates, count: int, in_flight: int, running: Running) -> Result:
    """A client that measures itself. Raises BenchFailed if a push went without the answer that was to come."""
    before = _cpu_seconds(running)
    words = argv(running.port, papers.authority, count, in_flight)
    client = Process("client", words, SERVER_CORE, {"NODE_PATH": str(MODULES)})
    try:
        report = json.loads(client.wait(300))
    finally:
        client.stop()
    statuses = report.pop("statuses")
    if set(statuses) - {"200", "404", "410"} or report.pop("answered") != count:
        raise BenchFailed(f"answers were {statuses}")
    made = count + 2_000  # with those to warm up
    return {**report, "server_us_per_push": (_cpu_seconds(running) - before) / made * 1e6}


def h2load_apns(papers: Certificates, count: int, in_flight: int, running: Running) -> Result:
    """nghttp2's own load program: what C takes that does nothing but HTTP/2 and TLS, with one apns-id for all."""
    fields = {
        "authorization": "bearer " + "j" * 215, "apns-topic": TOPIC, "apns-push-type": "alert",
        "apns-priority": "10", "apns-expiration": "1790000000", "apns-collapse-id": "like-99",
        "apns-id": "b1946ac9-2492-4a1c-8b6c-3f0a6b1d2c3e",
    }  # fmt: skip
    return h2load([f"/3/device/{token}" for token in TOKENS], fields, BODY, count, in_flight, running)


def h2load_fcm(papers: Certificates, count: int, in_flight: int, running: Running) -> Result:
    """The same to FCM, with one message for all."""
    fields = {"authorization": "Bearer " + "y" * 207, "content-type": "application/json; charset=UTF-8"}
    return h2load([FCM_PATH], fields, FCM_BODY % FCM_TOKENS[0].encode(), count, in_flight, running)


def h2load(
    paths: Sequence[str],
    fields: Mapping[str, str],
    content: bytes,
    count: int,
    in_flight: int,
    running: Running,
) -> Result:
    binary = shutil.which("h2load")
    if binary is None:
        raise NotInstalled("h2load (Debian: apt-get install nghttp2-client)")
    body = scratch("push-body", content)
    uris = scratch(
        "push-uris", "".join(f"https://127.0.0.1:{running.port}{path}\n" for path in paths).encode()
    )
    headers = [word for name, value in fields.items() for word in ("-H", f"{name}: {value}")]
    argv: list[str | Path] = [
        binary, "-n", str(count), "-c", "1", "-m", str(in_flight), "-d", body, "-i", uris, *headers,
    ]  # fmt: skip
    used, server, began = _children(), _cpu_seconds(running), time.perf_counter()
    done = subprocess.run(
        ["taskset", "-c", str(SERVER_CORE), *argv], capture_output=True, text=True, timeout=300, check=False
    )
    took = time.perf_counter() - began
    if done.returncode or f"{count} done" not in done.stdout:
        raise BenchFailed(f"h2load: {(done.stdout + done.stderr)[-500:]}")
    return {
        "cpu_us_per_push": (_children() - used) / count * 1e6,
        "server_us_per_push": (_cpu_seconds(running) - server) / count * 1e6,
        "pushes_per_s": count / took,
    }


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _cpu_seconds(running: Running) -> float:
    """Of all threads of the server, from the scheduler's own account."""
    files = (
        file for pid in running.groups["server"] for file in Path(f"/proc/{pid}/task").glob("*/schedstat")
    )
    return sum(int(file.read_text().split()[0]) for file in files) / 1e9


# ---- the clients ------------------------------------------------------------------------------------------


def python(module: str, *first: str) -> Argv:
    def argv(port: int, authority: Path, count: int, in_flight: int) -> list[str | Path]:
        return [sys.executable, "-m", module, *first, str(port), authority, str(count), str(in_flight)]

    return argv


def aioapns() -> Argv:
    if importlib.util.find_spec("aioapns") is None:
        raise NotInstalled("aioapns (pip install aioapns)")
    return python("bench.pushers.aioapns_client")


def node(kind: str) -> Argv:
    binary = shutil.which("node")
    if binary is None:
        raise NotInstalled("Node (Debian: apt-get install nodejs npm)")
    if kind == "apn" and not (MODULES / NODE_APN).is_dir():
        raise NotInstalled(f"{NODE_APN} (npm install --prefix bench/.build/node {NODE_APN}@8.1.0)")

    def argv(port: int, authority: Path, count: int, in_flight: int) -> list[str | Path]:
        return [binary, HERE / "node.js", kind, str(port), authority, str(count), str(in_flight)]

    return argv


def variants(papers: Certificates, count: int, in_flight: int) -> dict[str, list[Variant]]:
    """Rows by the table's title."""

    def own(find: Callable[[], Argv], share: int) -> Callable[[Running], Result]:
        # The slow ones make fewer, or a round would take minutes.
        return lambda running: program(find(), papers, max(5_000, count // share), in_flight, running)

    def ours(kind: str) -> Callable[[Running], Result]:
        return own(lambda: python("bench.pushers.ours", kind), 1)

    to_apns: dict[str, Callable[[Running], Result]] = {
        "notifier, edge/http2": ours("apns"),
        "notifier, edge/apns in batches of 100": ours("apns-provider"),
        "h2load (C)": partial(h2load_apns, papers, count, in_flight),
        "Node http2": own(lambda: node("http2"), 4),
        "@parse/node-apn": own(lambda: node("apn"), 8),
        "aioapns": own(aioapns, 16),
    }
    to_fcm: dict[str, Callable[[Running], Result]] = {
        "notifier, edge/http2": ours("fcm"),
        "notifier, edge/fcm in batches of 100": ours("fcm-provider"),
        "h2load (C)": partial(h2load_fcm, papers, count, in_flight),
        "Node http2": own(lambda: node("fcm"), 4),
    }
    return {
        title: [Variant(name, partial(start, papers), run) for name, run in clients.items()]
        for title, clients in (("APNs", to_apns), ("FCM HTTP v1", to_fcm))
    }


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.apns", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pushes", type=int, default=200_000, help="of our rows; slower peers make fewer")
    parser.add_argument("--in-flight", type=int, default=200, help="streams open at once, on one connection")
    parser.add_argument("--only", choices=("APNs", "FCM"), default="", help="one of the two tables")
    chosen = parser.parse_args(argv)
    failed = False
    with tempfile.TemporaryDirectory(prefix="notifier-bench-") as folder:
        papers = make_certificates(Path(folder))
        for title, rows in variants(papers, chosen.pushes, chosen.in_flight).items():
            if title.startswith(chosen.only):
                table = interleave(rows, chosen.rounds)
                print(f"{title}\n\n{table.markdown(COLUMNS)}", end="\n\n", flush=True)
                failed = failed or any(why.startswith("failed") for why in table.missing.values())
    sys.exit(failed)


if __name__ == "__main__":
    main()
