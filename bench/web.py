"""The photo API under gunicorn: requests and CPU for feed, photo, like and comment, beside a bare Django view.

One gunicorn worker with four threads on the server core; PostgreSQL (each commit synced), Redis and the clients on the
load core. `--live` measures from a like's HTTP request to a page in Chromium that hears of it instead.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

from bench.daemon import Daemon, start_daemon
from bench.harness import (
    LOAD_CORE,
    SERVER_CORE,
    BenchFailed,
    Column,
    NotInstalled,
    Process,
    Result,
    Running,
    Variant,
    _descendants,
    cpu_ns,
    free_port,
    interleave,
    machine,
    scratch,
    start_redis,
)
from webapp.cast import PASSWORD, PEOPLE
from webapp.config import Limits
from webapp.embedded import Postgres

CLIENTS = 8
ANYTHING = "1000000/second"
COLUMNS = (
    Column("web_us", "gunicorn CPU µs", 0),
    Column("postgresql_us", "PostgreSQL µs", 0),
    Column("redis_us", "Redis µs", 0),
    Column("per_s", "requests/s", 0),
    Column("p50_ms", "p50 ms", 1),
    Column("p99_ms", "p99 ms", 1),
)
Requests = Callable[[int, "Person"], Iterator[tuple[str, str, str | None]]]


class Site:
    """PostgreSQL with the people of the seed, and a key for their tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.file, self.websocket = folder, folder / "webapp.toml", ""
        self.postgres = Postgres(folder / "postgresql")
        self.postgres.start()
        self.pin()
        key = Ed25519PrivateKey.generate()
        self.key = scratch("web.key", key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.key.chmod(0o600)
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.public = scratch("web.pub", public)
        store, port = start_redis()
        for command in ("migrate_shards", "seed"):
            Process(command, self.manage(command), LOAD_CORE, self.configure(port)).wait(120)
        store.stop()

    def pin(self) -> None:
        """All of PostgreSQL onto the load core."""
        for pid in _descendants(self.postgres.pid):
            os.sched_setaffinity(pid, {LOAD_CORE})

    @staticmethod
    def manage(command: str) -> list[str]:
        return [sys.executable, "-m", "webapp", command]

    def configure(self, redis_port: int) -> dict[str, str]:
        """The environment of a process of the photo API; nobody is kept from anything by a rate."""
        node = (
            f'{{shards = "0-7", primary = "{self.postgres.url}", '
            f'password_file = "{self.postgres.password_file}"}}'
        )
        limits = "".join(f'{name} = "{ANYTHING}"\n' for name in Limits.__struct_fields__)
        self.file.write_text(
            f'[shards]\nnodes = [{node}]\n[redis]\nurl = "redis://127.0.0.1:{redis_port}/0"\n'
            f'[tokens]\nkey_file = "{self.key}"\n[photos]\nfolder = "{self.folder}/photos"\n'
            f'[notifier]\nwebsocket = "{self.websocket}"\n[limits]\n{limits}'
        )
        return {"WEBAPP_CONFIG": str(self.file)}

    def serve(self, redis_port: int, application: str = "webapp.wsgi", port: int = 0) -> tuple[Process, int]:
        """gunicorn on the server core, and its port."""
        port = port or free_port()
        argv = [
            sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1", "--threads", "4",
            "--worker-class", "gthread", "--keep-alive", "30", "--no-control-socket", application,
        ]  # fmt: skip
        process = Process("gunicorn", argv, SERVER_CORE, self.configure(redis_port))
        process.wait_for_port(port)
        return process, port

    def stop(self) -> None:
        self.postgres.stop()
        self.postgres.remove()


class Person:
    """Somebody of the seed, with a connection of their own."""

    def __init__(self, port: int, name: str) -> None:
        self.link = HTTPConnection("127.0.0.1", port, timeout=30)
        self.fields: dict[str, str] = {}
        said = self.ask("POST", "/api/session", json.dumps({"name": name, "password": PASSWORD}))
        self.token, self.id = said["token"], said["person"]["id"]
        self.fields = {"Authorization": f"Bearer {self.token}"}

    def ask(self, method: str, path: str, body: str | None = None) -> Any:
        """The answer's JSON; None without. Raises BenchFailed for any that is no success."""
        fields = self.fields | ({"Content-Type": "application/json"} if body else {})
        self.link.request(method, path, body, fields)
        answer = self.link.getresponse()
        said = answer.read()
        if answer.status >= 300:
            raise BenchFailed(f"{method} {path} was answered by {answer.status}: {said[:300]!r}")
        return json.loads(said) if said else None


def photos_of_others(person: Person) -> list[str]:
    found = person.ask("GET", "/api/discover?limit=36")["items"]
    return [photo["id"] for photo in found if photo["owner"]["id"] != person.id]


def feed(number: int, person: Person) -> Iterator[tuple[str, str, str | None]]:
    yield from itertools.repeat(("GET", "/api/feed?limit=20", None))


def photo(number: int, person: Person) -> Iterator[tuple[str, str, str | None]]:
    for one in itertools.cycle(photos_of_others(person)):
        yield "GET", f"/api/photos/{one}", None


def like(number: int, person: Person) -> Iterator[tuple[str, str, str | None]]:
    mine = photos_of_others(person)
    for method in itertools.cycle(("PUT", "DELETE")):
        for one in mine:
            yield method, f"/api/photos/{one}/like", None


def comment(number: int, person: Person) -> Iterator[tuple[str, str, str | None]]:
    for one in itertools.cycle(photos_of_others(person)):
        yield "POST", f"/api/photos/{one}/comments", '{"text": "The colours, the light!"}'


def bare(number: int, person: Person) -> Iterator[tuple[str, str, str | None]]:
    yield from itertools.repeat(("GET", "/bare", None))


def cpu(groups: dict[str, Sequence[int]]) -> dict[str, int]:
    return {name: sum(map(cpu_ns, pids)) for name, pids in groups.items()}


class Client(threading.Thread):
    """Asks as fast as it is answered, until told to stop. `times`: seconds of each answer."""

    def __init__(self, person: Person, requests: Iterator[tuple[str, str, str | None]]) -> None:
        super().__init__(daemon=True)
        self.person, self.requests = person, requests
        self.times: list[float] = []
        self.fault: Exception | None = None
        self.halt = False

    def run(self) -> None:
        try:
            for method, path, body in self.requests:
                if self.halt:
                    return
                began = time.perf_counter()
                self.person.ask(method, path, body)
                self.times.append(time.perf_counter() - began)
        except Exception as fault:  # told by the main thread
            self.fault = fault


def variant(site: Site, name: str, requests: Requests, seconds: float) -> Variant:
    def start() -> Running:
        store, redis_port = start_redis()
        process, port = site.serve(redis_port, "bench.web_bare" if requests is bare else "webapp.wsgi")
        return Running(port, (process, store), redis_port, {"redis": store.pids()})

    def run(running: Running) -> Result:
        people = [_person(running.port, number, requests is bare) for number in range(CLIENTS)]
        clients = [Client(one, requests(number, one)) for number, one in enumerate(people)]
        for client in clients:
            client.start()
        time.sleep(1.0)  # connections to PostgreSQL are made, statements planned
        site.pin()
        groups: dict[str, Sequence[int]] = {
            "web": running.processes[0].pids(), "redis": running.groups["redis"],
            "postgresql": list(_descendants(site.postgres.pid)),
        }  # fmt: skip
        for client in clients:
            client.times = []
        before, began = cpu(groups), time.monotonic()
        time.sleep(seconds)
        used, took = cpu(groups), time.monotonic() - began
        times = sorted(itertools.chain.from_iterable(client.times for client in clients))
        for client in clients:
            client.halt = True
        for client in clients:
            client.join(30)
            if client.fault is not None:
                raise BenchFailed(str(client.fault))
        figures = {f"{name}_us": (used[name] - before[name]) / 1000 / len(times) for name in used}
        if requests is bare:
            figures |= {"postgresql_us": 0.0, "redis_us": 0.0}
        return {**figures, "per_s": len(times) / took, **percentiles(times)}

    return Variant(name, start, run)


def _person(port: int, number: int, unknown: bool) -> Person:
    if not unknown:
        return Person(port, PEOPLE[number % len(PEOPLE)].name)
    nobody = Person.__new__(Person)
    nobody.link, nobody.fields = HTTPConnection("127.0.0.1", port, timeout=30), {}
    return nobody


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """Of seconds, in ms."""
    hundredths = statistics.quantiles(times, n=100)
    return {"p50_ms": hundredths[49] * 1000, "p99_ms": hundredths[98] * 1000}


def live(site: Site, rate: float, seconds: float) -> None:
    """From a like's request to a page in Chromium that hears of it. gunicorn, relay and notifier share one core."""
    port = free_port()
    keys = f'[[tokens.keys]]\nkid = "webapp"\nalgorithm = "EdDSA"\nfile = "{site.public}"\n'
    origins = f'websocket.origins = ["http://127.0.0.1:{port}"]'
    daemon: Daemon = start_daemon(aof=True, settings=keys, top=origins)
    site.websocket = f"ws://127.0.0.1:{daemon.port}/v1/websocket"
    gunicorn, _ = site.serve(daemon.redis_port or 0, port=port)
    relay = Process("relay", site.manage("relay"), SERVER_CORE, site.configure(daemon.redis_port or 0))
    try:
        owner, others = Person(port, PEOPLE[0].name), [Person(port, one.name) for one in PEOPLE[1:]]
        mine = [photo["id"] for photo in owner.ask("GET", f"/api/people/{PEOPLE[0].name}/photos")["items"]]
        deeds = [(one, photo) for photo in mine for one in others]
        for one, photo_id in deeds:
            one.ask("DELETE", f"/api/photos/{photo_id}/like")
        with browser() as driver:
            driver.get(f"http://127.0.0.1:{port}/")
            driver.execute_script(LISTEN, site.websocket, owner.token)
            time.sleep(2.0)
            times = _heard(driver, _give(deeds, rate, seconds))
    finally:
        for process in (relay, gunicorn):
            process.stop()
        daemon.stop()
    found = percentiles(times)
    print("| like to the page | p50 ms | p99 ms | likes |\n| --- | --- | --- | --- |")
    print(
        f"| {rate:g} likes/s, AOF everysec | {found['p50_ms']:.1f} | {found['p99_ms']:.1f} | {len(times):,} |"
    )
    print(f"\n{machine()}.")


# In the site's own page: what comes over the WebSocket, with the time (Unix, ms) at which the page's script has it.
LISTEN = """
const [url, token] = arguments;
window.heard = [];
const socket = new WebSocket(url, ["notifier.v1", `bearer.${token}`]);
socket.onmessage = ({data}) => {
  const now = performance.timeOrigin + performance.now(), message = JSON.parse(data);
  if (message.type !== "notification") return;
  window.heard.push([message.actors[0].id, message.object.id, now]);
  if (window.heard.length % 20 === 0) socket.send(JSON.stringify({type: "ack", seq: message.seq}));
};
"""


@contextmanager
def browser() -> Iterator[Any]:
    """Headless Chromium on the load core. Raises NotInstalled."""
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if program is None or driver is None:
        raise NotInstalled("chromium and chromedriver (Debian: apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(word)
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {LOAD_CORE})  # its children stay there
    running = webdriver.Chrome(options=options, service=Service(driver))
    os.sched_setaffinity(0, before)
    try:
        yield running
    finally:
        running.quit()


def _heard(driver: Any, sent: Sequence[tuple[str, str, float]]) -> list[float]:
    """Seconds from each like to the page. Raises BenchFailed when one has not arrived, or twice."""
    deadline = time.monotonic() + 10
    while len(heard := driver.execute_script("return window.heard")) < len(sent):
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    if len(heard) != len(sent):
        raise BenchFailed(f"{len(heard)} of {len(sent)} likes reached the page")
    waiting: dict[tuple[str, str], list[float]] = {}
    for who, photo_id, at in sent:
        waiting.setdefault((who, photo_id), []).append(at)
    return [now / 1000 - waiting[who, photo_id].pop(0) for who, photo_id, now in heard]


def _give(deeds: Sequence[tuple[Person, str]], rate: float, seconds: float) -> list[tuple[str, str, float]]:
    """Likes at an even rate, each taken back much later: who, which photo, when (Unix, s)."""
    sent: list[tuple[str, str, float]] = []
    end, due = time.time() + seconds, time.time()
    while True:
        for one, photo_id in deeds:
            if time.time() > end:
                return sent
            time.sleep(max(0.0, due - time.time()))
            due = max(due + 1 / rate, time.time())
            sent.append((one.id, photo_id, time.time()))
            one.ask("PUT", f"/api/photos/{photo_id}/like")
        for one, photo_id in deeds:
            one.ask("DELETE", f"/api/photos/{photo_id}/like")


def main(arguments: Sequence[str]) -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(
        "python -m bench web", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5.0, help="measured time of each run")
    parser.add_argument(
        "--live", action="store_true", help="from a like to a page in Chromium, at --rate a second"
    )
    parser.add_argument("--rate", type=float, default=100.0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="webapp-bench-") as folder:
        Path(folder).chmod(0o755)
        site = Site(Path(folder))
        try:
            if options.live:
                live(site, options.rate, options.seconds)
                return
            rows = {
                "a bare view": bare,
                "photo": photo,
                "feed of 20": feed,
                "like, unlike": like,
                "comment": comment,
            }
            variants = [variant(site, name, requests, options.seconds) for name, requests in rows.items()]
            print(interleave(variants, options.rounds).markdown(COLUMNS))
        finally:
            site.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
