"""The description of the API: it is what docs/ has, it is OpenAPI 3.1, and the API does as it says."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import jsonschema  # type: ignore[import-untyped, unused-ignore]
import pytest
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

from tests.servers import missing
from tests.webapp.caller import PASSWORD, Caller
from tests.webapp.test_api_permissions import ROWS
from webapp.api.entry import _ANYBODY
from webapp.api.routes import description

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docs/webapp-openapi.json"


def test_docs_have_it() -> None:
    kept = json.loads(FILE.read_text(encoding="utf-8"))
    assert kept == json.loads(json.dumps(description())), (
        "docs/webapp-openapi.json is not what the code says: python -m webapp openapi > docs/webapp-openapi.json"
    )


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    call_command("openapi")
    assert capsys.readouterr().out == FILE.read_text(encoding="utf-8")


def test_the_command_makes_a_key(api: Caller, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("token_key")
    assert re.fullmatch(
        r"-----BEGIN PUBLIC KEY-----\n[\w+/=\n]+-----END PUBLIC KEY-----\n", capsys.readouterr().out
    )


def test_it_is_served(api: Caller) -> None:
    answer = api("GET", "/api/openapi.json")
    served = json.loads(answer.content)
    assert served["openapi"].startswith("3.1.")
    assert served["paths"] == json.loads(FILE.read_text(encoding="utf-8"))["paths"]


def test_it_says_what_needs_a_token() -> None:
    """As tests/webapp/test_api_permissions.py finds it."""
    for method, path, nobody, *_ in ROWS:
        if path == "/api/openapi.json":
            continue
        security = description()["paths"][path][method.lower()].get("security")
        needed: list[dict[str, list[str]]] = [{"Token": []}] if nobody == "401" else [{}, {"Token": []}]
        assert security == (None if path in _ANYBODY else needed), path


def test_every_reference_leads_somewhere() -> None:
    described = description()
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(described)))
    assert names <= set(described["components"]["schemas"])
    for name, schema in described["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert re.fullmatch("[A-Za-z]+", name)


def test_answers_are_as_described(api: Caller) -> None:
    """One of each kind against its schema, which allows no other members here."""
    described = description()
    store = json.loads(json.dumps(described).replace("#/components/schemas/", "#/$defs/"))["components"][
        "schemas"
    ]
    for schema in store.values():
        if schema.get("type") == "object" and "additionalProperties" not in schema:
            schema["additionalProperties"] = False
    ana = api.join("ana")
    photo = api.photo(ana)
    api("POST", f"/api/photos/{photo}/comments", ana, {"text": "x"})
    for kind, answer in {
        "Photo": api("GET", f"/api/photos/{photo}", ana),
        "Photos": api("GET", "/api/feed", ana),
        "Comments": api("GET", f"/api/photos/{photo}/comments"),
        "People": api("GET", "/api/search?q=ana"),
        "Profile": api("GET", "/api/people/ana"),
        "Entered": api("POST", "/api/session", None, {"name": "ana", "password": PASSWORD}),
        "Problem": api("GET", "/api/search?q="),
        "Site": api("GET", "/api/site"),
        "Health": api("GET", "/api/health"),
        "Readiness": api("GET", "/api/ready"),
    }.items():
        jsonschema.validate(json.loads(answer.content), {"$ref": f"#/$defs/{kind}", "$defs": store})


def test_the_page_of_it_loads_nothing_from_elsewhere(api: Caller) -> None:
    page = api("GET", "/api/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'; script-src 'self';" in page.headers["Content-Security-Policy"]
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page.content.decode())
    assert loaded
    for path in loaded:
        assert path.startswith(("/api/", "/static/"))
        assert api("GET", path).status == 200
    assert not re.search(r"<script(?![^>]* src=)|<style|\s(on\w+|style)=", page.content.decode())


class Quiet(WSGIRequestHandler):
    """Says nothing."""

    def log_message(self, *arguments: Any) -> None:
        """Nothing."""


@pytest.fixture
def served(api: Caller) -> Iterator[str]:
    """The API on a port."""
    server = make_server("127.0.0.1", 0, get_wsgi_application(), WSGIServer, Quiet)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_schemathesis(api: Caller, served: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("schemathesis") is None:
        missing("schemathesis", "pip install schemathesis")
    ana = api.join("ana")
    photo = api.photo(ana)
    (tmp_path / "schemathesis.toml").write_text(
        f'[parameters]\nname = "ana"\nphoto = "{photo}"\n', encoding="utf-8"
    )
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    run = subprocess.run(
        [
            sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml"),
            "run", f"{served}/api/openapi.json",
            "--checks", checks,
            "--phases", "coverage,fuzzing", "--mode", "all", "--max-examples", "5", "--seed", "1",
            "--generation-database", "none", "--header", f"Authorization: Bearer {ana.token}",
        ],
        capture_output=True, text=True, cwd=tmp_path, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
