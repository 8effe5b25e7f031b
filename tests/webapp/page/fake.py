"""The photo API as far as the site needs it, in memory: to see the site in every mood, also in bad ones."""

from __future__ import annotations

import email
import email.policy
import io
import itertools
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self
from urllib.parse import parse_qs, unquote, urlsplit

import jwt
from PIL import Image

from tests.client import token
from tests.webapp.page.paintings import painting
from webapp.site import HEADERS, INDEX, PAGES, page_files, security_policy

HOST: Final = "127.0.0.1"
LONGEST_NAME: Final = 30
PART: Final = 1 << 21  # bytes of a content that are read at once
Json = dict[str, Any]


def _at_once() -> None:
    """As fast as it comes."""


class Refusal(Exception):
    """A problem document (RFC 9457)."""

    def __init__(self, status: int, detail: str, path: str = "", retry_after: int = 0) -> None:
        super().__init__(detail)
        self.status, self.retry_after = status, retry_after
        self.said: Json = {"type": "about:blank", "title": "Refused", "status": status, "detail": detail}
        if path:
            self.said["errors"] = [{"path": path, "message": detail}]


class Person:
    def __init__(self, number: str, name: str, shown: str = "", bio: str = "") -> None:
        self.id, self.name, self.shown, self.bio = number, name, shown, bio
        self.password, self.avatar = "", ""
        self.follows: set[str] = set()

    @property
    def brief(self) -> Json:
        return {"id": self.id, "name": self.name, "display_name": self.shown, "avatar": self.avatar or None}


class Photo:
    def __init__(self, number: str, owner: Person, caption: str, size: tuple[int, int]) -> None:
        self.id, self.owner, self.caption, self.size = number, owner, caption, size
        self.likes: dict[str, Person] = {}
        self.comments: list[Json] = []
        self.created = time.time()


class FakeApi:
    """People, photos and what they did. `publish(event)` is called for what the bell should tell."""

    def __init__(
        self, site: Json | None = None, publish: Callable[[Json], None] = lambda event: None
    ) -> None:
        self.site, self.publish = site or {}, publish
        self.people: dict[str, Person] = {}
        self.photos: dict[str, Photo] = {}
        self.media: dict[str, bytes] = {}
        self.failing: dict[str, Refusal] = {}  # "PUT /api/photos/1/like" as a pattern -> what is answered
        self.slow: dict[str, float] = {}  # the same -> seconds
        self.losing: set[str] = set()  # the same: it is done, but the answer is a 503
        self.ended: set[str] = set()  # tokens, and what renews them, that are taken no longer
        self.done: dict[tuple[str, str], tuple[int, Any]] = {}  # person and Idempotency-Key -> the answer
        self.life = 3600.0  # of tokens, s
        self.reading: Callable[[], object] = _at_once  # done before each part of a content is read
        self.asked: list[str] = []
        self._numbers = itertools.count(100_000_000_001)
        self._lock = threading.RLock()
        self.files = page_files()

    # -- to set a scene

    def clear(self) -> None:
        """Nobody, nothing, and a good mood. Numbers go on: to the notifier everybody is new."""
        for kept in (
            *(self.people, self.photos, self.media, self.failing, self.slow, self.asked),
            *(self.losing, self.ended, self.done),
        ):
            kept.clear()
        self.life = 3600.0
        self.reading = _at_once

    def person(self, name: str, shown: str = "", bio: str = "") -> Person:
        made = self.people[name] = Person(str(next(self._numbers)), name, shown, bio)
        return made

    def photo(self, owner: Person, caption: str = "", picture: bytes | None = None, age: float = 0) -> Photo:
        number = str(next(self._numbers))
        body = picture if picture is not None else painting(int(number))
        with Image.open(io.BytesIO(body)) as image:
            size, square = image.size, image.convert("RGB")
        side = min(size)
        box = ((size[0] - side) // 2, (size[1] - side) // 2, (size[0] + side) // 2, (size[1] + side) // 2)
        self.media[f"/media/{number}-square.jpg"] = _jpeg(square.crop(box).resize((640, 640)))
        self.media[f"/media/{number}.jpg"] = _jpeg(square)
        made = self.photos[number] = Photo(number, owner, caption, size)
        made.created -= age
        return made

    def comment(self, photo: Photo, author: Person, text: str) -> Json:
        made: Json = {"id": str(next(self._numbers)), "author": author, "text": text, "created": time.time()}
        photo.comments.append(made)
        mentioned = [self.people[name] for name in re.findall(r"@([a-z0-9_.]+)", text) if name in self.people]
        heard = {one.id for one in (photo.owner, *mentioned)} - {author.id}
        self._tell("comment", author, heard, photo, text, made["id"])
        return made

    def like(self, photo: Photo, person: Person, on: bool = True) -> None:
        if on and person.id not in photo.likes:
            photo.likes[person.id] = person
            self._tell("like", person, {photo.owner.id} - {person.id}, photo)
        elif not on and photo.likes.pop(person.id, None) is not None:
            self._tell("unlike", person, {photo.owner.id} - {person.id}, photo)

    def follow(self, follower: Person, followee: Person, on: bool = True) -> None:
        if on and followee.id not in follower.follows:
            follower.follows.add(followee.id)
            self._tell("follow", follower, {followee.id})
        elif not on and followee.id in follower.follows:
            follower.follows.discard(followee.id)
            self._tell("unfollow", follower, {followee.id})

    def _tell(
        self,
        kind: str,
        actor: Person,
        to: Iterable[str],
        photo: Photo | None = None,
        text: str = "",
        comment: str = "",
    ) -> None:
        if not (recipients := sorted(to)):
            return
        event: Json = {"type": kind, "actor": {"id": actor.id, "name": actor.name}, "to": recipients}
        if photo is not None:
            image = f"/media/{photo.id}-square.jpg"
            thing = {"type": "photo", "id": photo.id, "url": f"/p/{photo.id}"}
            if comment:
                thing = {"type": "comment", "id": comment, "url": f"/p/{photo.id}#c{comment}"}
            event["object"] = thing | {"image": image}
        self.publish(event | ({"text": text} if text else {}))

    @contextmanager
    def refusing(self, pattern: str, refusal: Refusal) -> Iterator[None]:
        """While this lasts, requests ("PUT /api/…/like") that match are answered so."""
        self.failing[pattern] = refusal
        yield
        del self.failing[pattern]

    # -- answers

    def answer(
        self, method: str, path: str, query: Json, bearer: str, body: bytes, kind: str, key: str = ""
    ) -> tuple[int, Any]:
        asked = f"{method} {path}"
        self.asked.append(asked)
        for pattern, refusal in list(self.failing.items()):
            if re.fullmatch(pattern, asked):
                raise refusal
        for pattern, route in ROUTES:
            if found := re.fullmatch(pattern, asked):
                with self._lock:
                    call = Call(self, self._who(bearer), query, body, kind)
                    answer = self._once(call, key, lambda: route(call, *map(unquote, found.groups())))  # noqa: B023
                # What is slow is the way back: the answer is as old as that when it comes.
                time.sleep(
                    max((given for slow, given in self.slow.items() if re.fullmatch(slow, asked)), default=0)
                )
                if any(re.fullmatch(lost, asked) for lost in self.losing):
                    raise Refusal(503, "send the same request again")
                return answer
        raise Refusal(404, "there is nothing here")

    def _once(self, call: Call, key: str, route: Callable[[], tuple[int, Any]]) -> tuple[int, Any]:
        if not key:
            return route()
        name = (call.me.id, key)
        if name not in self.done:
            self.done[name] = route()
        return self.done[name]

    def _who(self, bearer: str) -> Person | None:
        if not bearer:
            return None
        if bearer in self.ended:
            raise Refusal(401, "log in again")
        try:
            subject = jwt.decode(bearer, options={"verify_signature": False})["sub"]
        except jwt.PyJWTError:
            subject = ""
        found = next((person for person in self.people.values() if person.id == subject), None)
        if found is None:
            raise Refusal(401, "the token is not one of ours")
        return found


class Call:
    """One request, with what routes ask of it."""

    def __init__(self, api: FakeApi, who: Person | None, query: Json, body: bytes, kind: str) -> None:
        self.api, self._who, self.query, self.body, self.kind = api, who, query, body, kind

    @property
    def me(self) -> Person:
        if self._who is None:
            raise Refusal(401, "log in first")
        return self._who

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found

    def photo(self, number: str) -> Photo:
        if number not in self.api.photos:
            raise Refusal(404, "There is no such photo.")
        return self.api.photos[number]

    def person(self, name: str) -> Person:
        if name not in self.api.people:
            raise Refusal(404, "There is nobody of that name.")
        return self.api.people[name]

    def shown(self, photo: Photo) -> Json:
        width, height = photo.size
        return {
            "id": photo.id,
            "owner": photo.owner.brief,
            "caption": photo.caption,
            "width": width,
            "height": height,
            "images": {
                "square": {"url": f"/media/{photo.id}-square.jpg", "width": 640, "height": 640},
                "display": {"url": f"/media/{photo.id}.jpg", "width": width, "height": height},
            },
            "likes": len(photo.likes),
            "comments": len(photo.comments),
            "liked": self._who is not None and self._who.id in photo.likes,
            "created": _when(photo.created),
        }

    def said(self, comment: Json) -> Json:
        mine = self._who is not None and comment["author"] is self._who
        return comment | {
            "author": comment["author"].brief,
            "created": _when(comment["created"]),
            "mine": mine,
        }

    def listed(self, person: Person) -> Json:
        followed = self._who is not None and person.id in self._who.follows
        return person.brief | {"followed": followed, "you": person is self._who}

    def profile(self, person: Person) -> Json:
        return person.brief | {
            "bio": person.bio,
            "photos": sum(photo.owner is person for photo in self.api.photos.values()),
            "followers": sum(person.id in other.follows for other in self.api.people.values()),
            "following": len(person.follows),
            "followed": self._who is not None and person.id in self._who.follows,
            "you": person is self._who,
        }

    def page(self, items: Iterable[Any], show: Callable[[Any], Json]) -> tuple[int, Any]:
        """Items as given; the cursor counts them from the end, so it holds while new ones come before."""
        every = list(items)
        limit = int(self.query.get("limit", ["20"])[0])
        left = int(self.query.get("cursor", [str(len(every))])[0])
        begin = len(every) - left
        rest = left - limit
        return 200, {
            "items": [show(item) for item in every[begin : begin + limit]],
            "next": str(rest) if rest > 0 else None,
        }

    def form(self) -> dict[str, bytes]:
        """The parts of multipart/form-data (RFC 7578)."""
        head = f"Content-Type: {self.kind}\r\n\r\n".encode()
        message = email.message_from_bytes(head + self.body, policy=email.policy.HTTP)
        return {
            str(part.get_param("name", header="content-disposition")): bytes(
                part.get_payload(decode=True) or b""
            )
            for part in message.iter_parts()
        }


def _jpeg(image: Image.Image) -> bytes:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03}Z"


# -- the routes, as tables say them


_tokens = map(str, itertools.count(1))


def _enter(call: Call, person: Person, status: int) -> tuple[int, Any]:
    return status, {
        "person": call.profile(person) | {"you": True},
        "token": token(person.id, call.api.life, jti=next(_tokens)),
        "expires": int(time.time()) + 3600,
        "renewal": f"renewal {person.id} {next(_tokens)}",
    }


def renew(call: Call) -> tuple[int, Any]:
    _, number, _ = call.json["renewal"].split()
    if {call.json["renewal"], f"all of {number}"} & call.api.ended:
        raise Refusal(401, "log in again")
    return _enter(call, next(one for one in call.api.people.values() if one.id == number), 200)


def end_sessions(call: Call) -> tuple[int, Any]:
    call.api.ended.add(f"all of {call.me.id}")
    return 204, None


def join(call: Call) -> tuple[int, Any]:
    given = call.json
    name = given["name"]
    if not re.fullmatch(r"[a-z0-9_.]{1,30}", name):
        raise Refusal(422, "Use small letters, digits, dots and underscores.", "name")
    if name in call.api.people:
        raise Refusal(409, "This name is taken.", "name")
    if len(given["password"]) < 8:
        raise Refusal(422, "Use eight characters at least.", "password")
    person = call.api.person(name, given.get("display_name", ""))
    person.password = given["password"]
    return _enter(call, person, 201)


def log_in(call: Call) -> tuple[int, Any]:
    person = call.api.people.get(call.json["name"])
    if person is None or person.password != call.json["password"]:
        raise Refusal(401, "Name and password do not belong together.")
    return _enter(call, person, 200)


def change(call: Call) -> tuple[int, Any]:
    call.me.shown = call.json.get("display_name", call.me.shown)
    call.me.bio = call.json.get("bio", call.me.bio)
    return 200, call.profile(call.me)


def change_password(call: Call) -> tuple[int, Any]:
    """Ends no renewals: whoever wants to see that asks the real API."""
    if call.json["old"] != call.me.password:
        raise Refusal(422, "this is not your password", "old")
    call.me.password = call.json["new"]
    return _enter(call, call.me, 200)


def _newest(photos: Iterable[Photo]) -> list[Photo]:
    return sorted(photos, key=lambda photo: int(photo.id), reverse=True)


def feed(call: Call) -> tuple[int, Any]:
    mine = call.me.follows | {call.me.id}
    return call.page(
        _newest(photo for photo in call.api.photos.values() if photo.owner.id in mine), call.shown
    )


def search(call: Call) -> tuple[int, Any]:
    text = call.query["q"][0].lower()
    if call.query["kind"][0] == "people":
        found = [one for one in call.api.people.values() if text in f"{one.name} {one.shown}".lower()]
        return call.page(found, call.listed)
    return call.page(
        _newest(photo for photo in call.api.photos.values() if text in photo.caption.lower()), call.shown
    )


def add_photo(call: Call) -> tuple[int, Any]:
    form = call.form()
    try:
        made = call.api.photo(call.me, form.get("caption", b"").decode(), form["file"])
    except OSError:
        raise Refusal(422, "This is no picture that we can read.", "file") from None
    return 201, call.shown(made)


def delete_photo(call: Call, number: str) -> tuple[int, Any]:
    if call.photo(number).owner is not call.me:
        raise Refusal(403, "This photo is not yours.")
    del call.api.photos[number]
    return 204, None


def like(on: bool) -> Callable[[Call, str], tuple[int, Any]]:
    def route(call: Call, number: str) -> tuple[int, Any]:
        call.api.like(call.photo(number), call.me, on)
        return 204, None

    return route


def follow(on: bool) -> Callable[[Call, str], tuple[int, Any]]:
    def route(call: Call, name: str) -> tuple[int, Any]:
        call.api.follow(call.me, call.person(name), on)
        return 204, None

    return route


def add_comment(call: Call, number: str) -> tuple[int, Any]:
    photo = call.photo(number)
    return 201, call.said(call.api.comment(photo, call.me, call.json["text"]))


def delete_comment(call: Call, number: str, comment: str) -> tuple[int, Any]:
    photo = call.photo(number)
    photo.comments = [one for one in photo.comments if one["id"] != comment]
    return 204, None


def followers(call: Call, name: str) -> tuple[int, Any]:
    number = call.person(name).id
    return call.page((one for one in call.api.people.values() if number in one.follows), call.listed)


def following(call: Call, name: str) -> tuple[int, Any]:
    followed = call.person(name).follows
    return call.page((one for one in call.api.people.values() if one.id in followed), call.listed)


def portrait(call: Call) -> tuple[int, Any]:
    url = f"/media/{call.me.name}.jpg"
    call.api.media[url] = call.form()["file"]
    call.me.avatar = url
    return 200, call.profile(call.me)


_PHOTO: Final = r"/api/photos/(\d+)"
_PERSON: Final = r"/api/people/([^/]+)"
ROUTES: Final[tuple[tuple[str, Callable[..., tuple[int, Any]]], ...]] = (
    (r"GET /api/site", lambda call: (200, call.api.site)),
    (r"POST /api/people", join),
    (r"POST /api/session", log_in),
    (r"POST /api/session/renewal", renew),
    (r"POST /api/session/end", end_sessions),
    (r"GET /api/me", lambda call: (200, call.profile(call.me))),
    (r"PATCH /api/me", change),
    (r"PUT /api/me/password", change_password),
    (r"PUT /api/me/avatar", portrait),
    (r"GET /api/feed", feed),
    (r"GET /api/discover", lambda call: call.page(_newest(call.api.photos.values()), call.shown)),
    (r"GET /api/search", search),
    (r"POST /api/photos", add_photo),
    (f"GET {_PHOTO}", lambda call, number: (200, call.shown(call.photo(number)))),
    (f"DELETE {_PHOTO}", delete_photo),
    (f"PUT {_PHOTO}/like", like(True)),
    (f"DELETE {_PHOTO}/like", like(False)),
    (
        f"GET {_PHOTO}/likes",
        lambda call, number: call.page(call.photo(number).likes.values(), call.listed),
    ),
    (
        f"GET {_PHOTO}/comments",
        lambda call, number: call.page(call.photo(number).comments[::-1], call.said),
    ),
    (f"POST {_PHOTO}/comments", add_comment),
    (rf"DELETE {_PHOTO}/comments/(\d+)", delete_comment),
    (f"GET {_PERSON}", lambda call, name: (200, call.profile(call.person(name)))),
    (
        f"GET {_PERSON}/photos",
        lambda call, name: call.page(
            _newest(photo for photo in call.api.photos.values() if photo.owner.name == name), call.shown
        ),
    ),
    (f"GET {_PERSON}/followers", followers),
    (f"GET {_PERSON}/following", following),
    (f"PUT {_PERSON}/follow", follow(True)),
    (f"DELETE {_PERSON}/follow", follow(False)),
)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FakeServer

    def _do(self) -> None:
        parts = urlsplit(self.path)
        api = self.server.api
        left, parts_read = int(self.headers.get("Content-Length") or 0), []
        while left > 0:
            api.reading()
            parts_read.append(self.rfile.read(min(left, PART)))
            left -= PART
        body = b"".join(parts_read)
        if not parts.path.startswith("/api/"):
            return self._file(parts.path)
        bearer = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        kind = self.headers.get("Content-Type") or ""
        key = self.headers.get("Idempotency-Key") or ""
        try:
            status, said = api.answer(
                self.command, parts.path, parse_qs(parts.query), bearer, body, kind, key
            )
        except Refusal as refusal:
            more = {"Retry-After": str(refusal.retry_after)} if refusal.retry_after else {}
            return self._send(
                refusal.status, "application/problem+json", json.dumps(refusal.said).encode(), more
            )
        return self._send(status, "application/json", b"" if said is None else json.dumps(said).encode(), {})

    do_GET = do_PUT = do_POST = do_PATCH = do_DELETE = _do

    def _file(self, path: str) -> None:
        api = self.server.api
        if path in api.media:
            return self._send(200, "image/jpeg", api.media[path], {"Cache-Control": "max-age=3600"})
        name = INDEX if PAGES.fullmatch(path) else path.removeprefix("/static/")
        if name not in api.files:
            return self._send(404, "text/plain", b"", {})
        kind, content = api.files[name]
        site = api.site
        policy = security_policy(site.get("websocket", ""), site.get("api", ""), site.get("sandbox", ""), "")
        return self._send(200, kind, content, {**HEADERS, "Content-Security-Policy": policy})

    def _send(self, status: int, kind: str, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 -- the base class names it so
        """Tests read `asked`."""


class FakeServer(ThreadingHTTPServer):
    """Serves the site and a FakeApi. A context manager that begins and ends."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, api: FakeApi, port: int = 0) -> None:
        super().__init__((HOST, port), _Handler, bind_and_activate=False)
        # Left to itself it may grow to 32 MB: a whole upload would lie here while nothing of it is read.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.server_bind()
        self.server_activate()
        self.api = api
        self.url = f"http://{HOST}:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *fault: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that leaves in the middle of an answer is none of ours."""
