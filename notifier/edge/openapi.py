"""The HTTP API described in OpenAPI 3.1, made from what the API itself uses: bodies, limits, kinds of problems.
`python -m notifier.edge.openapi` prints it as it is with the default configuration (docs/openapi.json)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Annotated, Any, Final, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from notifier.config import Config
from notifier.core import intake
from notifier.core.devices import Platform
from notifier.core.model import Actor, Environment, Object
from notifier.edge import api
from notifier.edge.api import EVENT_STREAM, JSON, KINDS, PROBLEM, PUBLISH, SCOPE, Epoch, Seq
from notifier.edge.events_api import MOST_EVENTS, Result
from notifier.metrics import build_facts

# What answers look like. The API writes them from parts that are JSON already; a test reads them by these. ---------


class Inbox(Struct):
    """Where an inbox stands."""

    epoch: Epoch
    seq: Seq
    floor: Annotated[int, Meta(ge=0, description="What stands at or below this seq is no longer kept.")]
    seen: Annotated[int, Meta(ge=0, description="Rows up to this seq have been seen.")]
    unread: Annotated[int, Meta(ge=0, description="How many rows are unread.")]


class Row(Struct, kw_only=True):
    """One notification in an inbox."""

    seq: Seq
    id: str
    kind: Annotated[str, Meta(description="The event's type.")]
    actors: tuple[Actor, ...]
    count: Annotated[int, Meta(ge=1)]
    time: str
    object: Object | UnsetType = UNSET
    text: str | UnsetType = UNSET
    read: bool
    seen: bool


class Rows(Inbox):
    """A page of an inbox, newest row first."""

    rows: tuple[Row, ...]
    cursor: Annotated[str | None, Meta(description="Where the next page begins; null on the last one.")]


class Change(Struct):
    """A message as the WebSocket brings it (docs/asyncapi.yaml); other members follow from its type."""

    type: Literal["notification", "retract", "seen", "read", "deleted"]
    seq: Seq
    unread: Annotated[int, Meta(ge=0)]
    floor: Annotated[int, Meta(ge=0)]


class Sync(Inbox):
    """What has changed since a place."""

    result: Literal["load", "resume", "resync"]
    more: Annotated[bool, Meta(description="Ask again, after the last change of this answer.")]
    changes: tuple[Change, ...]


class Marked(Inbox):
    """Where an inbox stands after a mark."""

    changed: Annotated[int, Meta(ge=0, description="How many changes the mark has made.")]


class DeviceBody(Struct):
    """A device as its app registers it. What the app does not know it leaves out."""

    platform: Annotated[Platform, Meta(description="`gcm` is the older name of `fcm`.")]
    app: Annotated[str, Meta(description="The id of the app in the configuration.")]
    environment: Annotated[
        Environment | UnsetType, Meta(description="Apple's; without it the one of the app's configuration.")
    ] = UNSET
    locale: Annotated[str, Meta(description="A language tag such as pt-BR.")] = ""
    time_zone: Annotated[str, Meta(description="Such as Europe/Berlin.")] = ""
    app_version: Annotated[str, Meta(max_length=64)] = ""


class Results(Struct):
    """What became of each event, in the order of the request."""

    results: tuple[Result, ...]


class Wrong(Struct):
    """One part of a request that is to blame."""

    detail: str
    parameter: str | UnsetType = UNSET
    pointer: str | UnsetType = UNSET


class ProblemDetails(Struct):
    """RFC 9457."""

    type: Annotated[str, Meta(extra_json_schema={"format": "uri"})]
    title: str
    status: int
    detail: str
    errors: tuple[Wrong, ...] | UnsetType = UNSET
    results: tuple[Result, ...] | UnsetType = UNSET


STRUCTS: Final = (
    Inbox, Rows, Sync, Marked, Results, ProblemDetails, api.SeenBody, api.ReadBody, DeviceBody,
)  # fmt: skip


# What can be asked ------------------------------------------------------------------------------------------------


class Operation(Struct, frozen=True):
    """One line of the table: `answer` and `body` name a schema; `problems` are those beside the usual ones.

    `store`: it fails with the store.
    """

    method: str
    path: str
    name: str
    summary: str
    scope: str | None
    status: int
    answer: str | None
    problems: tuple[str, ...] = ()
    body: str | None = None
    parameters: tuple[str, ...] = ()
    store: bool = True


TOKEN: Final = ("not-authenticated", "invalid-token", "expired-token", "revoked-token", "missing-scope")
ALWAYS: Final = ("invalid-request", "too-many-requests")
STORE: Final = ("internal", "unavailable")
BODY: Final = ("too-large", "not-json")

OPERATIONS: Final = (
    Operation("get", "/v1/inbox", "listInbox", "Rows, newest first", SCOPE, 200, "Rows",
              ("gone-cursor",), parameters=("limit", "cursor")),
    Operation("get", "/v1/sync", "sync", "What has changed since a place", SCOPE, 200, "Sync",
              parameters=("epoch", "after")),
    Operation("get", "/v1/inbox/unread", "countUnread", "The counters alone", SCOPE, 200, "Inbox"),
    Operation("post", "/v1/inbox/seen", "markSeen", "All rows up to a seq have been on screen", SCOPE, 200, "Marked",
              BODY, "SeenBody"),
    Operation("post", "/v1/inbox/read", "markRead", "Some rows, or all up to a seq, have been opened", SCOPE, 200,
              "Marked", BODY, "ReadBody"),
    Operation("delete", "/v1/inbox/{id}", "deleteRow", "A row goes away", SCOPE, 200, "Marked", parameters=("id",)),
    Operation("put", "/v1/devices/{token}", "registerDevice", "A device is this person's now, and nobody else's", SCOPE,
              204, None, BODY, "DeviceBody", parameters=("token",)),
    Operation("delete", "/v1/devices/{token}", "unregisterDevice", "A device is told nothing any more", SCOPE, 204,
              None, parameters=("token",)),
    Operation("get", "/v1/stream", "follow", "The changes of an inbox as they happen", SCOPE, 200, None,
              ("too-many-connections", "unavailable"), parameters=("epoch", "after", "lastEventId"), store=False),
    Operation("post", "/v1/events", "publish", "Append events", PUBLISH, 202, "Results",
              (*BODY, "backlog"), "Publication"),
    Operation("get", "/v1/openapi.json", "describe", "This description", None, 200, "Description",
              store=False),
)  # fmt: skip

_PARAMETERS: Final[Mapping[str, dict[str, Any]]] = {
    "limit": {
        "name": "limit", "in": "query", "description": "How many rows.",
        "schema": {"type": "integer", "minimum": 1, "maximum": api.MOST_ROWS, "default": api.ROWS},
    },
    "cursor": {
        "name": "cursor", "in": "query", "description": "The `cursor` of the page before.",
        "schema": {"type": "string"},
    },
    "epoch": {
        "name": "epoch", "in": "query", "description": "The epoch of the place that `after` is in.",
        "schema": {"type": "string"},
    },
    "after": {
        "name": "after", "in": "query", "description": "The seq up to which all is known; 0 without epoch: nothing is.",
        "schema": {"type": "integer", "minimum": 0, "maximum": api.MOST_SEQ},
    },
    "lastEventId": {
        "name": "Last-Event-ID", "in": "header", "description": "The id of the last event seen; wins over the query.",
        "schema": {"type": "string"},
    },
    "token": {
        "name": "token", "in": "path", "required": True,
        "description": "What the phone's system calls the device, percent-encoded: hexadecimal digits on Apple's.",
        "schema": {"type": "string", "pattern": "^[!-~]{8,1024}$"},
    },
    "id": {
        "name": "id", "in": "path", "required": True, "description": "The id of a row, percent-encoded.",
        "schema": {"type": "string", "pattern": "^[!-~]{1,200}$"},
    },
}  # fmt: skip


def document(config: Config) -> dict[str, Any]:
    """The description of the API with this configuration."""
    _, schemas = msgspec.json.schema_components(STRUCTS, ref_template="#/components/schemas/{name}")
    event = _event(config)
    schemas |= event.pop("$defs")
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        paths.setdefault(operation.path, {})[operation.method] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "notifier", "version": build_facts()["version"], "license": {"name": "MIT", "identifier": "MIT"},
            "description": "Inboxes, events and streams of a notification server.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Event": event, "Publication": PUBLICATION, "Description": {"type": "object"}},
            "parameters": dict(_PARAMETERS),
            "securitySchemes": {
                "token": {
                    "type": "http", "scheme": "bearer", "bearerFormat": "JWT",
                    "description": f"Scope `{SCOPE}` for a person's inbox, `{PUBLISH}` for events.",
                }
            },
        },
    }  # fmt: skip


PUBLICATION: Final[dict[str, Any]] = {
    "title": "Publication",
    "description": "One event, or several. An event that does not fit is told as rejected, beside the others.",
    # Its members are judged one event at a time, so that one cannot spoil the rest.
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "events": {
                    "type": "array", "minItems": 1, "maxItems": MOST_EVENTS,
                    "items": {"$ref": "#/components/schemas/Event"},
                }
            },
            "required": ["events"],
            "additionalProperties": False,
        },
        {"$ref": "#/components/schemas/Event"},
    ],
}  # fmt: skip


def _event(config: Config) -> dict[str, Any]:
    schema = intake.schema(config.events.types, config.events.max_recipients)
    schema.pop("$schema")
    moved = msgspec.json.encode(schema).replace(b"#/$defs/", b"#/components/schemas/Event")
    found: dict[str, Any] = msgspec.json.decode(moved)
    found["$defs"] = {f"Event{name}": part for name, part in found["$defs"].items()}
    return found


def _operation(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.scope is None:
        found["security"] = []
    if operation.parameters:
        found["parameters"] = [{"$ref": f"#/components/parameters/{name}"} for name in operation.parameters]
    if operation.body is not None:
        found["requestBody"] = {"required": True, "content": _content(JSON, operation.body)}
    kinds = (*ALWAYS, *operation.problems)
    kinds += (TOKEN if operation.scope else ()) + (STORE if operation.store else ())
    found["responses"] = {str(operation.status): _answer(operation), **_problems(kinds)}
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    if operation.status == 204:
        return {"description": operation.summary + "."}
    if operation.answer is None:
        stream = {EVENT_STREAM: {"schema": {"type": "string"}}}
        return {"description": "Events whose data are messages of the WebSocket protocol.", "content": stream}
    return {"description": operation.summary + ".", "content": _content(JSON, operation.answer)}


def _problems(kinds: tuple[str, ...]) -> dict[str, Any]:
    """Kinds of problems by their status, in the order of the table of kinds."""
    found: dict[str, Any] = {}
    for kind, (status, title) in KINDS.items():
        if kind in kinds:
            answer = found.setdefault(
                str(status), {"description": "", "content": _content(PROBLEM, "ProblemDetails")}
            )
            answer["description"] += f"{', or ' if answer['description'] else ''}`{kind}`: {title}"
            if status in (429, 503):
                answer["headers"] = {
                    "Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}
                }
    return found


def _content(media: str, schema: str) -> dict[str, Any]:
    return {media: {"schema": {"$ref": f"#/components/schemas/{schema}"}}}


def encoded(config: Config) -> bytes:
    """The description as JSON."""
    return msgspec.json.format(msgspec.json.encode(document(config)), indent=1) + b"\n"


__all__ = ["OPERATIONS", "Operation", "document", "encoded"]

if __name__ == "__main__":
    sys.stdout.buffer.write(encoded(Config()))
