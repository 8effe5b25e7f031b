"""The API's photos: uploads, likes, comments, deletion, and what the notifier is told of each."""

from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image

from tests.webapp.caller import PICTURE, Caller, Someone, done_with_threads, picture, told
from tests.webapp.stack import Stack
from tests.webapp.test_api_people import files
from webapp import storage
from webapp.comments import mentioned
from webapp.models import Comment, Like, Photo
from webapp.shards import shard, shard_of, shard_of_name


@pytest.fixture
def ana(api: Caller) -> Someone:
    return api.join("ana")


@pytest.fixture
def ben(api: Caller) -> Someone:
    return api.join("ben")


def together(work: Callable[[], None], count: int = 8) -> None:
    """Runs `work` in that many threads at once. Raises what they raised."""
    raised: list[BaseException] = []

    def caught() -> None:
        try:
            work()
        except BaseException as failure:
            raised.append(failure)
        finally:
            done_with_threads()

    threads = [threading.Thread(target=caught) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not raised, raised


def test_an_upload(api: Caller, ana: Someone) -> None:
    made = api.form("POST", "/api/photos", ana, file=picture(2000, 1000), caption=" Low tide\r\nagain ")
    assert made.status == 201
    photo = made.json
    assert photo["owner"] == {"id": ana.id, "name": "ana", "display_name": "", "avatar": None}
    assert (photo["caption"], photo["width"], photo["height"]) == ("Low tide\nagain", 2000, 1000)
    assert (photo["likes"], photo["comments"], photo["liked"]) == (0, 0, False)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", photo["created"])
    for name, size in (("square", (640, 640)), ("display", (1440, 720))):
        told_of = photo["images"][name]
        served = api("GET", told_of["url"])
        assert served.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert served.headers["Content-Type"] == "image/jpeg"
        assert served.headers["X-Content-Type-Options"] == "nosniff"
        assert Image.open(io.BytesIO(served.content)).size == size == (told_of["width"], told_of["height"])
    assert api("GET", f"/api/photos/{photo['id']}").json == photo
    assert shard_of(int(photo["id"])) == shard_of(int(ana.id))
    assert api("GET", "/api/people/ana").json["photos"] == 1
    assert told("fanout") == [{"photo": int(photo["id"]), "owner": int(ana.id)}]
    assert told() == []


@pytest.mark.parametrize(
    ("file", "status", "problem"),
    [
        (b"", 422, "bad-image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422, "bad-image"),
        (PICTURE[:200], 422, "bad-image"),
        (b"\x00" * 5000, 422, "bad-image"),
        (PICTURE + b"\x00" * 300_000, 413, "too-large"),
        (PICTURE + b"\x00" * 199_999, 422, "bad-image"),
        (picture(400, 400), 422, "bad-image"),
    ],
    ids=["empty", "svg", "cut", "zeros", "more than the form", "more than a file", "pixels"],
)
def test_hostile_uploads(
    api: Caller, ana: Someone, db: Stack, file: bytes, status: int, problem: str
) -> None:
    db.sections["photos"] = {"folder": str(db.folder / "photos"), "max_bytes": 200_000, "max_pixels": 100_000}
    db.write()
    before = files()
    refused = api.form("POST", "/api/photos", ana, file=file, caption="x")
    assert (refused.status, refused.problem) == (status, problem)
    if problem == "bad-image":
        assert refused.json["errors"][0]["path"] == "file"
    assert files() == before
    assert told("fanout") == []
    assert api("GET", "/api/people/ana").json["photos"] == 0


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"caption": "x"}, "file"),
        ({"file": "not a file"}, "file"),
        ({"file": PICTURE, "caption": "x" * 2201}, "caption"),
        ({"file": PICTURE, "caption": "a\x00b"}, "caption"),
    ],
    ids=["no file", "text", "long", "nul"],
)
def test_an_upload_that_is_wrong_says_where(
    api: Caller, ana: Someone, fields: dict[str, Any], fault: str
) -> None:
    refused = api.form("POST", "/api/photos", ana, **fields)
    assert (refused.status, [each["path"] for each in refused.json["errors"]]) == (422, [fault])


NO_FORMS = [
    ("application/json", b"{}"),
    ("multipart/form-data", b"x"),
    ("multipart/form-data; boundary=", b"x"),
    (
        "multipart/form-data; boundary=x",
        b"--x\r\nContent-Disposition: form-data; name=file; filename=a\r\n",
    ),
    ("multipart/form-data; boundary=x", b"--x\r\n" * 2000),
    (
        "multipart/form-data; boundary=x",
        b"".join(b'--x\r\nContent-Disposition: form-data; name="a%d"\r\n\r\n\r\n' % at for at in range(1200)),
    ),
    (
        "multipart/form-data; boundary=x",
        b"".join(
            b'--x\r\nContent-Disposition: form-data; name="f"; filename="%d"\r\n\r\nx\r\n' % at
            for at in range(200)
        ),
    ),
    ("text/plain; charset=nonsense", b"\xff"),
    ("multipart/form-data; boundary=x; charset=nonsense", b"--x\r\n"),
]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/photos"), ("PUT", "/api/me/avatar")], ids=["photo", "me"]
)
def test_forms_that_are_none(api: Caller, ana: Someone, method: str, path: str) -> None:
    for kind, content in NO_FORMS:
        refused = api(method, path, ana, content, CONTENT_TYPE=kind)
        assert 400 <= refused.status < 500, kind
        assert refused.problem


@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/photos"), ("PUT", "/api/me/avatar")], ids=["photo", "me"]
)
def test_nothing_is_read_of_what_somebody_uploads_without_a_token(
    api: Caller, method: str, path: str
) -> None:
    for kind, content in NO_FORMS:
        refused = api(method, path, None, content, CONTENT_TYPE=kind)
        assert (refused.status, refused.problem) == (401, "not-authenticated"), kind


@pytest.mark.parametrize("length", ["-5", "abc", "9" * 30, "5, 5", "٥"])
def test_lengths_that_are_none(api: Caller, ana: Someone, length: str) -> None:
    assert api("POST", "/api/photos", ana, b"hello", CONTENT_LENGTH=length).status in (400, 413, 422)


def test_the_name_of_a_file_is_not_used(api: Caller, ana: Someone) -> None:
    content = (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../../../etc/passwd"\r\n\r\n'
        + PICTURE
        + b"\r\n--x--\r\n"
    )
    made = api("POST", "/api/photos", ana, content, CONTENT_TYPE="multipart/form-data; boundary=x")
    assert made.status == 201
    assert b"passwd" not in made.content
    for image in made.json["images"].values():
        assert storage.NAME.fullmatch(image["url"].removeprefix("/media/"))


@pytest.mark.parametrize(
    "name",
    [
        "",
        "p",
        "..",
        "../webapp.toml",
        "p/../../webapp.toml",
        "%2e%2e/webapp.toml",
        "p/00/x.jpg",
        "/etc/passwd",
    ],
)
def test_only_pictures_are_served(api: Caller, name: str) -> None:
    assert api("GET", f"/media/{name}").status == 404


def test_what_fails_leaves_no_files(api: Caller, ana: Someone, monkeypatch: pytest.MonkeyPatch) -> None:
    """A photo is made whole or not at all: here the outbox refuses its row."""
    before = files()

    def put(*arguments: object) -> int:
        raise OSError("no")

    monkeypatch.setattr("webapp.outbox.put", put)
    assert api.form("POST", "/api/photos", ana, file=PICTURE).problem == "internal"
    assert files() == before
    assert api("GET", "/api/people/ana").json["photos"] == 0


def test_likes(api: Caller, ana: Someone, ben: Someone) -> None:
    photo = api.photo(ana)
    path = f"/api/photos/{photo}/like"
    for method, liked in (("PUT", True), ("PUT", True), ("DELETE", False), ("DELETE", False), ("PUT", True)):
        assert api(method, path, ben).status == 204
        shown = api("GET", f"/api/photos/{photo}", ben).json
        assert (shown["liked"], shown["likes"]) == (liked, int(liked))
    assert api("GET", f"/api/photos/{photo}", ana).json["liked"] is False
    assert [one["name"] for one in api("GET", f"/api/photos/{photo}/likes").json["items"]] == ["ben"]
    events = told()
    assert [event["type"] for event in events] == ["like", "unlike", "like"]
    square = api("GET", f"/api/photos/{photo}").json["images"]["square"]["url"]
    assert events[0] == {
        "type": "like", "actor": {"id": ben.id, "name": "ben"}, "to": [ana.id],
        "object": {"type": "photo", "id": photo, "url": f"/p/{photo}", "image": square},
    }  # fmt: skip
    assert events[1]["object"] == events[0]["object"]


def test_an_event_shows_the_actors_picture(api: Caller, ana: Someone, ben: Someone) -> None:
    api.form("PUT", "/api/me/avatar", ben, file=PICTURE)
    photo = api.photo(ana)
    api("PUT", f"/api/photos/{photo}/like", ben)
    api("POST", f"/api/photos/{photo}/comments", ben, {"text": "x"})
    for event in told():
        assert event["actor"] == {"id": ben.id, "name": "ben", "image": f"/portraits/{ben.id}"}


def test_nobody_is_told_of_what_they_did_themselves(api: Caller, ana: Someone) -> None:
    photo = api.photo(ana)
    api("PUT", f"/api/photos/{photo}/like", ana)
    comment = api("POST", f"/api/photos/{photo}/comments", ana, {"text": "by me, @ana"}).json["id"]
    api("DELETE", f"/api/photos/{photo}/comments/{comment}", ana)
    api("DELETE", f"/api/photos/{photo}/like", ana)
    api("PUT", f"/api/photos/{photo}/like", ana)
    assert api("GET", f"/api/photos/{photo}").json["likes"] == 1
    api("DELETE", f"/api/photos/{photo}", ana)
    assert told() == []


def test_likes_at_once_count_once(api: Caller, ana: Someone, ben: Someone) -> None:
    photo = api.photo(ana)

    def like() -> None:
        assert Caller()("PUT", f"/api/photos/{photo}/like", ben).status == 204

    together(like)
    assert api("GET", f"/api/photos/{photo}").json["likes"] == 1
    assert len(told()) == 1


def test_people_at_once_each_count(api: Caller, ana: Someone) -> None:
    photo = api.photo(ana)
    likers = iter([api.join(f"liker{number}") for number in range(8)])
    turn = threading.Lock()

    def like() -> None:
        with turn:
            who = next(likers)
        for _ in range(3):
            assert Caller()("PUT", f"/api/photos/{photo}/like", who).status == 204

    together(like)
    assert api("GET", f"/api/photos/{photo}").json["likes"] == 8
    assert len({event["actor"]["id"] for event in told()}) == len(told()) == 8


def test_liking_back_and_forth_at_once_stays_true(api: Caller, ana: Someone, ben: Someone) -> None:
    """Whoever comes last, the count is that of the likes, and the events are each other's opposites in turn."""
    photo = api.photo(ana)

    def toggle() -> None:
        caller = Caller()
        for method in ("PUT", "DELETE") * 4:
            assert caller(method, f"/api/photos/{photo}/like", ben).status == 204

    together(toggle, 4)
    with shard(shard_of(int(photo))):
        rows = Like.objects.count()
    assert api("GET", f"/api/photos/{photo}").json["likes"] == rows == 0
    kinds = [event["type"] for event in told()]
    assert kinds == ["like", "unlike"] * (len(kinds) // 2)


def test_deleting_while_others_like_and_comment(api: Caller, ana: Someone, ben: Someone) -> None:
    """Nothing stays of it, no request fails in a way of its own, and all that was told is taken back."""
    for _ in range(4):
        photo = api.photo(ana)
        path, begin = f"/api/photos/{photo}", threading.Barrier(4)
        bodies: list[Callable[[Caller], int]] = [
            lambda call, path=path: call("PUT", f"{path}/like", ben).status,  # type: ignore[misc]
            lambda call, path=path: call("DELETE", f"{path}/like", ben).status,  # type: ignore[misc]
            lambda call, path=path: call("POST", f"{path}/comments", ben, {"text": "hi"}).status,  # type: ignore[misc]
            lambda call, path=path: call("DELETE", path, ana).status,  # type: ignore[misc]
        ]
        left, turn = iter(bodies), threading.Lock()

        def act(left: Any = left, turn: Any = turn, begin: Any = begin) -> None:
            with turn:
                body = next(left)
            begin.wait()
            assert body(Caller()) in (201, 204, 404)

        together(act, 4)
        with shard(shard_of(int(photo))):
            assert not Photo.objects.exists()
            assert not Like.objects.exists()
            assert not Comment.objects.exists()
    open_ones: set[tuple[str, str, str]] = set()
    for event in told():
        one = (event["actor"]["id"], event["type"].removeprefix("un"), event["object"]["id"])
        if event["type"].startswith("un"):
            open_ones.discard(one)
        else:
            open_ones.add(one)
    assert not open_ones


def test_comments(api: Caller, ana: Someone, ben: Someone) -> None:
    photo = api.photo(ana)
    path = f"/api/photos/{photo}/comments"
    first = api("POST", path, ben, {"text": " What a light!\r\n "})
    assert first.status == 201
    assert first.json["text"] == "What a light!"
    assert (first.json["author"]["name"], first.json["mine"]) == ("ben", True)
    second = api("POST", path, ana, {"text": "Thanks"}).json
    listed = api("GET", path, ana).json
    assert [one["id"] for one in listed["items"]] == [second["id"], first.json["id"]]
    assert [one["mine"] for one in listed["items"]] == [True, False]
    assert api("GET", f"/api/photos/{photo}").json["comments"] == 2
    event = told()[0]
    assert event["type"] == "comment"
    assert (event["to"], event["text"]) == ([ana.id], "What a light!")
    assert event["object"]["type"] == "comment"
    assert event["object"]["url"] == f"/p/{photo}#c{first.json['id']}"
    assert api("DELETE", f"{path}/{first.json['id']}", ben).status == 204
    assert api("DELETE", f"{path}/{first.json['id']}", ben).status == 404
    assert api("GET", f"/api/photos/{photo}").json["comments"] == 1
    back = told()[-1]
    assert (back["type"], back["to"], back["object"]["id"]) == ("uncomment", [ana.id], first.json["id"])


@pytest.mark.parametrize("text", ["", "   \n ", "x" * 1001, "a\x00b", None, 7], ids=ascii)
def test_comments_that_are_none(api: Caller, ana: Someone, text: Any) -> None:
    refused = api("POST", f"/api/photos/{api.photo(ana)}/comments", ana, {"text": text})
    assert (refused.status, refused.json["errors"][0]["path"]) == (422, "text")


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("@ana", ["ana"]),
        ("hi @Ana, and @ben.", ["ana", "ben"]),
        ("@ana @ANA @ana", ["ana"]),
        ("(@ana.lima) @_x_", ["ana.lima", "_x_"]),
        ("mail ana@ben.org @", []),
        ("@@ana", []),
        ("@" + "a" * 31, []),
        ("@" + "a" * 30, ["a" * 30]),
        ("\n@ana\n", ["ana"]),
        ("@ána", []),
        ("@ana…", ["ana"]),
        (" ".join(f"@p{number}" for number in range(30)), [f"p{number}" for number in range(20)]),
    ],
    ids=lambda each: ascii(each)[:30],
)
def test_what_a_mention_is(text: str, names: list[str]) -> None:
    assert mentioned(text) == names


def test_who_is_mentioned_hears_once(api: Caller, ana: Someone, ben: Someone) -> None:
    """The owner, who is mentioned as well, too; and the author not."""
    cleo, photo = api.join("cleo"), api.photo(ana)
    text = "@ana @cleo @ben @Cleo @nobody"
    comment = api("POST", f"/api/photos/{photo}/comments", ben, {"text": text}).json["id"]
    (event,) = told()
    assert event["to"][0] == ana.id
    assert sorted(event["to"]) == sorted([ana.id, cleo.id])
    api("DELETE", f"/api/photos/{photo}/comments/{comment}", ana)
    assert sorted(told()[-1]["to"]) == sorted([ana.id, cleo.id])
    assert told()[-1]["actor"] == {"id": ben.id}, "it is the author's comment, whoever deletes it"


def test_deleting_a_photo(api: Caller, ana: Someone, ben: Someone) -> None:
    photo = api.photo(ana)
    path = f"/api/photos/{photo}"
    urls = [image["url"] for image in api("GET", path).json["images"].values()]
    cleo = api.join("cleo")
    api("PUT", f"{path}/like", ben)
    comment = api("POST", f"{path}/comments", ben, {"text": "for @cleo"}).json["id"]
    api("POST", f"{path}/comments", ana, {"text": "thanks"})
    before = len(told())
    assert api("DELETE", path, ana).status == 204
    assert api("DELETE", path, ana).status == 404
    for gone in (path, f"{path}/likes", f"{path}/comments"):
        assert api("GET", gone).problem == "not-found"
    for method, body in (("PUT", None), ("DELETE", None)):
        assert api(method, f"{path}/like", ben, body).problem == "not-found"
    assert api("POST", f"{path}/comments", ben, {"text": "late"}).problem == "not-found"
    assert api("GET", "/api/people/ana").json["photos"] == 0
    taken_back = {
        (event["type"], event["actor"]["id"], event["object"]["id"]): event["to"] for event in told()[before:]
    }
    assert taken_back == {
        ("unlike", ben.id, photo): [ana.id],
        ("uncomment", ben.id, comment): [ana.id, cleo.id],
    }
    (withdrawn,) = told("withdraw")
    assert (withdrawn["photo"], withdrawn["owner"]) == (int(photo), int(ana.id))
    assert [f"/media/{name}" for name in withdrawn["files"]] == urls
    for name in withdrawn["files"]:
        storage.delete(name)
        storage.delete(name)
    assert api("GET", urls[0]).status == 404


NO_IDS = [
    "0",
    "-1",
    "1",
    "abc",
    "1.5",
    "%00",
    "9" * 30,
    str((1 << 63) - 1),
    str(1 << 63),
    "01",
    "١",
    "1;",
    "'",
]
NO_ROUTES: list[tuple[str, str, Any]] = [
    ("GET", "", None), ("GET", "/likes", None), ("GET", "/comments", None), ("PUT", "/like", None),
    ("DELETE", "/like", None), ("DELETE", "", None), ("POST", "/comments", {"text": "x"}),
    ("DELETE", "/comments/5", None),
]  # fmt: skip


def test_ids_that_nothing_has(api: Caller, ana: Someone) -> None:
    photo = api.photo(ana)
    for number in NO_IDS:
        for method, path, body in NO_ROUTES:
            assert api(method, f"/api/photos/{number}{path}", ana, body).status == 404, (number, method, path)
        assert api("DELETE", f"/api/photos/{photo}/comments/{number}", ana).problem == "not-found"


def test_a_comment_is_of_its_photo(api: Caller, ana: Someone) -> None:
    """Nobody deletes a comment through a photo of their own, also on the same shard."""
    near = next(name for at in range(999) if shard_of_name(name := f"p{at}") == shard_of_name("ana"))
    other = api.join(near)
    mine, theirs = api.photo(ana), api.photo(other)
    comment = api("POST", f"/api/photos/{theirs}/comments", other, {"text": "x"}).json["id"]
    assert api("DELETE", f"/api/photos/{mine}/comments/{comment}", ana).problem == "not-found"
    assert api("GET", f"/api/photos/{theirs}").json["comments"] == 1


def test_a_cdn(api: Caller, ana: Someone, db: Stack) -> None:
    db.sections["photos"] = {"folder": str(db.folder / "photos"), "cdn_url": "https://cdn.example.com/x"}
    db.write()
    url = api("GET", f"/api/photos/{api.photo(ana)}").json["images"]["square"]["url"]
    assert re.fullmatch(r"https://cdn\.example\.com/x/p/[0-9a-f]{2}/[0-9a-f]{38}-square\.jpg", url)


def test_another_storage(api: Caller, ana: Someone, db: Stack) -> None:
    """A class by its dotted path, with its options."""
    db.sections["photos"] = {
        "storage": "django.core.files.storage.InMemoryStorage",
        "options.base_url": "https://storage.example.com/",
    }
    db.write()
    url = api("GET", f"/api/photos/{api.photo(ana)}").json["images"]["square"]["url"]
    assert url.startswith("https://storage.example.com/p/")
    assert storage.store().files.exists(url.removeprefix("https://storage.example.com/"))
    assert api("GET", "/media/" + url.removeprefix("https://storage.example.com/")).status == 404
