"""The group: help that teaches, lazy imports, exit codes of usage."""

from __future__ import annotations

import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from notifier import __version__
from notifier.cli.main import COMMANDS, notifier

REGISTERED = list(COMMANDS)


def _help(*arguments: str) -> str:
    result = CliRunner().invoke(notifier, [*arguments, "--help"])
    assert result.exit_code == 0, result.output
    return result.output


def _loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit: pass\nprint('LOADED', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("LOADED ")[2].split())


def test_help_names_every_command_and_the_exit_codes() -> None:
    text = _help()
    for name, place in COMMANDS.items():
        assert name in text
        assert place.line in text
    assert "3 not reachable" in text.replace("\n", " ").replace("  ", " ")


@pytest.mark.parametrize("name", REGISTERED)
def test_every_command_is_where_the_table_says(name: str) -> None:
    command = notifier.get_command(click.Context(notifier), name)
    assert isinstance(command, click.Command)
    assert command.name == name


@pytest.mark.parametrize(
    "path",
    [
        *([name] for name in REGISTERED),
        *(["dlq", name] for name in ("ls", "show", "retry", "drop")),
        *(["config", name] for name in ("check", "default", "reference")),
    ],
    ids=" ".join,
)
def test_every_help_has_an_example(path: list[str]) -> None:
    text = _help(*path)
    assert "Example" in text
    assert f"notifier {path[0]}" in text.partition("Example")[2]


def test_help_loads_neither_twisted_nor_a_command() -> None:
    loaded = _loaded("from notifier.cli.main import main; main(['--help'])")
    assert "click" in loaded
    assert not {name for name in loaded if name.startswith(("twisted", "txredisapi", "notifier.cli.p"))}


def test_config_check_installs_no_reactor() -> None:
    loaded = _loaded("from notifier.cli.main import main; main(['config', 'check'])")
    assert "notifier.config" in loaded
    assert "twisted.internet.reactor" not in loaded


def test_version() -> None:
    result = CliRunner().invoke(notifier, ["--version"])
    assert result.output == f"notifier {__version__}\n"


@pytest.mark.parametrize(
    "arguments", [["pubish"], ["publish", "--nope"], ["dlq", "nope"], ["revoke"], ["revoke", "a b"]]
)
def test_usage_is_2_and_names_what_was_wrong(arguments: list[str]) -> None:
    result = CliRunner().invoke(notifier, arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "Error: " in result.stderr


def test_an_unknown_command_is_told_what_there_is() -> None:
    assert all(name in CliRunner().invoke(notifier, ["pubish"]).stderr for name in COMMANDS)
