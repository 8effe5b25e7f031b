"""A client of the photo API in this process, and people who use it."""

from __future__ import annotations

import io
import itertools
import json
from dataclasses import dataclass
from typing import Any

from django.db import connections
from django.test import Client
from django.test.client import BOUNDARY, MULTIPART_CONTENT, encode_multipart
from PIL import Image

from webapp.models import Outbox
from webapp.shards import all_shards, shard

PASSWORD = "correct horse"
_addresses = itertools.count(1)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        """The content, as data; checked to be what it says it is."""
        kind = self.headers["Content-Type"]
        assert kind == ("application/json" if self.status < 400 else "application/problem+json"), kind
        return json.loads(self.content)

    @property
    def problem(self) -> str:
        """What kind of problem it is; checked to be a whole problem document."""
        said = self.json
        assert said["status"] == self.status >= 400
        assert said["title"]
        return str(said["type"]).removeprefix("urn:problem-type:webapp:")


@dataclass(frozen=True)
class Someone:
    """A person with a token."""

    id: str
    name: str
    token: str
    renewal: str = ""


class Caller:
    """Calls the API. `address` is where from."""

    def __init__(self, address: str = "") -> None:
        self._client = Client(raise_request_exception=True)
        self.address = address or f"10.1.{next(_addresses) // 250}.{next(_addresses) % 250}"

    def __call__(
        self, method: str, path: str, who: Someone | None = None, body: Any = None, **more: Any
    ) -> Answer:
        """One request; `body` is sent as JSON, or bytes as they are. `more` are entries of the WSGI environment."""
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        extra = {"REMOTE_ADDR": self.address, "HTTP_HOST": "127.0.0.1:8000", **more}
        if who is not None:
            extra["HTTP_AUTHORIZATION"] = f"Bearer {who.token}"
        kind = extra.pop("CONTENT_TYPE", "application/json")
        made = self._client.generic(method, path, body or b"", content_type=kind, **extra)
        content = b"".join(made.streaming_content) if made.streaming else made.content
        return Answer(made.status_code, dict(made.headers), content)

    def form(self, method: str, path: str, who: Someone | None, key: str = "", **fields: Any) -> Answer:
        """A request with a form; bytes among its fields are files. `key`: its `Idempotency-Key`."""
        named = {name: _file(value) if isinstance(value, bytes) else value for name, value in fields.items()}
        more = {"HTTP_IDEMPOTENCY_KEY": key} if key else {}
        content = encode_multipart(BOUNDARY, named)
        return self(method, path, who, content, CONTENT_TYPE=MULTIPART_CONTENT, **more)

    def join(self, name: str, **more: str) -> Someone:
        """Somebody new."""
        made = self("POST", "/api/people", None, {"name": name, "password": PASSWORD, **more})
        assert made.status == 201, made
        said = made.json
        return Someone(said["person"]["id"], said["person"]["name"], said["token"], said["renewal"])

    def photo(self, who: Someone, caption: str = "", file: bytes = b"") -> str:
        """A photo of theirs; its id."""
        made = self.form("POST", "/api/photos", who, file=file or PICTURE, caption=caption)
        assert made.status == 201, made
        return str(made.json["id"])


def _file(data: bytes) -> io.BytesIO:
    made = io.BytesIO(data)
    made.name = "picture.jpg"
    return made


def picture(width: int = 64, height: int = 48, colour: str = "teal") -> bytes:
    """A small JPEG."""
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "JPEG")
    return out.getvalue()


PICTURE = picture()


def told(kind: str = "event") -> list[dict[str, Any]]:
    """What stands in the outboxes, of one kind, in the order of its making."""
    found: list[tuple[int, str]] = []
    for number in all_shards():
        with shard(number):
            found += Outbox.objects.filter(kind=kind).values_list("id", "payload")
    return [json.loads(payload) for _, payload in sorted(found)]


def done_with_threads() -> None:
    """To be called by a thread that has used the database, at its end."""
    connections.close_all()
