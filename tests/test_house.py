"""The house rules, held over the syntax trees: which way imports point, what the pure side may use, names."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OURS = ("notifier", "webapp", "tests", "bench")
PLUGIN = "twisted.plugins.notifier_plugin"
ANY = None


@dataclass(frozen=True)
class Layer:
    """What the modules below one name may import: of ours by name prefix, of others by package (ANY: all)."""

    ours: tuple[str, ...]
    others: tuple[str, ...] | None
    pure: bool = False


PURE = ("msgspec",)
INNER = ("notifier.config", "notifier.core", "notifier.metrics", "notifier.ports")
HOUSE = {
    "notifier.core": Layer(("notifier.core",), PURE, pure=True),
    "notifier.ports": Layer(("notifier.core",), PURE),
    "notifier.pipeline": Layer(INNER, PURE),
    "notifier.ledger": Layer(INNER, PURE),
    "notifier.sending": Layer((*INNER, "notifier.ledger"), PURE),
    "notifier.config": Layer((), PURE),
    "notifier.metrics": Layer((), ("msgspec", "prometheus_client")),
    "notifier.edge": Layer((*INNER, "notifier.edge"), ANY),
    "notifier.sandbox": Layer((*INNER, "notifier.edge", "notifier.sandbox"), ANY),
    "notifier.phones": Layer((*INNER, "notifier.edge", "notifier.sending"), ANY),
    "notifier.service": Layer(
        (*INNER, "notifier.edge", "notifier.phones", "notifier.pipeline", "notifier.sending"), ANY
    ),
    "notifier.cli": Layer(("notifier",), ANY),
    "notifier": Layer((), ()),
    "webapp": Layer(("webapp",), ANY),
    PLUGIN: Layer((), ("twisted.application.service",)),
}
# Clocks, chance, sockets and other processes are given to the pure side, never taken by it.
OUTSIDE = (
    *("asyncio", "select", "selectors", "signal", "socket", "ssl", "threading", "time"),
    *(
        "http",
        "multiprocessing",
        "os",
        "random",
        "secrets",
        "shutil",
        "subprocess",
        "tempfile",
        "urllib.request",
    ),
)
CLOCK_CALLS = frozenset({"now", "utcnow", "today"})
VAGUE = frozenset({"utils", "util", "common", "helpers", "helper", "manager", "base"})
# Django imports what its setting ENGINE names, with ".base" behind it.
NAMED_BY_OTHERS = frozenset({Path("webapp/shards/backend/base.py")})


def imports(tree: ast.Module, module: str, package: bool) -> Iterator[tuple[int, str]]:
    """(line, full name) of all that `module` imports: also in functions, by relative name, by string."""
    here = module if package else module.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            above = here.rsplit(".", node.level - 1)[0] if node.level else ""
            source = ".".join(part for part in (above, node.module) if part)
            for alias in node.names:
                yield node.lineno, f"{source}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                (node.lineno, str(arg.value)) for arg in node.args[:1] if isinstance(arg, ast.Constant)
            )


def layer_of(module: str) -> Layer | None:
    """The rule with the longest name that holds `module`. That of `notifier` holds for nothing below it."""
    if module == "notifier":
        return HOUSE["notifier"]
    names = [name for name in HOUSE if name != "notifier" and _within(module, name)]
    return HOUSE[max(names, key=len)] if names else None


def faults(source: str, module: str, package: bool = False) -> list[str]:
    """What `source`, read as `module`, does against the house rules, as "line: what"."""
    tree = ast.parse(source, filename=module)
    found = list(_everywhere(tree, module, package))
    if module.split(".")[0] not in ("tests", "bench"):
        layer = layer_of(module)
        if layer is None:
            return [*found, f"0: {module} belongs to no layer of the house"]
        found += _wrong_way(tree, module, package, layer)
        if layer.pure:
            found += _impure(tree, module, package)
    return found


def _within(name: str, *prefixes: str) -> bool:
    return any(name == prefix or name.startswith(prefix + ".") for prefix in prefixes)


def _wrong_way(tree: ast.Module, module: str, package: bool, layer: Layer) -> Iterator[str]:
    for line, name in imports(tree, module, package):
        top = name.split(".")[0]
        if top in OURS:
            allowed: tuple[str, ...] | None = layer.ours
        else:
            allowed = ANY if top in sys.stdlib_module_names else layer.others
        if allowed is not ANY and not _within(name, *allowed):
            yield f"{line}: {module} must not import {name} (allowed: {', '.join(allowed) or 'none'})"


def _impure(tree: ast.Module, module: str, package: bool) -> Iterator[str]:
    for line, name in imports(tree, module, package):
        if _within(name, *OUTSIDE):
            yield f"{line}: the pure side must not import {name}: let it be given"
    for node in ast.walk(tree):
        if isinstance(node, ast.AsyncFunctionDef | ast.AsyncFor | ast.AsyncWith | ast.Await):
            yield f"{node.lineno}: the pure side awaits nothing"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in CLOCK_CALLS:
            yield f"{node.lineno}: the pure side has no clock ({ast.unparse(node.func)})"


def _everywhere(tree: ast.Module, module: str, package: bool) -> Iterator[str]:
    for line, name in imports(tree, module, package):
        if _within(name, "mock", "unittest.mock"):
            yield f"{line}: no mocks: a real server, or the double in notifier.edge.memory"
        if name.endswith(".inlineCallbacks"):
            yield f"{line}: async def, not inlineCallbacks"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "inlineCallbacks":
            yield f"{node.lineno}: async def, not inlineCallbacks"


def sources() -> list[Path]:
    """Every Python file of ours, relative to the root."""
    folders = (*OURS, "twisted")
    return sorted(file.relative_to(ROOT) for folder in folders for file in (ROOT / folder).rglob("*.py"))


def module_of(file: Path) -> tuple[str, bool]:
    """(dotted name, is it a package) of a file relative to the root."""
    parts = file.with_suffix("").parts
    package = parts[-1] == "__init__"
    return ".".join(parts[:-1] if package else parts), package


def test_the_house_is_clean() -> None:
    found = [
        f"{file}:{fault}"
        for file in sources()
        for fault in faults((ROOT / file).read_text(encoding="utf-8"), *module_of(file))
    ]
    assert not found, "\n" + "\n".join(found)


def test_no_file_has_a_name_that_says_nothing() -> None:
    files = set(sources()) - NAMED_BY_OTHERS
    vague = [str(file) for file in files if VAGUE & {part.lower() for part in file.with_suffix("").parts}]
    assert not vague


def test_the_checker_sees_the_files() -> None:
    names = {module_of(file)[0] for file in sources()}
    assert {"notifier", "notifier.core", "notifier.edge.embedded", "tests.test_house", PLUGIN} <= names


def test_twisted_stays_a_namespace_here() -> None:
    """An __init__.py in either folder would hide Twisted itself, or its other plugins."""
    assert not list((ROOT / "twisted").rglob("__init__.py"))


BAD = [
    ("notifier.core.rules", "import twisted"),
    ("notifier.core.rules", "from twisted.internet import defer"),
    ("notifier.core.rules", "def late():\n    import twisted.internet.reactor"),
    ("notifier.core.rules", "import hiredis"),
    ("notifier.core.rules", "from notifier.ports import Inbox"),
    ("notifier.core.rules", "from notifier import ports"),
    ("notifier.core.rules", "from .. import edge"),
    ("notifier.core.rules", "from ..edge.redis import Link"),
    ("notifier.core.http2.hpack", "from ...edge import redis"),
    ("notifier.core.rules", "import importlib\nimportlib.import_module('notifier.edge.redis')"),
    ("notifier.core.rules", "import time"),
    ("notifier.core.rules", "import socket"),
    ("notifier.core.rules", "import random"),
    ("notifier.core.rules", "import datetime\ndatetime.datetime.now()"),
    ("notifier.core.rules", "async def fetch(): ..."),
    ("notifier.core.rules", "import notifier.config"),
    ("notifier.ports", "from twisted.internet.defer import Deferred"),
    ("notifier.ports", "from notifier.pipeline import Fanout"),
    ("notifier.ports", "import notifier.metrics"),
    ("notifier.pipeline", "from twisted.logger import Logger"),
    ("notifier.pipeline", "import autobahn"),
    ("notifier.pipeline", "import txredisapi"),
    ("notifier.pipeline", "import klein"),
    ("notifier.pipeline", "from notifier.edge import store"),
    ("notifier.sending", "from notifier.edge import store"),
    ("notifier.sending", "from notifier.pipeline import Fanout"),
    ("notifier.edge.push_store", "from notifier.sending import Sender"),
    ("notifier.pipeline", "from notifier.service import makeService"),
    ("notifier.edge.store", "from notifier.pipeline import Fanout"),
    ("notifier.edge.store", "from notifier import pipeline"),
    ("notifier.edge.store", "import notifier.service"),
    ("notifier.edge.store", "from ..cli import main"),
    ("notifier.config", "from notifier.core import keys"),
    ("notifier.config", "import twisted"),
    ("notifier.metrics", "import notifier.config"),
    ("notifier.metrics", "from . import __version__"),
    ("notifier.service", "from notifier.cli.main import main"),
    ("notifier.sandbox.apns", "import notifier.service"),
    ("notifier.cli.demo", "import webapp.photos"),
    ("notifier.edge.api", "from tests import servers"),
    ("notifier", "from notifier.core import model"),
    ("notifier.misc", "x = 1"),
    ("webapp.photos", "from notifier.core import model"),
    (PLUGIN, "from notifier.service import Options"),
    (PLUGIN, "from twisted.internet import reactor"),
    ("tests.test_x", "import mock"),
    ("tests.test_x", "from unittest import mock"),
    ("tests.test_x", "from unittest.mock import Mock"),
    ("notifier.edge.loop", "from twisted.internet.defer import inlineCallbacks"),
    ("tests.test_x", "from twisted.internet import defer\n@defer.inlineCallbacks\ndef f(): yield"),
]
GOOD = [
    (
        "notifier.core.rules",
        "import msgspec, datetime\nfrom . import model\nfrom notifier.core.model import Event",
    ),
    ("notifier.core.http2.hpack", "from ..model import Event"),
    ("notifier.ports", "from typing import Protocol\nfrom notifier.core.model import Event"),
    ("notifier.pipeline", "from notifier import config, metrics, ports\nfrom notifier.core import rules"),
    (
        "notifier.edge.store",
        "from twisted.internet import defer\nfrom notifier import ports, metrics\nimport os",
    ),
    ("notifier.service", "from notifier.edge import hub\nfrom notifier import pipeline"),
    ("notifier.cli.demo", "from notifier import service, sandbox, __version__\nimport click, time"),
    ("webapp.photos", "from webapp import feed\nimport treq"),
    (PLUGIN, "from twisted.application.service import ServiceMaker"),
    ("tests.test_x", "import notifier.edge.hub, time"),
]


@pytest.mark.parametrize(("module", "source"), BAD)
def test_a_breach_is_seen(module: str, source: str) -> None:
    assert faults(source, module)


@pytest.mark.parametrize(("module", "source"), GOOD)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert faults(source, module) == []


def test_a_package_resolves_relative_names_from_itself() -> None:
    assert faults("from .rules import x", "notifier.core", package=True) == []
    assert faults("from ..edge import x", "notifier.core", package=True)
