"""The photo API's relay: events from PostgreSQL's outbox to the stream, beside a bare loop; edges; fan-outs.

PostgreSQL with its own settings (every commit is synced) and Redis run on the load core, relays on the server core.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import psycopg2
import redis

from bench.harness import (
    LOAD_CORE,
    SERVER_CORE,
    BenchFailed,
    Column,
    Process,
    Result,
    Running,
    Variant,
    _descendants,
    cpu_ns,
    interleave,
    start_redis,
)
from webapp.config import load, secret
from webapp.embedded import Postgres

SHARDS = 8
BATCH = 500
FOLLOWERS = 10_000
STREAM = "notifier:events"
EVENT = (
    '{"type":"like","actor":{"id":"987654","name":"marie_curie","image":"/media/a/ab/cdef0123456789.jpg"},'
    '"to":["123456"],"object":{"type":"photo","id":"765432109876543210","url":"/p/765432109876543210",'
    '"image":"/media/p/ab/cdef0123456789-square.jpg"}}'
)
COLUMNS = (
    Column("per_s", "rows/s", 0),
    Column("relay_us", "relay CPU µs/row", 1),
    Column("postgresql_us", "PostgreSQL µs", 1),
    Column("redis_us", "Redis µs", 1),
    Column("feeds_per_s", "feeds/s", 0),
)
# Every lane of every shard has as many as any other, in one transaction: the relays see all of them at once.
FILL = (
    "INSERT INTO s{shard:04}.outbox (lane, kind, payload) "
    "SELECT {first} + number %% 16, %s, replace(%s, 'NUMBER', number::text) FROM generate_series(1, %s) AS number"
)


class Site:
    """PostgreSQL of one bench, migrated; Redis is each variant's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._link: Any = None
        self.postgres = Postgres(folder / "postgresql")
        self.postgres.start()
        for pid in _descendants(self.postgres.pid):
            os.sched_setaffinity(pid, {LOAD_CORE})

    def configure(self, redis_port: int) -> dict[str, str]:
        """The environment of a process of the photo API."""
        file = self.folder / "webapp.toml"
        node = (
            f'{{shards = "0-{SHARDS - 1}", primary = "{self.postgres.url}", '
            f'password_file = "{self.postgres.password_file}"}}'
        )
        file.write_text(
            f'[shards]\ncount = {SHARDS}\nnodes = [{node}]\n[redis]\nurl = "redis://127.0.0.1:{redis_port}/0"\n'
        )
        return {"WEBAPP_CONFIG": str(file)}

    def run(self, statements: Sequence[tuple[str, Sequence[Any]]]) -> None:
        """In one transaction."""
        with self.link() as link, link.cursor() as cursor:
            for statement, values in statements:
                cursor.execute(statement, values)

    def empty(self) -> None:
        """No rows anywhere, no dead ones, and statistics that say so."""
        names = [
            f"s{shard:04}.{table}" for shard in range(SHARDS) for table in ("outbox", "follower", "person")
        ]
        self.run([(f"TRUNCATE {', '.join(names)}", ())])

    def waiting(self) -> bool:
        """Whether any outbox has a row."""
        with self.link() as link, link.cursor() as cursor:
            looks = (f"EXISTS (SELECT FROM s{shard:04}.outbox)" for shard in range(SHARDS))
            cursor.execute(f"SELECT {' OR '.join(looks)}")
            found: bool = cursor.fetchone()[0]
        return found

    def link(self) -> Any:
        """One connection all along: a process that ends takes the CPU that it used with it."""
        if self._link is None:
            self._link = self.postgres.connect()
        return self._link

    def stop(self) -> None:
        if self._link is not None:
            self._link.close()
        self.postgres.stop()
        self.postgres.remove()


def fill(kind: str, payload: str, count: int) -> list[tuple[str, Sequence[Any]]]:
    first = 0 if kind == "event" else 16
    return [
        (FILL.format(shard=shard, first=first), (kind, payload, count // SHARDS)) for shard in range(SHARDS)
    ]


def people(shard: int, followers: int) -> tuple[str, Sequence[Any]]:
    """A hundred people of a shard."""
    statement = (
        f"INSERT INTO s{shard:04}.person "
        "(id, name, password, display_name, bio, avatar, followers, following, photos) "
        "SELECT number << 23 | %s, 'p' || number, '', '', '', '', %s, 0, 0 FROM generate_series(1, 100) AS number"
    )
    return statement, (shard << 10, followers)


def starter(site: Site, argv: Sequence[str], count: int) -> Callable[[], Running]:
    """Starts `count` processes and waits until each has looked and found nothing."""

    def start() -> Running:
        site.empty()
        store, port = start_redis("--appendonly", "no")
        environment = site.configure(port)
        processes = [
            Process(f"relay {number}", [sys.executable, *argv], SERVER_CORE, environment)
            for number in range(count)
        ]
        deadline = time.monotonic() + 60
        while not all("looking" in process.output() for process in processes):
            if time.monotonic() > deadline:
                raise BenchFailed(f"no relay runs: {processes[0].log()}")
            time.sleep(0.05)
        time.sleep(1.5)  # their connections are made, their statements planned
        groups = {"relay": [process.pid for process in processes], "redis": store.pids()}
        return Running(0, (*processes, store), port, groups)

    return start


def cpu(site: Site, running: Running) -> dict[str, int]:
    groups = {**running.groups, "postgresql": list(_descendants(site.postgres.pid))}
    return {name: sum(map(cpu_ns, pids)) for name, pids in groups.items()}


def measured(
    site: Site, running: Running, work: Callable[[], None], done: Callable[[], bool], count: int
) -> Result:
    """From the moment at which the rows can be seen until all are done."""
    work()
    with redis.Redis(port=running.redis_port or 0) as client:
        client.publish("webapp:outbox", "all")
    before, start = cpu(site, running), time.monotonic()
    while not done():
        if time.monotonic() - start > 300:
            raise BenchFailed(f"{count} rows are not done after 300 s: {running.processes[0].log()}")
        time.sleep(0.01)
    seconds = time.monotonic() - start
    used = cpu(site, running)
    figures = {f"{name}_us": (used[name] - before[name]) / 1000 / count for name in used}
    return {**figures, "per_s": count / seconds}


def events(site: Site, count: int) -> Callable[[Running], Result]:
    def run(running: Running) -> Result:
        with redis.Redis(port=running.redis_port or 0) as client:
            figures = measured(
                site,
                running,
                lambda: site.run(fill("event", EVENT, count)),
                lambda: int(client.xlen(STREAM)) >= count,
                count,
            )
            while site.waiting():
                time.sleep(0.02)
            if (arrived := client.xlen(STREAM)) != count:
                raise BenchFailed(f"{arrived} events of {count} are in the stream")
        return figures

    return run


def edges(site: Site, count: int) -> Callable[[Running], Result]:
    """Each a new follower of one of 800 people. The followers have no feed in Redis."""

    def run(running: Running) -> Result:
        payload = '{"follower":%d000NUMBER,"followee":%d,"active":true}'
        site.run([people(shard, 0) for shard in range(SHARDS)])
        rows = [
            (
                FILL.format(shard=shard, first=16),
                ("edge", payload % (shard + 1, 7 << 23 | ((shard + 1) % SHARDS) << 10), count // SHARDS),
            )
            for shard in range(SHARDS)
        ]
        return measured(site, running, lambda: site.run(rows), lambda: not site.waiting(), count)

    return run


def fan_outs(site: Site, count: int) -> Callable[[Running], Result]:
    """Photos of somebody with 10 000 followers, all of whom have a feed."""

    def run(running: Running) -> Result:
        owner = 7 << 23
        site.run(
            [
                people(0, FOLLOWERS),
                (
                    "INSERT INTO s0000.follower (followee_id, follower_id, change, active)"
                    " SELECT %s, number, 1, true FROM generate_series(1, %s) AS number",
                    (owner, FOLLOWERS),
                ),
            ]
        )
        with redis.Redis(port=running.redis_port or 0) as client, client.pipeline(transaction=False) as batch:
            for person in range(1, FOLLOWERS + 1):
                batch.zadd(f"feed:{person}", {"!": 0, **{f"{old:019}:{owner}": 0 for old in range(100)}})
            batch.execute()
            payload = f'{{"photo":1000NUMBER,"owner":{owner}}}'
            rows = (FILL.format(shard=0, first=16), ("fanout", payload, count))
            figures = measured(site, running, lambda: site.run([rows]), lambda: not site.waiting(), count)
            if client.zcard("feed:1") != 101 + count:
                raise BenchFailed(f"the feed of a follower has {client.zcard('feed:1')} members")
        return {**figures, "feeds_per_s": (figures["per_s"] or 0) * FOLLOWERS}

    return run


def bare() -> None:
    """What the libraries take for the same: rows read, added to the stream, deleted, by one process alone.

    No claims, no order between processes, no second kind of row, no figures.
    """
    config = load(Path(os.environ["WEBAPP_CONFIG"]))
    node = config.shards.nodes[0]
    link = psycopg2.connect(node.primary, password=secret(node.password_file, ""))
    client = redis.Redis.from_url(config.redis.url)
    print("looking", flush=True)
    while True:
        for shard in range(SHARDS):
            with link, link.cursor() as cursor:
                cursor.execute(f"SELECT id, payload FROM s{shard:04}.outbox ORDER BY id LIMIT {4 * BATCH}")
                if not (rows := cursor.fetchall()):
                    continue
                with client.pipeline(transaction=False) as batch:
                    for _, payload in rows:
                        batch.xadd(STREAM, {"event": payload})
                    batch.execute()
                cursor.execute(
                    f"DELETE FROM s{shard:04}.outbox WHERE id = ANY(%s)", ([number for number, _ in rows],)
                )
        time.sleep(0.001)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--events", type=int, default=160_000)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    chosen = parser.parse_args(words)
    if chosen.bare:
        bare()
    folder = tempfile.TemporaryDirectory(prefix="notifier-bench-")
    Path(folder.name).chmod(0o755)  # under root PostgreSQL is another user
    site = Site(Path(folder.name))
    try:
        migrate(site)
        relay = ("-m", "webapp", "relay")
        variants = [
            Variant("events, one relay", starter(site, relay, 1), events(site, chosen.events)),
            Variant(
                "events, a bare loop",
                starter(site, ("-m", "bench.webapp_relay", "--bare"), 1),
                events(site, chosen.events),
            ),
            Variant("events, two relays on one core", starter(site, relay, 2), events(site, chosen.events)),
            Variant("follows, one relay", starter(site, relay, 1), edges(site, chosen.events // 8)),
            Variant("photos to 10 000 feeds, one relay", starter(site, relay, 1), fan_outs(site, 50)),
        ]
        table = interleave(variants, chosen.rounds)
    finally:
        site.stop()
        folder.cleanup()
    print(table.markdown(COLUMNS))
    sys.exit(1 if table.missing else 0)


def migrate(site: Site) -> None:
    process = Process(
        "migrate", [sys.executable, "-m", "webapp", "migrate_shards"], LOAD_CORE, site.configure(1)
    )
    process.wait(120)


if __name__ == "__main__":
    main()
