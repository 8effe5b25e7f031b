"""Secret files: read where their owner alone can, refused otherwise, by whatever reads the password of Redis."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from notifier.edge.redis import Address
from notifier.edge.secret_file import read_secret
from tests.daemon import Daemon
from tests.servers import Valkey

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(data: bytes, mode: int = 0o600) -> Path:
        path = tmp_path / "redis.password"
        path.write_bytes(data)
        path.chmod(mode)
        return path

    return write


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_the_text_comes_without_the_white_space_around_it(mode: int, write: Write) -> None:
    assert read_secret(write(b" s\xc3\xa9cret word\n", mode)) == "sécret word"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644, 0o440])
def test_what_others_can_open_is_refused_and_not_repeated(mode: int, write: Write) -> None:
    path = write(b"the secret", mode)
    with pytest.raises(ValueError, match="open to other users: chmod 600 it") as refused:
        read_secret(path)
    assert str(path) in str(refused.value)
    assert "the secret" not in str(refused.value)


def test_what_is_no_text_is_refused_and_not_repeated(write: Write) -> None:
    with pytest.raises(ValueError, match="is not text in UTF-8") as refused:
        read_secret(write(b"the secret \xff"))
    assert refused.value.__context__ is None, "an error of the decoder would carry the bytes"


def test_a_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_secret(tmp_path / "nowhere")


def test_the_password_of_redis_is_such_a_file(write: Write) -> None:
    assert Address.parse("redis://127.0.0.1:1/0", None, str(write(b"word\n"))).password == "word"
    with pytest.raises(ValueError, match="open to other users"):
        Address.parse("redis://127.0.0.1:1/0", None, str(write(b"word\n", 0o644)))


def test_a_daemon_does_not_start_with_a_password_that_others_can_read(tmp_path: Path, write: Write) -> None:
    with Valkey(tmp_path / "locked", aof=False, extra={"requirepass": "word"}) as server:
        settings = {"redis": {"password_file": str(write(b"word\n", 0o640))}}
        daemon = Daemon(tmp_path, server.url, settings)
        daemon.launch()
        assert daemon.ended(30) == 1
        assert f"notifier: {tmp_path / 'redis.password'} is a secret open to other users" in daemon.tail()
        write(b"word\n", 0o600)
        with daemon.start():
            daemon.stop()
