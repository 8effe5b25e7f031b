"""`notifier token`: what it prints is what the daemon accepts."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from notifier.cli.folder import AUDIENCE, KID, DemoFolder
from notifier.cli.token import token
from notifier.core.tokens import Identity, Verifier
from notifier.edge import keyring
from notifier.edge.operator_key import make_operator_key


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, without a demo."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTIFIER_DEMO", raising=False)
    return tmp_path


def made(path: Path) -> DemoFolder:
    folder = DemoFolder(path)
    make_operator_key(folder.keys, KID)
    return folder


def run(*arguments: str) -> Result:
    return CliRunner().invoke(token, arguments)


def identity(folder: DemoFolder, text: str) -> Identity:
    keys = keyring.load([(KID, "EdDSA", str(folder.public_key))], None)
    return Verifier(keys, AUDIENCE, None, 86_400, 0).verify(text, time.time())


@pytest.mark.parametrize("user", ["7", "ana", "_x-Y.9", "a" * 64])
def test_it_prints_a_token_alone_on_one_line(here: Path, user: str) -> None:
    folder = made(here / ".demo")
    result = run(user)
    assert result.exit_code == 0
    line, rest = result.stdout.split("\n")
    assert (rest, result.stderr) == ("", "")
    found = identity(folder, line)
    assert found.user == user
    assert found.scopes == {"inbox"}
    assert 3590 <= found.expires - time.time() <= 3600


def test_scope_and_life_are_those_asked_for(here: Path) -> None:
    folder = made(here / ".demo")
    found = identity(folder, run("relay", "--scope", "publish inbox", "--life", "86400").stdout.strip())
    assert found.scopes == {"publish", "inbox"}
    assert 86_390 <= found.expires - time.time() <= 86_400


def test_a_folder_is_found_by_option_and_by_environment(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = made(here / "one"), made(here / "two")
    monkeypatch.setenv("NOTIFIER_DEMO", "two")
    assert identity(two, run("7").stdout.strip()).user == "7"
    assert identity(one, run("7", "--data", "one").stdout.strip()).user == "7"


def test_a_demo_with_its_data_elsewhere_is_found_where_it_is_announced(here: Path) -> None:
    elsewhere = made(here / "elsewhere")
    board = DemoFolder(here / ".demo")
    board.hold()
    board.announce({}, elsewhere.path)
    assert identity(elsewhere, run("7").stdout.strip()).user == "7"
    board.withdraw()
    board.release()
    assert run("7").exit_code == 3


@pytest.mark.parametrize("user", ["", "a b", "ü", "a/b", "a" * 65, "7\n"])
def test_a_bad_user_id_is_a_usage_error(here: Path, user: str) -> None:
    made(here / ".demo")
    result = run(user)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "is no user id" in result.stderr


@pytest.mark.parametrize("life", ["899", "86401", "x"])
def test_a_life_out_of_bounds_is_a_usage_error(here: Path, life: str) -> None:
    made(here / ".demo")
    assert run("7", "--life", life).exit_code == 2


def test_without_a_demo_it_says_where_it_looked(here: Path) -> None:
    result = run("7")
    assert (result.exit_code, result.stdout) == (3, "")
    assert str(here / ".demo" / "keys" / "demo.key") in result.stderr
    assert "make demo" in result.stderr
    assert not (here / ".demo").exists()


def test_a_broken_key_is_named(here: Path) -> None:
    folder = made(here / ".demo")
    folder.key.write_text("no key")
    result = run("7")
    assert result.exit_code == 1
    assert str(folder.key) in result.stderr
