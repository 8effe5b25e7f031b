"""Who may do what: every route, by everybody, in one table."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.webapp.caller import PASSWORD, PICTURE, Caller, Someone
from webapp.api.routes import description

# A route, and what it answers to: nobody, a token that is none, a stranger, who wrote the comment, and the owner of
# the photo. {photo} and {comment} are the owner's photo and the author's comment on it.
TABLE: Final = """
GET    /api/health                              200 200 200 200 200
GET    /api/ready                               200 200 200 200 200
GET    /api/site                                200 200 200 200 200
GET    /api/openapi.json                        200 200 200 200 200
POST   /api/people                              201 201 201 201 201
POST   /api/session                             200 200 200 200 200
POST   /api/session/renewal                     200 200 200 200 200
POST   /api/session/end                         401 401 204 204 204
GET    /api/me                                  401 401 200 200 200
PATCH  /api/me                                  401 401 200 200 200
PUT    /api/me/password                         401 401 200 200 200
PUT    /api/me/avatar                           401 401 200 200 200
GET    /api/people/{name}                       200 401 200 200 200
GET    /api/people/{name}/photos                200 401 200 200 200
GET    /api/people/{name}/followers             200 401 200 200 200
GET    /api/people/{name}/following             200 401 200 200 200
PUT    /api/people/{name}/follow                401 401 204 204 403
DELETE /api/people/{name}/follow                401 401 204 204 204
POST   /api/photos                              401 401 201 201 201
GET    /api/photos/{photo}                      200 401 200 200 200
DELETE /api/photos/{photo}                      401 401 403 403 204
PUT    /api/photos/{photo}/like                 401 401 204 204 204
DELETE /api/photos/{photo}/like                 401 401 204 204 204
GET    /api/photos/{photo}/likes                200 401 200 200 200
GET    /api/photos/{photo}/comments             200 401 200 200 200
POST   /api/photos/{photo}/comments             401 401 201 201 201
DELETE /api/photos/{photo}/comments/{comment}   401 401 403 204 204
GET    /api/feed                                401 401 200 200 200
GET    /api/discover                            200 401 200 200 200
GET    /api/search                              200 401 200 200 200
"""
WHO: Final = ("nobody", "forged", "stranger", "author", "owner")
ROWS: Final = [line.split() for line in TABLE.strip().splitlines()]
BODIES: Final[dict[tuple[str, str], Any]] = {
    ("POST", "/api/people"): lambda who: {"name": f"for_{who}", "password": PASSWORD},
    ("POST", "/api/session"): {"name": "owner", "password": PASSWORD},
    ("POST", "/api/session/renewal"): lambda who: {"renewal": RENEWALS[-1]},
    ("PATCH", "/api/me"): {"bio": "x"},
    ("PUT", "/api/me/password"): {"old": PASSWORD, "new": PASSWORD},
    ("POST", "/api/photos/{photo}/comments"): {"text": "x"},
}
RENEWALS: Final[list[str]] = []
FORMS: Final = {("PUT", "/api/me/avatar"), ("POST", "/api/photos")}
QUERIES: Final = {"/api/search": "?q=owner"}


def test_the_table_has_every_route() -> None:
    described = {
        (method.upper(), path) for path, methods in description()["paths"].items() for method in methods
    }
    assert {(method, path) for method, path, *_ in ROWS} == described | {("GET", "/api/openapi.json")}


@pytest.mark.parametrize(
    ("method", "path", "statuses"),
    [pytest.param(row[0], row[1], row[2:], id=" ".join(row[:2])) for row in ROWS],
)
def test_who_may(api: Caller, method: str, path: str, statuses: list[str]) -> None:
    owner, author, stranger = (api.join(name) for name in ("owner", "author", "stranger"))
    RENEWALS.append(owner.renewal)
    forged = Someone("1", "owner", owner.token[:-8] + "AAAAAAAA")
    people = {"owner": owner, "author": author, "stranger": stranger, "forged": forged}
    for who, status in zip(WHO, map(int, statuses), strict=True):
        photo = api.photo(owner)
        comment = api("POST", f"/api/photos/{photo}/comments", author, {"text": "first"}).json["id"]
        where = path.format(name="owner", photo=photo, comment=comment) + QUERIES.get(path, "")
        if (method, path) in FORMS:
            answer = api.form(method, where, people.get(who), file=PICTURE)
        else:
            body = BODIES.get((method, path))
            answer = api(method, where, people.get(who), body(who) if callable(body) else body)
        assert answer.status == status, (who, answer)
        if status == 401:
            assert answer.headers["WWW-Authenticate"].startswith("Bearer")
            assert answer.problem == ("invalid-token" if who == "forged" else "not-authenticated")
        if status in (401, 403):
            shown = api("GET", f"/api/photos/{photo}").json
            assert (shown["comments"], shown["likes"]) == (1, 0), "what was refused had no effect"


@pytest.mark.parametrize(
    ("header", "problem"),
    [
        ("Basic YW5hOmFuYQ==", "invalid-token"),
        ("Bearer", "invalid-token"),
        ("Bearer ", "invalid-token"),
        ("bearer a.b.c", "invalid-token"),
        ("Bearer a b c", "invalid-token"),
        ("\xff\xfe", "invalid-token"),
    ],
    ids=ascii,
)
def test_headers_that_are_no_token(api: Caller, header: str, problem: str) -> None:
    refused = api("GET", "/api/discover", HTTP_AUTHORIZATION=header)
    assert (refused.status, refused.problem) == (401, problem)


def test_the_scheme_may_be_in_any_case(api: Caller) -> None:
    ana = api.join("ana")
    assert api("GET", "/api/me", HTTP_AUTHORIZATION=f"BEARER  {ana.token}").status == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "problem"),
    [
        ("GET", "/api/", 404, "not-found"),
        ("GET", "/api/nothing", 404, "not-found"),
        ("GET", "/api/photos/", 404, "not-found"),
        ("POST", "/api/feed", 405, "method-not-allowed"),
        ("GET", "/api/photos", 405, "method-not-allowed"),
        ("OPTIONS", "/api/feed", 405, "method-not-allowed"),
        ("TRACE", "/api/feed", 405, "method-not-allowed"),
        ("GET", "/api/docs/nothing", 404, "not-found"),
        ("POST", "/api/docs", 405, "method-not-allowed"),
    ],
)
def test_what_is_no_route_is_a_problem_too(
    api: Caller, method: str, path: str, status: int, problem: str
) -> None:
    refused = api(method, path)
    assert (refused.status, refused.problem) == (status, problem)
    if status == 405:
        assert refused.headers["Allow"]


def test_head_is_get_without_the_content(api: Caller) -> None:
    whole, head = api("GET", "/api/site"), api("HEAD", "/api/site")
    assert (head.status, head.headers, head.content) == (200, whole.headers, b"")
    assert head.headers["Content-Length"] == str(len(whole.content))
    assert api("HEAD", "/api/me").status == 401


def test_chunks_are_refused(api: Caller) -> None:
    """Or they would be taken for nothing."""
    refused = api("POST", "/api/session", None, {}, HTTP_TRANSFER_ENCODING="chunked")
    assert (refused.status, refused.problem) == (411, "length-required")


def test_a_strange_host_is_refused(api: Caller) -> None:
    """But for whoever only looks whether it works, by whatever address."""
    refused = api("GET", "/api/discover", HTTP_HOST="evil.example.com")
    assert (refused.status, refused.problem) == (400, "invalid-request")
    assert api("GET", "/api/discover", HTTP_HOST="localhost:8000").status == 200
    assert api("GET", "/api/health", HTTP_HOST="10.0.0.7").status == 200


def test_no_cookie_is_set(api: Caller) -> None:
    """Without cookies there is nothing that a foreign page could use."""
    ana = api.join("ana")
    for answer in (
        api("GET", "/api/me", ana),
        api("POST", "/api/session", None, {"name": "a", "password": "b"}),
    ):
        assert "Set-Cookie" not in answer.headers
        assert "Access-Control-Allow-Origin" not in answer.headers
