"""The photo API's servers for tests: PostgreSQL from the wheel, with a replica on demand, and Django set up on it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path

from django.conf import settings
from django.db import connections

from webapp.config import load
from webapp.embedded import Postgres
from webapp.shards import all_shards, layout, schema
from webapp.shards.layout import Layout, databases
from webapp.shards.replicas import forget_all

# Nothing here outlives a machine: what makes PostgreSQL safe only makes tests slow.
FAST = {"fsync": "off", "full_page_writes": "off"}
TABLES = ("photo_like", "comment", "photo", "following", "follower", "outbox", "answered", "person")


class Stack:
    """What runs, and the configuration that says so, in a file that other processes can be given."""

    def __init__(self, redis_url: str) -> None:
        # Not pytest's own folder: under root PostgreSQL is another user, who cannot get in there.
        self.folder = Path(tempfile.mkdtemp(prefix="webapp-test-"))
        self.folder.chmod(0o755)
        self.redis_url = redis_url
        self.shards = 8
        self.database = "webapp"
        self.sections: dict[
            str, dict[str, object]
        ] = {}  # further settings, by section and name: write() them
        self.changed = False  # by a test, so that the next one must not find it
        self.primary = Postgres(self.folder / "primary", settings=FAST)
        self.replica = Postgres(self.folder / "replica", settings=FAST, primary=self.primary)

    @property
    def file(self) -> Path:
        """The configuration file."""
        return self.folder / "webapp.toml"

    def write(self, *, replicated: bool = False) -> None:
        """Writes the file, and has this process use what it says."""
        primary = self.primary.url.rpartition("/")[0] + f"/{self.database}"
        replicas = f', replicas = ["{self.replica.url}"]' if replicated else ""
        node = (
            f'{{shards = "0-{self.shards - 1}", primary = "{primary}"{replicas}, '
            f'password_file = "{self.primary.password_file}"}}'
        )
        sections: dict[str, dict[str, object]] = {
            "redis": {"url": self.redis_url},
            "photos": {"folder": str(self.folder / "photos")},
            **self.sections,
        }
        lines = {"shards": [f"count = {self.shards}", f"nodes = [{node}]"]}
        for section, values in sections.items():
            lines.setdefault(section, []).extend(
                f"{name} = {json.dumps(value)}" for name, value in values.items()
            )
        text = "".join("\n".join((f"[{section}]", *found, "")) for section, found in lines.items())
        self.changed = replicated or bool(self.sections)
        self.file.write_text(text, encoding="utf-8")
        os.environ["WEBAPP_CONFIG"] = str(self.file)
        use(self.file)

    def empty(self) -> None:
        """Removes every row of every shard, and every picture."""
        shutil.rmtree(self.folder / "photos", ignore_errors=True)
        names = [f"{schema(shard)}.{table}" for shard in all_shards() for table in TABLES]
        with self.primary.connect() as link, link.cursor() as cursor:
            # Not TRUNCATE: with so little in them deleting is a hundred times faster.
            cursor.execute("; ".join(f"DELETE FROM {name}" for name in names))
        link.close()

    def stop(self) -> None:
        """Stops all, removes all."""
        connections.close_all()
        for server in (self.replica, self.primary):
            server.stop()
            server.remove()
        shutil.rmtree(self.folder, ignore_errors=True)


def use(file: Path) -> None:
    """Has this process use another configuration: Django reads its own only once."""
    config = load(file)
    connections.close_all()
    settings.CONFIG = config
    settings.LAYOUT = Layout(config.shards.count, config.shards.nodes)
    settings.DATABASES = databases(config)
    for alias in list(connections.settings):
        if hasattr(connections._connections, alias):
            delattr(connections._connections, alias)
    connections._settings = None
    connections.__dict__.pop("settings", None)
    forget_all()
    assert connections.settings.keys() >= layout().aliases.keys()
