"""All routes of the API together, and the OpenAPI 3.1 that describes them."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from django.http import Http404, HttpRequest, HttpResponse
from django.urls import path
from ninja import NinjaAPI
from ninja.errors import HttpError, ValidationError

from webapp.api import docs, lists, people, photos, system
from webapp.api.answers import REFERENCE, components
from webapp.api.content import StrictJson
from webapp.api.entry import problem_of
from webapp.problems import CONTENT_TYPE, response

_DESCRIPTION: Final = """People, photos, likes, comments and follows.

Ids are strings. Lists come in pages: send `next` back as `cursor`. Failures are problem documents (RFC 9457).
`PUT` and `DELETE` may be repeated, and `POST` where it takes an `Idempotency-Key`.
After 429 and 503 try again when `Retry-After` says."""


class PhotoApi(NinjaAPI):
    """Django-ninja's API, whose description knows our answers, problems and tokens."""

    def get_openapi_schema(self, **options: Any) -> Any:
        """The description, as data."""
        described: Any = super().get_openapi_schema(**options)
        described["components"]["schemas"].update(components())
        for operations in described["paths"].values():
            for operation in operations.values():
                _complete(operation)
        return described


def _complete(operation: dict[str, Any]) -> None:
    """Every operation may fail; what asks for no token may show more with one."""
    schema = {"$ref": REFERENCE.format(name="Problem")}
    operation["responses"]["default"] = {
        "description": "A problem",
        "content": {CONTENT_TYPE: {"schema": schema}},
    }
    if operation["operationId"] == "ready":
        operation["responses"].update(_UNREADY)
    if operation["operationId"] not in _TOKENLESS and "security" not in operation:
        operation["security"] = [{}, {"Token": []}]


_TOKENLESS: Final = frozenset({"sign_up", "log_in", "renew", "health", "ready", "site"})
_UNREADY: Final = {
    503: {
        "description": "A part is missing",
        "content": {"application/json": {"schema": {"$ref": REFERENCE.format(name="Readiness")}}},
    }
}

api: Final = PhotoApi(
    title="Photo API",
    version="1",
    description=_DESCRIPTION,
    urls_namespace="api",
    docs_url=None,  # django-ninja's page would come with a script of its own in it
    parser=StrictJson(),
)
api.get_openapi_operation_id = lambda operation: operation.view_func.__name__  # type: ignore[method-assign]

for prefix, router in {
    "/people": people.router,
    "/session": people.session,
    "/me": people.me,
    "/photos": photos.router,
    "": lists.router,
}.items():
    api.add_router(prefix, router)
api.add_router("", system.router)


def failed(request: HttpRequest, failure: Any) -> HttpResponse:
    """A problem document for whatever a route raises."""
    return response(problem_of(failure))


# Each by its own name: django-ninja has handlers of its own for the first three, and the nearest one is taken.
for kind in (ValidationError, HttpError, Http404, Exception):
    api.add_exception_handler(kind, failed)


def description() -> Any:
    """The OpenAPI 3.1 of all this, as data."""
    return msgspec.json.decode(msgspec.json.encode(api.get_openapi_schema(path_prefix="/api/")))


urlpatterns: Final = [
    path("docs", docs.page),
    path("docs/<str:name>", docs.page),
    path("", api.urls),
]
