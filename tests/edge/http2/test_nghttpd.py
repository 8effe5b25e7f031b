"""Our client against nghttpd, the C server of nghttp2, with small windows, few streams and a table for its answers."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from notifier.core.http2 import Answered, Limits
from notifier.edge.http2.dial import endpoint
from notifier.edge.http2.pool import Pool, Push
from tests.core.http2.world import APNS, ID
from tests.edge.http2.world import PAPERS, Told, reactor, trust, until
from tests.servers import missing


@contextmanager
def nghttpd(folder: Path, *options: str) -> Iterator[int]:
    """Sends back what it is sent. The port."""
    program = shutil.which("nghttpd", path="/usr/local/sbin:/usr/sbin:/usr/local/bin:/usr/bin")
    if program is None:
        missing("nghttpd", "not in PATH (Debian: nghttp2-server)")
    assert program is not None
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    private = PAPERS.privateKey.original.to_cryptography_key()
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    certificate.write_bytes(PAPERS.original.to_cryptography().public_bytes(Encoding.PEM))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    argv = [program, "--address=127.0.0.1", "--echo-upload", *options, str(port), str(key), str(certificate)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            deadline = time.monotonic() + 30
            while True:
                assert server.poll() is None, "nghttpd ended"
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < deadline, "nghttpd does not listen"
                    time.sleep(0.02)
            yield port
        finally:
            server.kill()


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        ((), Limits()),
        (("-m1",), Limits()),
        (("-w10", "-m7"), Limits()),
        ((), Limits(header_table=4096, headers_of_success=True)),
        (("-c0", "-b16"), Limits(first_alone=True)),
    ],
)
async def test_each_push_is_answered_by_its_own_body(
    tmp_path: Path, options: tuple[str, ...], limits: Limits
) -> None:
    with nghttpd(tmp_path, *options) as port:
        told = Told()
        pool: Pool[int] = Pool(reactor, endpoint(reactor, "localhost", port, trust()), told.extend, limits)
        bodies = [b'{"n":%d,"fill":"%b"}' % (number, b"x" * (number * 7 % 4_000)) for number in range(500)]
        for number, body in enumerate(bodies):
            pool.push(Push(number, APNS, (b"%064x" % number, ID), body))
        await until(lambda: len(told) == len(bodies))
        told.kinds()  # each once
        for result in told:
            assert isinstance(result, Answered), result
            assert (result.status, result.body) == (200, bodies[result.context.context])
        await pool.stop()
