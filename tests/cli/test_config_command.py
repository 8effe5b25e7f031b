"""`notifier config`: check, default, reference."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from notifier.cli.main import notifier
from notifier.config import default_toml, reference_markdown
from notifier.edge.operator_key import make_operator_key


def _run(*arguments: str, **environ: str) -> Result:
    return CliRunner(env=dict(environ)).invoke(notifier, ["config", *arguments])


def test_default_and_reference_are_those_of_the_configuration() -> None:
    assert _run("default").stdout == default_toml()
    assert _run("reference").stdout == reference_markdown()


def test_the_default_passes_the_check(tmp_path: Path) -> None:
    file = tmp_path / "notifier.toml"
    file.write_text(_run("default").stdout)
    result = _run("check", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{file}: fine" in result.stderr
    assert "nobody can authenticate" in result.stderr


def test_every_fault_is_told() -> None:
    result = _run("check", NOTIFIER_REDIS__SHARDS="100", NOTIFIER_LOG__LEVEL="verbose")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "2 faults" in result.stderr
    assert "NOTIFIER_REDIS__SHARDS: found 100" in result.stderr


def test_a_file_that_is_not_there() -> None:
    result = _run("check", "/nowhere/notifier.toml")
    assert result.exit_code == 1
    assert "there is no such file" in result.stderr


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_operator_key(tmp_path, "one")
    (tmp_path / "notifier.toml").write_text(
        '[redis]\npassword_file = "password"\n[[tokens.keys]]\nkid = "one"\nalgorithm = "EdDSA"\nfile = "one.pub"\n'
    )
    (tmp_path / "password").write_text("secret\n")
    (tmp_path / "password").chmod(0o600)
    return tmp_path


def test_the_files_that_are_named_are_looked_into(folder: Path) -> None:
    result = _run("check", str(folder / "notifier.toml"))
    assert (result.exit_code, result.stderr) == (0, f"{folder / 'notifier.toml'}: fine\n")


def test_an_empty_password_and_a_private_key_are_faults(folder: Path) -> None:
    (folder / "password").write_text("\n")
    (folder / "one.pub").write_bytes((folder / "one.key").read_bytes())
    result = _run("check", str(folder / "notifier.toml"))
    assert result.exit_code == 1
    assert "redis.password_file" in result.stderr
    assert "is empty" in result.stderr
    assert "private key" in result.stderr


def test_a_password_that_others_can_read_is_a_fault(folder: Path) -> None:
    (folder / "password").chmod(0o640)
    result = _run("check", str(folder / "notifier.toml"))
    assert result.exit_code == 1
    assert "redis.password_file" in result.stderr
    assert "open to other users: chmod 600" in result.stderr
