"""An attacker at every port of a real daemon: nothing is smuggled, let in or held up, and no secret is written down."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.client import PATH, PROTOCOL, Closed, Refused, Socket, auth, request, token
from tests.daemon import Daemon, Settings, wait_until
from tests.servers import Valkey

SITE_KEY: Final = Ed25519PrivateKey.generate()
PUBLIC: Final = SITE_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
MOST_STREAMS: Final = 5
SETTINGS: Final[Settings] = {
    "limits": {
        "per_user": MOST_STREAMS,
        "per_address_rate": 10_000.0,
        "requests_per_user": 10_000.0,
        "requests_per_user_burst": 100_000,
    },
    "websocket": {"handshake_seconds": 1.0},
    "api": {"event_source": "on"},
    "log": {"level": "debug"},
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Valkey]:
    with Valkey(tmp_path_factory.mktemp("valkey"), aof=False) as running:
        yield running


@pytest.fixture(scope="module")
def daemon(server: Valkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that also trusts tokens of an Ed25519 key, by its public half."""
    folder = tmp_path_factory.mktemp("daemon")
    made = Daemon(folder, server.url, SETTINGS)
    (folder / "site.pub").write_bytes(PUBLIC)
    with made.config.open("a") as config:
        config.write('[[tokens.keys]]\nkid = "site"\nalgorithm = "EdDSA"\nfile = "site.pub"\n')
    with made:
        yield made


@pytest.fixture(autouse=True)
def still_well(daemon: Daemon) -> Iterator[None]:
    """After each test it serves, and has met no bug."""
    yield
    assert ask(daemon)[0] == 200
    with Socket(daemon.port("websocket")) as client:
        client.auth("7")
    assert daemon.get("/readyz")[0] == 200
    assert [line for line in daemon.lines() if "traceback" in line] == []


def talk(port: int, sent: bytes, timeout: float = 20.0) -> bytes:
    """All that comes back, until the server hangs up. Raises ConnectionResetError if it does so rudely."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as link:
        link.sendall(sent)
        return b"".join(iter(lambda: link.recv(65536), b""))


def ask(daemon: Daemon, path: str = "/v1/inbox/unread", *more: str, bearer: str = "") -> tuple[int, bytes]:
    """Status and whole answer of a request of person 7."""
    lines = (f"GET {path} HTTP/1.1", "Host: a", f"Authorization: Bearer {bearer or token('7')}", *more)
    said = talk(daemon.port("api"), "\r\n".join((*lines, "Connection: close", "", "")).encode())
    return status(said), said


def status(said: bytes) -> int:
    return int(said.split(b" ", 2)[1])


# Smuggling: one request, read as two -----------------------------------------------------------------------

POST: Final = "POST /v1/inbox/read HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
SECOND: Final = "GET /v1/openapi.json HTTP/1.1\r\nHost: a\r\n\r\n"
AMBIGUOUS: Final = {
    "length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "two lengths": "Content-Length: 0\r\nContent-Length: 4\r\n\r\n",
    "one length twice": "Content-Length: 0\r\nContent-Length: 0\r\n\r\n",
    "a list of lengths": "Content-Length: 0, 0\r\n\r\n",
    "a length with a sign": "Content-Length: +0\r\n\r\n",
    "a negative length": "Content-Length: -1\r\n\r\n",
    "a length in hex": "Content-Length: 0x0\r\n\r\n",
    "a length with a fraction": "Content-Length: 0.0\r\n\r\n",
    "a length in other digits": "Content-Length: \u0660\r\n\r\n",
    "no length": "Content-Length:\r\n\r\n",
    "a coding behind chunked": "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding before chunked": "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "identity": "Transfer-Encoding: identity\r\nContent-Length: 0\r\n\r\n",
    "an unknown coding": "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
    "a quoted coding": 'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n',
    "chunked twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunked and identity": "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "a tab in chunked": "Transfer-Encoding: chun\tked\r\n\r\n0\r\n\r\n",
    "a vertical tab": "Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n",
    "a folded coding": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a folded header": "X: a\r\n Content-Length: 4\r\n\r\n",
    "a space before the colon": "Content-Length : 0\r\n\r\n",
    "a space before the coding's colon": "Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
    "a name with a line end": "X\nContent-Length: 0\r\n\r\n",
    "a value with a line feed": "X: a\nContent-Length: 0\r\n\r\n",
    "a value with a carriage return": "X: a\rContent-Length: 0\r\n\r\n",
    "a value with a zero": "X: a\0b\r\n\r\n",
    "a header without a colon": "Content-Length 0\r\n\r\n",
    "a header without a name": ": 0\r\n\r\n",
    "a chunk size in 0x": "Transfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n",
    "a chunk size with a sign": "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
    "a negative chunk": "Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
    "no chunk size": "Transfer-Encoding: chunked\r\n\r\n\r\n\r\n",
    "a chunk size with an underscore": "Transfer-Encoding: chunked\r\n\r\n1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a chunk longer than it says": "Transfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
    "a chunk that ends with a line feed": "Transfer-Encoding: chunked\r\n\r\n1\r\na\n0\r\n\r\n",
    "an enormous chunk size": "Transfer-Encoding: chunked\r\n\r\n" + "f" * 40 + "\r\n" + "x" * 70_000,
    "an endless extension": "Transfer-Encoding: chunked\r\n\r\n1;" + "e" * 20_000 + "\r\na\r\n0\r\n\r\n",
    "a line feed in an extension": "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\na\r\n0\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_what_can_be_read_in_two_ways_is_refused_and_ends_the_connection(daemon: Daemon, name: str) -> None:
    said = talk(daemon.port("api"), (POST + AMBIGUOUS[name] + SECOND).encode())
    assert status(said) in (400, 413), said
    assert said.count(b"HTTP/1.1 ") == 1, "what stands behind it is not answered"
    assert b"openapi" not in said


FIRST_LINES: Final = (
    "GET  /v1/openapi.json HTTP/1.1", "GET\t/v1/openapi.json\tHTTP/1.1", " GET /v1/openapi.json HTTP/1.1",
    "GET /v1/openapi.json HTTP/1.1 ", "GET /v1/openapi.json HTTP/1.1 HTTP/1.1", "GET /v1/openapi.json",
    "GET /v1/openapi.json http/1.1", "GET /v1/openapi.json HTTP/2.0", "GET /v1/openapi.json HTTP/11",
    "GET /v1/openapi.json HTTP/1.1\rX: y", "GET /v1/open\0api.json HTTP/1.1", "GET HTTP/1.1", "/v1/openapi.json",
    "G(T /v1/openapi.json HTTP/1.1", "GET /v1/openapi.json\xa0HTTP/1.1",
)  # fmt: skip


@pytest.mark.parametrize("line", FIRST_LINES)
def test_a_first_line_that_is_none_is_refused(daemon: Daemon, line: str) -> None:
    said = talk(daemon.port("api"), f"{line}\r\nHost: a\r\n\r\n{SECOND}".encode("latin-1"))
    assert (status(said), said.count(b"HTTP/1.1 ")) == (400, 1), said


def test_chunks_as_they_may_be(daemon: Daemon) -> None:
    """Extensions and trailers are read over; a trailer is no header."""
    body = b'{"ids": []}'
    head = f"Authorization: Bearer {token('7')}\r\nTransfer-Encoding: Chunked\r\nConnection: close\r\n\r\n".encode()
    chunks = b"%x;name=value\r\n%b\r\n000\r\nAuthorization: Bearer x\r\nContent-Length: 9\r\n\r\n" % (
        len(body),
        body,
    )
    assert status(talk(daemon.port("api"), POST.encode() + head + chunks)) == 200


def test_the_absolute_form_is_taken_and_its_host_counts(daemon: Daemon) -> None:
    def form(target: str, host: str) -> bytes:
        bearer = f"Authorization: Bearer {token('7')}"
        return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{bearer}\r\nConnection: close\r\n\r\n".encode()

    for target in ("http://push.example/v1/inbox/unread", "HTTPS://push.example:443/v1/inbox/unread?"):
        assert status(talk(daemon.port("api"), form(target, "a"))) == 200
    for target in (
        "http://push.example",
        "http:///v1/inbox/../unread",
        "ftp://a/v1/inbox/unread",
        "a:80",
        "*",
    ):
        assert status(talk(daemon.port("api"), form(target, "a"))) in (400, 404)
    admin = daemon.admin_port
    assert status(talk(admin, form("http://localhost/healthz", "localhost"))) == 200
    assert status(talk(admin, form("http://evil.example/healthz", "localhost"))) == 421, "as DNS rebinding"
    assert status(talk(admin, form("http://localhost@evil.example/healthz", "localhost"))) == 400


def test_pipelined_requests_are_answered_in_order(daemon: Daemon) -> None:
    paths = [f"/nothing/{number}" if number % 2 else "/v1/openapi.json" for number in range(200)]
    sent = "".join(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n" for path in paths)
    last = "GET /v1/inbox HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    said = talk(daemon.port("api"), (sent + last).encode())
    found = [int(answer[:3]) for answer in said.split(b"HTTP/1.1 ")[1:]]
    assert found == [200, 404] * 100 + [401]


# Floods ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [9_000, 100_000, 4_000_000])
@pytest.mark.parametrize("shape", ["one line", "a long value", "many lines"])
def test_header_floods_are_answered_and_the_answer_arrives(daemon: Daemon, shape: str, size: int) -> None:
    start = "GET /v1/inbox HTTP/1.1\r\nHost: a\r\n"
    sent = {
        "one line": "G" * size,
        "a long value": f"{start}X: {'x' * size}\r\n\r\n",
        "many lines": start + "X: x\r\n" * (size // 6) + "\r\n",
    }[shape]
    for port in (daemon.port("api"), daemon.admin_port):
        said = talk(port, sent.encode())
        assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert said.count(b"HTTP/1.1 ") == 1
        assert b"\r\nConnection: close\r\n" in said


def test_a_flood_is_counted(daemon: Daemon) -> None:
    name = 'api_requests_total{route="other",status="4xx"}'
    before = daemon.metrics()[name]
    talk(daemon.port("api"), b"G" * 9000)
    assert daemon.metrics()[name] == before + 1


def test_a_flood_of_bad_handshakes_writes_nothing(daemon: Daemon) -> None:
    before = len(daemon.lines())
    for number in range(50):
        talk(daemon.port("websocket"), f"GET /{number} HTTP/1.1 forged\r\n\r\n".encode())
        talk(daemon.port("websocket"), request("/elsewhere", (), {}))
    assert daemon.lines()[before:] == []


def test_hundreds_of_slow_requests_hinder_nobody(daemon: Daemon) -> None:
    """Slow-loris: headers, bodies and handshakes that never end."""
    halves = {
        "api": [b"GET /v1/inbox HTTP/1.1\r\nX-", (POST + "Content-Length: 1000\r\n\r\n{").encode()],
        "websocket": [request(PATH, (PROTOCOL,), {})[:60], b""],
    }
    with ExitStack() as stack:
        links = []
        for number in range(300):
            for name, parts in halves.items():
                link = stack.enter_context(
                    socket.create_connection(("127.0.0.1", daemon.port(name)), timeout=20)
                )
                link.sendall(parts[number % 2])
                links.append((name, link))
        for _ in range(5):
            assert ask(daemon)[0] == 200
            with Socket(daemon.port("websocket")) as client:
                client.auth("7")
        for name, link in links:
            if name == "websocket":
                assert gone(link), "a handshake has its time"
    wait_until(lambda: daemon.metrics()["connections"] == 0, 10, "nothing is left")


def gone(link: socket.socket) -> bool:
    try:
        return link.recv(1024) == b""
    except ConnectionResetError:
        return True


def test_one_person_has_so_many_streams_and_the_oldest_goes(daemon: Daemon) -> None:
    head = f"GET /v1/stream HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token('many')}\r\n\r\n".encode()
    with ExitStack() as stack:
        links = []
        for number in range(6 * MOST_STREAMS):
            link = stack.enter_context(
                socket.create_connection(("127.0.0.1", daemon.port("api")), timeout=10)
            )
            link.sendall(head)
            until(link, b'"type":"ready"')
            links.append(link)
            if number >= MOST_STREAMS:
                assert b'"code":4508' in until(links[number - MOST_STREAMS], b"")
        assert daemon.metrics()["sessions"] == MOST_STREAMS
    wait_until(lambda: daemon.metrics()["streams"] == 0, 10, "all have gone")


def until(link: socket.socket, mark: bytes) -> bytes:
    """What comes up to a mark; with an empty one, up to the end."""
    held = b""
    while not mark or mark not in held:
        data = link.recv(65536)
        if not data:
            assert not mark, held
            return held
        held += data
    return held


def test_who_asks_and_never_reads_fills_nothing(daemon: Daemon) -> None:
    """The answers of a pipeline wait for the client, and its requests wait with them."""
    before = daemon.memory()
    with socket.socket() as link:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        link.connect(("127.0.0.1", daemon.port("api")))
        link.settimeout(1.0)
        sent = 0
        try:
            while sent < 64_000_000:
                sent += link.send(SECOND.encode() * 1000)
        except TimeoutError:
            pass
        assert ask(daemon)[0] == 200
        assert daemon.memory() - before < 32_000_000
        assert sent < 64_000_000, "the kernel holds it back"


# Other sites -------------------------------------------------------------------------------------------------


ORIGINS: Final = (
    "null", "", "http://", "https://", "//", "file://", "http://evil.example", "http://127.0.0.1.evil.example",
    "http://evil.example:80", "http://127.0.0.1@evil.example", "http://evil.example/127.0.0.1", "http://[::1",
    "http://127.0.0.1 evil.example", "http://127.0.0.1, http://evil.example", "chrome-extension://abc",
    "http://127.0.0.1:99999", "\xff\xfe", "http://127.0.0.1%00.evil.example",
)  # fmt: skip


@pytest.mark.parametrize("cookie", [{}, {"Cookie": "session=of-the-victim"}], ids=["plain", "cookies"])
@pytest.mark.parametrize("origin", ORIGINS)
def test_a_socket_of_another_site_is_refused(daemon: Daemon, origin: str, cookie: dict[str, str]) -> None:
    """Cross-site WebSocket hijacking: even with a good token nothing is said to another site."""
    opening = request(PATH, (PROTOCOL, f"bearer.{token('7')}"), {"Origin": "ORIGIN", **cookie})
    sent = opening.replace(b"ORIGIN", origin.encode("latin-1"))
    try:
        with Socket(daemon.port("websocket"), opening=sent) as client:
            assert client.closing().code == 4503
    except Refused as refused:
        assert refused.status in (400, 403)


def test_two_origins_are_none(daemon: Daemon) -> None:
    sent = request(PATH, (PROTOCOL, f"bearer.{token('7')}"), {"Origin": "http://127.0.0.1"})
    sent = sent[:-2] + b"Origin: http://evil.example\r\n\r\n"
    with pytest.raises((Refused, Closed)), Socket(daemon.port("websocket"), opening=sent) as client:
        assert client.receive()["type"] != "ready"
        client.closing()


@pytest.mark.parametrize("host", ["", " ", "null"])
def test_a_host_that_is_none_matches_no_origin(daemon: Daemon, host: str) -> None:
    sent = request(PATH, (PROTOCOL, f"bearer.{token('7')}"), {"Host": host, "Origin": "null"})
    try:
        with Socket(daemon.port("websocket"), opening=sent) as client:
            assert client.closing().code == 4503
    except Refused as refused:
        assert refused.status == 400


def test_who_is_no_browser_names_no_origin(daemon: Daemon) -> None:
    with Socket(daemon.port("websocket")) as client:
        assert client.auth("7")


@pytest.mark.parametrize("origin", ["null", "http://evil.example", "http://a"])
def test_no_page_reads_the_api_and_no_stream(daemon: Daemon, origin: str) -> None:
    for path in ("/v1/inbox", "/v1/openapi.json", "/nothing"):
        assert b"access-control" not in ask(daemon, path, f"Origin: {origin}")[1].lower()
    preflight = f"OPTIONS /v1/stream HTTP/1.1\r\nHost: a\r\nOrigin: {origin}\r\nConnection: close\r\n"
    said = talk(daemon.port("api"), (preflight + "Access-Control-Request-Method: GET\r\n\r\n").encode())
    assert (status(said), b"access-control" in said.lower()) == (403, False)


# Tokens ------------------------------------------------------------------------------------------------------


def segment(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(header: dict[str, Any], secret: bytes | None, claims: dict[str, Any] | None = None) -> str:
    """A token as no library would make it."""
    now = int(time.time())
    content = {"sub": "7", "aud": "notifier", "iat": now, "exp": now + 600} | (claims or {})
    signed = f"{segment(json.dumps(header).encode())}.{segment(json.dumps(content).encode())}"
    signature = b"" if secret is None else hmac.digest(secret, signed.encode(), hashlib.sha256)
    return f"{signed}.{segment(signature)}"


RAW_PUBLIC: Final = SITE_KEY.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
FORGED: Final = {
    "none": forged({"alg": "none", "kid": "site"}, None),
    "None": forged({"alg": "None", "kid": "tests"}, None),
    "no algorithm": forged({"kid": "site"}, None),
    "HMAC with the PEM": forged({"alg": "HS256", "kid": "site"}, PUBLIC),
    "HMAC with the stripped PEM": forged({"alg": "HS256", "kid": "site"}, PUBLIC.strip()),
    "HMAC with the raw key": forged({"alg": "HS256", "kid": "site"}, RAW_PUBLIC),
    "EdDSA with an HMAC": forged({"alg": "EdDSA", "kid": "site"}, PUBLIC),
    "HMAC with nothing": forged({"alg": "HS256", "kid": "tests"}, b""),
    "a key of its own": forged(
        {"alg": "HS256", "kid": "tests", "jwk": {"kty": "oct", "k": segment(b"k" * 32)}}, b"k" * 32
    ),
    "a key from elsewhere": forged({"alg": "HS256", "kid": "x", "jku": "http://127.0.0.1/k.json"}, b"k" * 32),
    "a kid that is a path": forged({"alg": "HS256", "kid": "../../../dev/null"}, b""),
    "a kid that is a list": forged({"alg": "HS256", "kid": ["tests"]}, b""),
    "a canary": token("notifier.canary.0"),
    "somebody else's signature": token("7")[:-3] + "abc",
    "another audience": token("7", aud="elsewhere"),
    "no end": jwt.encode({"sub": "7", "aud": "notifier"}, SITE_KEY, "EdDSA", headers={"kid": "site"}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGED)
def test_a_forged_token_opens_no_door(daemon: Daemon, name: str) -> None:
    assert ask(daemon, bearer=FORGED[name])[0] == 401
    assert status(ask(daemon, f"/v1/stream?access_token={FORGED[name]}")[1]) in (400, 401)
    stream = f"GET /v1/stream?access_token={FORGED[name]} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert status(talk(daemon.port("api"), stream.encode())) == 401
    with Socket(daemon.port("websocket")) as client:
        client.send(auth(FORGED[name]))
        assert client.closing().code == 4501
    with Socket(daemon.port("websocket"), subprotocols=(PROTOCOL, f"bearer.{FORGED[name]}")) as client:
        assert client.closing().code == 4501


def test_the_keys_owner_is_let_in(daemon: Daemon) -> None:
    """Else the test above would prove nothing."""
    now = int(time.time())
    content = {"sub": "7", "aud": "notifier", "iat": now, "exp": now + 600}
    good = jwt.encode(content, SITE_KEY, "EdDSA", headers={"kid": "site"})
    assert ask(daemon, bearer=good)[0] == 200
    with Socket(daemon.port("websocket"), subprotocols=(PROTOCOL, f"bearer.{good}")) as client:
        assert client.until("ready")


# What is said ------------------------------------------------------------------------------------------------


SOFTWARE: Final = (b"server:", b"x-powered-by", b"twisted", b"autobahn", b"klein", b"werkzeug", b"python")


@pytest.mark.parametrize("sent", [
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"GET /v1/websocket HTTP/1.0\r\n\r\n",
    b"POST /v1/websocket HTTP/1.1\r\nHost: a\r\n\r\n", b"nonsense\r\n\r\n", b"\xff\xfe\r\n\r\n",
    b"GET /v1/websocket HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
    request("/elsewhere", (), {}), request(PATH, (), {"Sec-WebSocket-Version": "8"}),
    request(PATH, (), {"Sec-WebSocket-Key": "short"}), request(PATH, ("x" * 300,), {}),
    request(PATH, (PROTOCOL,), {"Sec-WebSocket-Extensions": "permessage-deflate"}) + b"\x88\x80\0\0\0\0",
    request(PATH, (PROTOCOL,), {"Host": "a:b:c"}), request(PATH + "?x=\r\nSet-Cookie: a", (), {}),
])  # fmt: skip
def test_no_answer_names_the_software(daemon: Daemon, sent: bytes) -> None:
    for port in (daemon.port("websocket"), daemon.port("api"), daemon.admin_port):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as link:
            link.sendall(sent)
            said = b""
            while b"\r\n\r\n" not in said and (data := link.recv(65536)):
                said += data
        assert said.startswith(b"HTTP/1.")
        assert [word for word in SOFTWARE if word in said.lower()] == []
        assert b"set-cookie" not in said.lower()


def test_no_token_is_written_down(daemon: Daemon) -> None:
    """A canary token on every way that a token can go, also the wrong ones; the log is at its loudest."""
    good, bad = token("logged"), token("logged", aud="elsewhere")
    for bearer in (good, bad):
        ask(daemon, bearer=bearer)
        ask(daemon, f"/v1/inbox?access_token={bearer}", "Referer: https://a/?token=" + bearer)
        ask(daemon, f"/nothing/{bearer}", f"Cookie: token={bearer}")
        for broken in (
            f"GET /{bearer} HTTP/9\r\n\r\n",
            f"{bearer} / HTTP/1.1\r\nConnection: close\r\n\r\n",
            f"GET / HTTP/1.1\r\n{bearer}\r\n\r\n",
        ):
            talk(daemon.port("api"), broken.encode())
        stream = f"GET /v1/stream?access_token={bearer} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", daemon.port("api")), timeout=10) as link:
            link.sendall(stream)
            assert link.recv(1024)
        for path in (f"{PATH}?token={bearer}", f"/{bearer}"):
            for offered in ((PROTOCOL, f"bearer.{bearer}"), (f"bearer.{bearer}",), (f"bearer {bearer}",)):
                try:
                    with Socket(daemon.port("websocket"), path=path, subprotocols=offered) as client:
                        client.send(auth(bearer), {"type": bearer}, {"type": "ack", "seq": bearer})
                        client.send(auth(bearer + "x"))
                        client.closing(0.5)
                except (Refused, Closed, TimeoutError, OSError):
                    pass
    written = daemon.log.read_text()
    shown = [daemon.get(path)[1].decode() for path in ("/metrics", "/readyz")]
    for bearer in (good, bad):
        for part in bearer.split(".")[1:]:
            assert part not in written
            assert not any(part in page for page in shown)
    assert '"GET ' not in written, "no access log"


def test_the_canarys_own_tokens_are_not_written_down_either(daemon: Daemon) -> None:
    written = daemon.log.read_text()
    assert segment(b'{"sub":"notifier.canary')[:-2] not in written
    assert segment(b'{"alg":"HS256","kid":"canary')[:-2] not in written
