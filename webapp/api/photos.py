"""Routes: photos, likes and comments."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse
from ninja import File, Form, Router
from ninja.files import UploadedFile

from webapp import comments, idempotency, people, photos
from webapp.api.answers import NOTHING, Page, answer, keyed, nothing, page, returns
from webapp.api.content import Cursor, Limit, NewComment, NewPhoto
from webapp.api.door import before_of, cut, signed_in, upload_limits
from webapp.comments import Comment
from webapp.idempotency import Key
from webapp.lookup import id_of
from webapp.people import Listed
from webapp.photos import Photo

router = Router(tags=["photos"])


@router.post("", summary="Upload a photo", auth=signed_in, **keyed(returns(Photo, 201)))
def post_photo(request: HttpRequest, file: File[UploadedFile], given: Form[NewPhoto]) -> HttpResponse:
    """Takes a JPEG, PNG or WebP picture and what to say of it. Where it was taken is not kept."""
    key = _key(request, 0, lambda: (file.read(), given.caption.encode()))
    made = idempotency.once(
        key, lambda keep: photos.post(request.person, file, given.caption, upload_limits(), keep)
    )
    return answer(made, 201)


@router.get("/{photo}", summary="A photo", **returns(Photo))
def get_photo(request: HttpRequest, photo: str) -> HttpResponse:
    """A photo by its id."""
    return answer(photos.one(id_of(photo), request.person))


@router.delete("/{photo}", summary="Delete a photo", auth=signed_in, **NOTHING)
def delete_photo(request: HttpRequest, photo: str) -> HttpResponse:
    """With its likes and comments. 403 unless it is yours."""
    photos.delete(id_of(photo), request.person)
    return nothing()


@router.put("/{photo}/like", summary="Like", auth=signed_in, **NOTHING)
def like(request: HttpRequest, photo: str) -> HttpResponse:
    """Once, however often it is sent."""
    photos.like(id_of(photo), request.person)
    return nothing()


@router.delete("/{photo}/like", summary="Unlike", auth=signed_in, **NOTHING)
def unlike(request: HttpRequest, photo: str) -> HttpResponse:
    """Takes your like back, if there is one."""
    photos.unlike(id_of(photo), request.person)
    return nothing()


@router.get("/{photo}/likes", summary="Who likes a photo", **returns(Page[Listed]))
def list_likes(
    request: HttpRequest, photo: str, cursor: Cursor | None = None, limit: Limit = 20
) -> HttpResponse:
    """The newest first."""
    before = before_of("likes", cursor)
    rows, last = cut(photos.likes(id_of(photo), before, limit + 1), limit)
    return page("likes", people.listed([person for _, person in rows], request.person), last and last[:1])


@router.get("/{photo}/comments", summary="Comments on a photo", **returns(Page[Comment]))
def list_comments(
    request: HttpRequest, photo: str, cursor: Cursor | None = None, limit: Limit = 20
) -> HttpResponse:
    """The newest first."""
    before = before_of("comments", cursor)
    found, last = cut(comments.of_photo(id_of(photo), before, limit + 1, request.person), limit)
    return page("comments", found, [int(last.id)] if last else None)


@router.post("/{photo}/comments", summary="Comment", auth=signed_in, **keyed(returns(Comment, 201)))
def post_comment(request: HttpRequest, photo: str, given: NewComment) -> HttpResponse:
    """The photo's owner hears of it, and who is mentioned as `@name`."""
    about = id_of(photo)
    key = _key(request, about, lambda: (given.text.encode(),))
    made = idempotency.once(key, lambda keep: comments.write(about, request.person, given.text, keep))
    return answer(made, 201)


@router.delete("/{photo}/comments/{comment}", summary="Delete a comment", auth=signed_in, **NOTHING)
def delete_comment(request: HttpRequest, photo: str, comment: str) -> HttpResponse:
    """Its author can, and the photo's owner."""
    comments.delete(id_of(photo), id_of(comment), request.person)
    return nothing()


def _key(request: HttpRequest, about: int, sent: Callable[[], tuple[bytes, ...]]) -> Key | None:
    """The key of a request. Not the content as it came: each time a form is sent, other words bound its parts."""
    key = idempotency.read(request.headers.get("Idempotency-Key"))
    return None if key is None else Key(request.person, about, key, idempotency.digest(*sent()))
