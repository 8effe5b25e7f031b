"""The site's files and headers, as Django serves them."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.conf import settings
from django.test import Client, override_settings

from tests.daemon import ROOT
from webapp.config import Config, Notifier, Photos
from webapp.site import page_files, security_policy

FILES = page_files()
MODULES = sorted(name for name in FILES if name.endswith(".js"))
# What would make text into a page, or a page out of text.
DANGEROUS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser"
)
PAGES = (
    "/",
    "/discover",
    "/search",
    "/login",
    "/signup",
    "/upload",
    "/settings",
    "/p/123456789",
    "/u/ana_b.c",
)


@pytest.fixture
def client() -> Client:
    return Client(headers={"host": "localhost"})


def text(name: str) -> str:
    return FILES[name][1].decode()


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_the_same_file(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert answer.content == FILES["index.html"][1]
    assert answer["Content-Type"] == "text/html; charset=utf-8"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Cache-Control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    ["/p/", "/p/12a", "/u/", "/u/a%2fb", "/nowhere", "/static/", "/static/../site.py", "/static/nothing.js"],
)
def test_what_is_no_page_is_not_found(client: Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    if path.startswith("/static/"):
        assert answer.content == b"There is nothing here.\n"
    else:  # the site itself says it, in its own words
        assert answer.content == FILES["index.html"][1]
        assert answer["Content-Security-Policy"] == client.get("/")["Content-Security-Policy"]


@pytest.mark.parametrize("name", sorted(FILES))
def test_files_have_their_types(client: Client, name: str) -> None:
    answer = client.get(f"/static/{name}")
    assert answer.content == FILES[name][1]
    assert answer["Content-Type"] == FILES[name][0]


def test_what_a_browser_has_is_not_sent_again(client: Client) -> None:
    tag = client.get("/static/app.js")["ETag"]
    again = client.get("/static/app.js", headers={"if-none-match": tag})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/app.js", headers={"if-none-match": '"another"'}).status_code == 200


@pytest.mark.parametrize("method", ["post", "put", "delete"])
def test_pages_are_only_read(client: Client, method: str) -> None:
    assert getattr(client, method)("/").status_code == 405


def test_the_page_may_load_from_the_configured_addresses_alone(client: Client) -> None:
    told = Notifier(
        websocket="wss://push.example.com/v1/websocket",
        api="https://push.example.com",
        sandbox="http://127.0.0.1:8100",
    )
    config: Any = Config(notifier=told, photos=Photos(cdn_url="https://cdn.example.com/photos"))
    with override_settings(CONFIG=config):
        policy = client.get("/")["Content-Security-Policy"]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: https://cdn.example.com",
        "connect-src": "'self' wss://push.example.com https://push.example.com",
        "frame-src": "http://127.0.0.1:8100",
        "base-uri": "'none'",
        "form-action": "'self'",
        "frame-ancestors": "'none'",
    }


def test_without_a_notifier_the_page_is_on_its_own() -> None:
    policy = security_policy("", "", "", "")
    assert "connect-src 'self';" in policy
    assert "frame-src 'none';" in policy
    assert hasattr(settings, "CONFIG")


def test_the_page_names_every_module_before_it_is_asked_for() -> None:
    named = re.findall(r'<link rel="modulepreload" href="/static/([^"]+)">', text("index.html"))
    assert sorted([*named, "app.js"]) == MODULES
    assert len(named) == len(set(named))


def test_all_that_the_page_asks_for_is_there() -> None:
    asked = re.findall(r'(?:href|src)="/static/([^"]+)"', text("index.html"))
    assert set(asked) <= set(FILES)
    assert not re.search(r'(?:href|src)="(?:https?:)?//', text("index.html"))


@pytest.mark.parametrize("name", MODULES)
def test_modules_import_what_is_there_and_make_no_html_of_text(name: str) -> None:
    folder = name.rpartition("/")[0]
    for asked in re.findall(r'^(?:import|export)[^"]*from "([^"]+)"', text(name), re.MULTILINE):
        parts = [*folder.split("/"), *asked.split("/")]
        path: list[str] = []
        for part in parts:
            if part == "..":
                path.pop()
            elif part not in ("", "."):
                path.append(part)
        assert "/".join(path) in FILES, f"{name} imports {asked}"
    assert not DANGEROUS.search(text(name))


def test_nothing_is_inline() -> None:
    page = text("index.html")
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|<script(?![^>]*\ssrc=)", page)


def test_the_bell_is_the_client_that_everybody_uses() -> None:
    assert FILES["notifier.js"][1] == (ROOT / "clients/js/notifier.js").read_bytes()


def test_icons_that_are_used_are_drawn() -> None:
    drawn = set(re.findall(r'<symbol id="icon-([a-z]+)"', text("index.html")))
    used = {name for module in MODULES for name in re.findall(r'\bicon\("([a-z]+)"\)', text(module))}
    assert used <= drawn
