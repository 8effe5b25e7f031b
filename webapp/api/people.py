"""Routes: signing up, logging in, people, and who follows whom."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence

from django.http import HttpRequest, HttpResponse
from ninja import File, Router
from ninja.files import UploadedFile

from webapp import follows, people, photos, tokens
from webapp.api.answers import NOTHING, Entered, Page, answer, nothing, page, returns
from webapp.api.content import Changes, Cursor, Limit, LogIn, NewPassword, Renewal, SignUp
from webapp.api.door import before_of, cut, signed_in, upload_limits
from webapp.limits import Count, limits
from webapp.people import Listed, Profile
from webapp.photos import Photo
from webapp.problems import Problem
from webapp.shards import identify

router = Router(tags=["people"])
session = Router(tags=["people"])
me = Router(tags=["me"], auth=signed_in)


@router.post("", summary="Sign up", **returns(Entered, 201))
def sign_up(request: HttpRequest, given: SignUp) -> HttpResponse:
    """Makes an account; the name never changes. 409 when somebody has it."""
    tokens.tokens()  # raises ConfigError without a key: before there is an account that nobody could use
    person = people.sign_up(given.name, given.password, given.display_name)
    return _entered(person, 201, tokens.tokens().renewal(person, people.session_mark(person)))


@session.post("", summary="Log in", **returns(Entered))
def log_in(request: HttpRequest, given: LogIn) -> HttpResponse:
    """Gives a token. 401 tells not which of the two is wrong."""
    # By address it is counted at the door; by name here, so that many addresses together guess no faster.
    # Taken before the look and given back after it: of many at the same time none looks uncounted.
    tries = Count("log_ins_name", given.name.lower())
    limits().take(tries, must=True)
    person, mark = people.log_in(given.name, given.password)
    limits().give_back(tries)
    return _entered(person, 200, tokens.tokens().renewal(person, mark))


@session.post("/renewal", summary="Renew a token", **returns(Entered))
def renew(request: HttpRequest, given: Renewal) -> HttpResponse:
    """Gives a new token for the `renewal` of a log-in. 401 when that is over, or has been ended: by the person, or
    by a new password."""
    person, mark = tokens.tokens().renewed(given.renewal)
    identify(person)
    if not hmac.compare_digest(mark, people.session_mark(person)):
        raise Problem("invalid-token", "this session was ended, or the password has changed; log in again")
    return _entered(person, 200, given.renewal)


@session.post("/end", summary="Log out everywhere", auth=signed_in, **NOTHING)
def end_sessions(request: HttpRequest) -> HttpResponse:
    """Ends the `renewal` of all your log-ins. Tokens that are out already live out their hours."""
    people.end_sessions(request.person)
    return nothing()


def _entered(person: int, status: int, renewal: str) -> HttpResponse:
    """The end of a renewal is that of its log-in: it is not renewed itself."""
    identify(person)
    issued = tokens.tokens().issue(person)
    return answer(Entered(people.me(person), issued.token, issued.expires, renewal), status)


@me.get("", summary="Yourself", **returns(Profile))
def get_me(request: HttpRequest) -> HttpResponse:
    """The person of the token."""
    return answer(people.me(request.person))


@me.patch("", summary="Change yourself", **returns(Profile))
def change_me(request: HttpRequest, given: Changes) -> HttpResponse:
    """Changes the shown name, the text about you, or both."""
    return answer(people.change(request.person, given.dict()))


@me.put("/password", summary="Your password", **returns(Entered))
def change_password(request: HttpRequest, given: NewPassword) -> HttpResponse:
    """Changes it and ends the `renewal` of all your log-ins: here is the next. 422 when `old` is not your password."""
    # Whoever has somebody's token guesses no faster here than at the log-in.
    tries = Count("log_ins_name", people.acting_card(request.person).name)
    limits().take(tries, must=True)
    mark = people.change_password(request.person, given.old, given.new)
    limits().give_back(tries)
    return _entered(request.person, 200, tokens.tokens().renewal(request.person, mark))


@me.put("/avatar", summary="Your picture", **returns(Profile))
def put_avatar(request: HttpRequest, file: File[UploadedFile]) -> HttpResponse:
    """Takes the middle of a JPEG, PNG or WebP picture."""
    return answer(people.set_avatar(request.person, file, upload_limits()))


@router.get("/{name}", summary="A person", **returns(Profile))
def get_person(request: HttpRequest, name: str) -> HttpResponse:
    """All that is shown of somebody."""
    return answer(people.profile(name, request.person))


@router.get("/{name}/photos", summary="Photos of a person", **returns(Page[Photo]))
def list_photos(
    request: HttpRequest, name: str, cursor: Cursor | None = None, limit: Limit = 20
) -> HttpResponse:
    """The newest first."""
    before = before_of("photos", cursor)
    found, last = cut(photos.of_owner(people.id_of(name), before, limit + 1, request.person), limit)
    return page("photos", found, [int(last.id)] if last else None)


@router.get("/{name}/followers", summary="Who follows a person", **returns(Page[Listed]))
def list_followers(
    request: HttpRequest, name: str, cursor: Cursor | None = None, limit: Limit = 20
) -> HttpResponse:
    """The newest first. A follower may take a moment to appear."""
    return _list("followers", follows.followers_of, request, name, cursor, limit)


@router.get("/{name}/following", summary="Whom a person follows", **returns(Page[Listed]))
def list_following(
    request: HttpRequest, name: str, cursor: Cursor | None = None, limit: Limit = 20
) -> HttpResponse:
    """The newest first."""
    return _list("following", follows.followed_by, request, name, cursor, limit)


def _list(
    of: str, rows_of: Callable[[int, int, int], Sequence[tuple[int, int]]],
    request: HttpRequest, name: str, cursor: str | None, limit: int,
) -> HttpResponse:  # fmt: skip
    before = before_of(of, cursor)
    rows, last = cut(rows_of(people.id_of(name), before, limit + 1), limit)
    return page(of, people.listed([person for _, person in rows], request.person), last and last[:1])


@router.put("/{name}/follow", summary="Follow", auth=signed_in, **NOTHING)
def follow(request: HttpRequest, name: str) -> HttpResponse:
    """From now on the person's photos are in your feed. 403 for yourself."""
    follows.follow(request.person, people.id_of(name))
    return nothing()


@router.delete("/{name}/follow", summary="Unfollow", auth=signed_in, **NOTHING)
def unfollow(request: HttpRequest, name: str) -> HttpResponse:
    """The person's photos leave your feed."""
    follows.unfollow(request.person, people.id_of(name))
    return nothing()
