"""Our client against a server that nobody here wrote: Node's, which is nghttp2."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from notifier.core.http2 import Answered
from notifier.edge.http2.dial import endpoint
from notifier.edge.http2.pool import Pool, Push
from tests.core.http2.world import APNS, ID
from tests.edge.http2.world import PAPERS, Told, reactor, trust, until
from tests.servers import missing

SERVER = """
import {readFileSync} from "node:fs";
import {createSecureServer} from "node:http2";
const pem = readFileSync(process.argv[2]);
const server = createSecureServer({key: pem, cert: pem, settings: {maxConcurrentStreams: 50}});
let count = 0;
server.on("stream", (stream, headers) => {
  const parts = [];
  stream.on("data", (part) => parts.push(part));
  stream.on("error", () => {});
  stream.on("end", () => {
    const body = Buffer.concat(parts).toString();
    const wrong = headers["apns-id"] !== "ID" || headers[":authority"] !== "api.push.apple.com";
    const session = stream.session;
    if (++count === 1500) session.goaway(0);
    if (wrong) stream.respond({":status": 500}, {endStream: true});
    else if (headers[":path"].endsWith("dead")) {
      stream.respond({":status": 410, "content-type": "application/json"});
      stream.end(JSON.stringify({reason: "Unregistered", body}));
    } else if (headers[":path"].endsWith("beef")) stream.close(7);
    else stream.respond({":status": 200, "apns-id": headers["apns-id"]}, {endStream: true});
    if (count === 1500) session.close();
  });
});
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
""".replace("ID", ID.decode())


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    node = shutil.which("node")
    if node is None:
        missing("node", "not in PATH")
    assert node is not None
    papers, script = tmp_path / "server.pem", tmp_path / "server.mjs"
    key = PAPERS.privateKey.original.to_cryptography_key()
    papers.write_bytes(
        PAPERS.original.to_cryptography().public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    script.write_text(SERVER)
    with subprocess.Popen([node, script, papers], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        yield int(server.stdout.readline())
        server.kill()


async def test_all_is_answered_across_a_goaway(port: int) -> None:
    """3 000 pushes, some refused, some to dead tokens; after 1 500 the server sends its connection away."""
    told = Told()
    pool: Pool[int] = Pool(reactor, endpoint(reactor, "localhost", port, trust()), told.extend)
    tails = {
        number: b"dead" if number % 10 == 0 else b"beef" if number % 100 == 7 else b"f00d"
        for number in range(3000)
    }
    for number, tail in tails.items():
        pool.push(Push(number, APNS, (b"ab" * 30 + tail, ID), b'{"n":%d}' % number))
    await until(lambda: len(told) == 3000)
    told.kinds()  # each once
    statuses: Counter[object] = Counter()
    for result in told:
        number = result.context.context
        statuses[result.status if isinstance(result, Answered) else type(result).__name__] += 1
        if isinstance(result, Answered) and result.status == 410:
            assert tails[number] == b"dead"
            assert result.body == b'{"reason":"Unregistered","body":"{\\"n\\":%d}"}' % number
            assert dict(result.headers)[b"content-type"] == b"application/json"
    assert statuses == {200: 2670, 410: 300, "Refused": 30}
    await pool.stop()
