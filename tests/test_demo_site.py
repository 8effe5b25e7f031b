"""`notifier demo` with the photo site: all of it by one command, one like followed from the click to the phone."""

from __future__ import annotations

import io
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from notifier.cli import site
from notifier.cli.demo import SEED_PASSWORD
from notifier.cli.page_server import FILES
from tests.daemon import wait_until
from tests.test_demo import AS_JSON, NOTIFIER, PARTS, Running, Socket, ask, cli, demo
from webapp.cast import PASSWORD, PEOPLE

START = 150  # s: the first start draws pictures, on a machine that may have much to do

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks for left-over processes in /proc")


def served(running: Running) -> dict[str, str]:
    """endpoints.json, as soon as it is there."""
    wait_until(
        lambda: running.endpoints_file.exists() or running.process.poll() is not None, START, running.out
    )
    return running.ready()


def removed(folder: Path) -> None:
    """Root's PostgreSQL keeps its data where its own user gets in: nobody else would ever remove it."""
    for pointer in folder.glob(".demo/web/*/elsewhere"):
        shutil.rmtree(pointer.read_text(encoding="utf-8").strip())


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("site")
    with demo(folder, "--site") as running:
        served(running)
        yield running
    removed(folder)


@pytest.fixture
def own_folder(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    removed(tmp_path)


class Person:
    """Somebody on the site."""

    def __init__(self, running: Running, name: str = "") -> None:
        self.endpoints = running.ready()
        self.name = name or f"v{secrets.token_hex(6)}"
        given = {"name": self.name, "password": PASSWORD if name else "a long password"}
        said = self.do(
            "POST", "/api/session" if name else "/api/people", 200 if name else 201, given, token=""
        )
        self.token, self.id = said["token"], said["person"]["id"]

    def do(self, method: str, path: str, wanted: int, body: Any = None, *, token: str | None = None) -> Any:
        bearer = self.token if token is None else token
        fields = {"Authorization": f"Bearer {bearer}"} if bearer else {}
        if body is not None:
            fields |= AS_JSON
        text = None if body is None else json.dumps(body)
        status, _, said = ask(self.endpoints["web"] + path, method, text, **fields)
        assert status == wanted, (method, path, status, said)
        return json.loads(said) if said else None

    def upload(self, caption: str) -> dict[str, Any]:
        """A photo of theirs."""
        out = io.BytesIO()
        Image.new("RGB", (800, 600), (200, 120, 80)).save(out, "JPEG")
        edge = secrets.token_hex(8)
        parts = (
            f'--{edge}\r\nContent-Disposition: form-data; name="caption"\r\n\r\n{caption}\r\n'
            f'--{edge}\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n'
            "Content-Type: image/jpeg\r\n\r\n"
        ).encode()
        body = parts + out.getvalue() + f"\r\n--{edge}--\r\n".encode()
        at = urlsplit(self.endpoints["web"])
        link = HTTPConnection(at.hostname or "", at.port, timeout=20)
        kind = f"multipart/form-data; boundary={edge}"
        link.request(
            "POST", "/api/photos", body, {"Authorization": f"Bearer {self.token}", "Content-Type": kind}
        )
        answer = link.getresponse()
        said = answer.read()
        link.close()
        assert answer.status == 201, said
        photo: dict[str, Any] = json.loads(said)
        return photo


def test_one_like_from_the_click_to_the_bell_and_the_phones(whole: Running) -> None:
    """HTTP call, transaction and outbox, relay, Redis, inbox, socket; lane, provider, phone."""
    owner, other = Person(whole), Person(whole)
    photo = owner.upload("a wall in the evening sun")
    bearer = {"Authorization": f"Bearer {owner.token}", **AS_JSON}
    phones = {"apns": "de30" + secrets.token_hex(32), "fcm": f"demo:{secrets.token_hex(16)}"}
    for platform, name in phones.items():
        told = json.dumps({"platform": platform, "app": "demo"})
        assert ask(f"{owner.endpoints['api']}/v1/devices/{name}", "PUT", told, **bearer)[0] == 204
    with Socket(owner.endpoints["websocket"]) as bell:
        bell.send(type="auth", token=owner.token, after=0)
        bell.hear("upto")
        other.do("PUT", f"/api/photos/{photo['id']}/like", 204)
        heard = bell.hear("notification")
        assert (heard["kind"], heard["object"]["id"]) == ("like", photo["id"])
        assert [(actor["id"], actor["name"]) for actor in heard["actors"]] == [(other.id, other.name)]
        asked = f"{owner.endpoints['sandbox']}devices?tokens={','.join(phones.values())}"

        def shown() -> list[Any]:
            return [phone for phone in json.loads(ask(asked)[2])["devices"] if phone["shown"]]

        wait_until(lambda: len(shown()) == 2, 20, "the phones show nothing")
        other.do("DELETE", f"/api/photos/{photo['id']}/like", 204)
        assert bell.hear("retract")["id"] == heard["id"]
    assert owner.do("GET", f"/api/photos/{photo['id']}", 200)["likes"] == 0


def test_the_endpoints_are_complete(whole: Running) -> None:
    endpoints = whole.ready()
    assert set(endpoints) == {*PARTS, "web"}
    assert endpoints["page"] == endpoints["web"] + "/"
    assert ask(endpoints["page"])[0] == 200
    assert ask(endpoints["web"] + "/api/docs")[0] == 200
    assert whole.err == ""
    assert ask(endpoints["workbench"] + "page.js")[2] == ask(endpoints["workbench"] + "page.js")[2] != ""
    assert "/page.js" in FILES


def test_the_seeded_are_there_and_nobody_is_told_of_anything(whole: Running) -> None:
    assert SEED_PASSWORD == PASSWORD
    ana = Person(whole, PEOPLE[0].name)
    assert len(ana.do("GET", "/api/feed", 200)["items"]) > 10
    assert ana.do("GET", f"/api/people/{PEOPLE[1].name}", 200)["photos"] == 3
    picture = ana.do("GET", "/api/discover", 200)["items"][0]["images"]["square"]["url"]
    status, fields, _ = ask(ana.endpoints["web"] + picture, "HEAD")
    assert (status, fields["Content-Type"]) == (200, "image/jpeg")
    assert "immutable" in fields["Cache-Control"]
    bearer = {"Authorization": f"Bearer {ana.token}"}
    assert json.loads(ask(f"{ana.endpoints['api']}/v1/inbox/unread", **bearer)[2])["unread"] == 0


def test_an_operators_token_is_no_person_of_the_site(whole: Running) -> None:
    """The notifier trusts two keys; the site trusts its own."""
    minted = cli(whole.cwd, "token", "7").stdout.strip()
    endpoints = whole.ready()
    assert ask(f"{endpoints['api']}/v1/inbox", Authorization=f"Bearer {minted}")[0] == 200
    assert ask(f"{endpoints['web']}/api/me", Authorization=f"Bearer {minted}")[0] == 401


def test_it_stops_whole_starts_with_its_data_and_leaves_nothing_however_it_ends(own_folder: Path) -> None:
    with demo(own_folder, "--site", "--crowd", "20/s") as first:
        served(first)
        visitor, ana = Person(first), Person(first, PEOPLE[0].name)
        photo = visitor.upload("mine")

        def told(person: Person) -> int:
            time.sleep(0.3)  # who asks more often is told to wait
            bearer = {"Authorization": f"Bearer {person.token}"}
            status, _, said = ask(f"{person.endpoints['api']}/v1/inbox/unread", **bearer)
            assert status == 200, said
            return int(json.loads(said)["unread"])

        wait_until(lambda: told(ana) > 2, 60, "the crowd does nothing")
        assert told(visitor) == 0
        os.killpg(first.process.pid, signal.SIGTERM)
        assert (first.ended(), first.err) == (0, "")
        assert first.left() == []
    with demo(own_folder, "--site") as again:
        served(again)
        visitor.endpoints = again.ready()
        assert visitor.do("GET", f"/api/photos/{photo['id']}", 200)["caption"] == "mine"
        again.process.kill()
        wait_until(lambda: again.left() == [], 20, "the killed demo left something")
    (own_folder / ".demo/endpoints.json").unlink()
    with demo(own_folder, "--site") as crippled:  # a part that dies ends the whole, with the reason
        served(crippled)
        os.kill(crippled.child("webapp.wsgi"), signal.SIGKILL)
        assert crippled.ended(20) == 1
        assert "the photo site ended with status 1" in crippled.err
        assert crippled.left() == []


def test_who_stops_it_while_it_draws_pictures_does_not_wait_for_them(own_folder: Path) -> None:
    with demo(own_folder, "--site") as running:
        wait_until(lambda: "their pictures" in running.out, START, running.out)
        os.killpg(running.process.pid, signal.SIGTERM)
        assert (running.ended(), running.err) == (0, "")
        assert running.left() == []


def test_what_is_not_installed_is_said(tmp_path: Path) -> None:
    """Asked for, it is an error; not asked for, the demo goes on without it."""
    hide = (
        "import sys, importlib.util as u; find = u.find_spec\n"
        "u.find_spec = lambda name, *a: None if name in ('django', 'PIL') else find(name, *a)\n"
        f"{NOTIFIER[2]}"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("NOTIFIER_")}
    said = subprocess.run(
        [sys.executable, "-c", hide, "demo", "--site"], cwd=tmp_path, env=environ, capture_output=True, text=True,
        timeout=30, check=False,
    )  # fmt: skip
    assert said.returncode == 2
    assert "it needs django, pillow: pip install 'notifier[embedded,webapp]'" in said.stderr
    began = time.monotonic()
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", hide, "demo"],
            cwd=tmp_path,
            env=environ,
            stdout=out,
            start_new_session=True,
        )
    try:
        wait_until((tmp_path / ".demo/endpoints.json").exists, 60, f"after {time.monotonic() - began} s")
        endpoints = json.loads((tmp_path / ".demo/endpoints.json").read_text())
        assert "web" not in endpoints
        assert endpoints["page"] == endpoints["workbench"]
        assert "without the photo site" in (tmp_path / "out").read_text()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(20)


@pytest.mark.parametrize("crowd", ["5", "x", "/s", "5/h", "-1/s"])
def test_what_is_no_rate_is_refused_before_anything_starts(tmp_path: Path, crowd: str) -> None:
    said = cli(tmp_path, "demo", f"--crowd={crowd}")
    assert (said.returncode, said.stdout) == (2, "")
    assert "is no rate" in said.stderr
    assert list(tmp_path.iterdir()) == []


def test_all_that_the_site_needs_is_known() -> None:
    assert site.missing() == []
