"""S3 as the storage: an S3 that does not answer is given up on soon, without a network here to show it on."""

from __future__ import annotations

import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator

import msgspec
import pytest

from tests.servers import missing
from webapp import config
from webapp.storage import Store

OPTIONS = {
    "bucket_name": "b", "region_name": "eu-west-1", "access_key": "k", "secret_key": "s",
    "addressing_style": "path", "signature_version": "s3v4",
}  # fmt: skip
S3 = config.Photos(storage="storages.backends.s3.S3Storage", options=dict(OPTIONS))


@pytest.fixture(autouse=True)
def boto3() -> None:
    if importlib.util.find_spec("boto3") is None:
        missing("boto3", "pip install 'django-storages[s3]'")


@pytest.fixture
def silent() -> Iterator[tuple[str, list[socket.socket]]]:
    """A server that takes connections and never says anything: its address, and whoever came."""
    came: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            try:
                while True:
                    came.append(server.accept()[0])
            except OSError:
                pass

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}", came
        server.shutdown(socket.SHUT_RDWR)
    thread.join()
    for one in came:
        one.close()


def test_what_botocore_is_told() -> None:
    told = Store(S3).files.connection.meta.client.meta.config
    assert (told.connect_timeout, told.read_timeout) == (2.0, 8.0)
    assert told.retries == {"mode": "standard", "total_max_attempts": 2}
    # Of a call that is never answered, relays must be back before PostgreSQL ends their transaction: a minute.
    assert 2 * told.retries["total_max_attempts"] * (told.connect_timeout + told.read_timeout) < 60


def test_what_else_was_asked_for_stays() -> None:
    told = Store(S3).files.connection.meta.client.meta.config
    assert (told.s3["addressing_style"], told.signature_version) == ("path", "s3v4")


def test_settings() -> None:
    told = Store(msgspec.structs.replace(S3, connect_seconds=1.5, answer_seconds=30.0, attempts=5)).files
    found = told.connection.meta.client.meta.config
    assert (found.connect_timeout, found.read_timeout) == (1.5, 30.0)
    assert found.retries["total_max_attempts"] == 5


def test_an_s3_that_does_not_answer_is_given_up_on(silent: tuple[str, list[socket.socket]]) -> None:
    url, came = silent
    store = Store(
        msgspec.structs.replace(S3, options={**OPTIONS, "endpoint_url": url}, answer_seconds=0.1, attempts=2)
    )
    calls: list[Callable[[], None]] = [lambda: store.save("a.jpg", b"x"), lambda: store.delete("a.jpg")]
    for call in calls:
        before = len(came)
        with pytest.raises(Exception, match="Read timeout on endpoint URL"):
            call()
        assert len(came) - before == 2


def test_other_storages_are_left_alone() -> None:
    assert not hasattr(Store(config.Photos()).files, "client_config")
