"""Where pictures are kept: a Django storage, local files by default, and the addresses they are served at."""

from __future__ import annotations

import re
import secrets
from typing import Any, Final

from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage
from django.utils.module_loading import import_string

from webapp import config

MEDIA: Final = "/media/"
"""Where this site serves local files."""
PORTRAITS: Final = "/portraits/"
"""Where this site leads from a person's id to the picture that they have now."""
CACHE_CONTROL: Final = "public, max-age=31536000, immutable"
"""A picture never changes under its name (RFC 8246)."""
NAME: Final = re.compile(r"[ap]/[0-9a-f]{2}/[0-9a-f]{38}(-(square|display))?\.jpg")
"""The names that this module gives."""


class Store:
    """The storage of one configuration."""

    def __init__(self, settings: config.Photos) -> None:
        local = settings.storage == "local"
        made: Any = (
            FileSystemStorage(location=settings.folder, base_url=MEDIA)
            if local
            else import_string(settings.storage)(**settings.options)
        )
        _hurry(made, settings)
        self.files: Final = made
        self.is_local: Final = local
        # Names of ours need no escaping: an address is made by putting both together, dozens for a feed.
        self._front = f"{settings.cdn_url}/" if settings.cdn_url else MEDIA if local else None

    def save(self, name: str, data: bytes) -> None:
        """Keeps a picture. Raises OSError, or what a storage of another kind raises."""
        self.files.save(name, ContentFile(data))

    def delete(self, name: str) -> None:
        """Removes a picture; one that is gone already is no error."""
        self.files.delete(name)

    def url(self, name: str) -> str:
        """Where a picture is served: at the CDN if there is one, else where the storage says."""
        return str(self.files.url(name)) if self._front is None else self._front + name


def _hurry(made: Any, settings: config.Photos) -> None:
    """An S3 client waits for minutes by default, in all its tries: with a person, and threads, waiting for it."""
    if (known := getattr(made, "client_config", None)) is None:
        return  # another kind of storage
    from botocore.config import Config  # type: ignore[import-untyped, unused-ignore]  # only who has S3 has it

    made.client_config = known.merge(
        Config(
            connect_timeout=settings.connect_seconds,
            read_timeout=settings.answer_seconds,
            retries={"mode": "standard", "total_max_attempts": settings.attempts},
        )
    )


def store() -> Store:
    """The storage of the configuration in force."""
    from django.conf import settings

    chosen: config.Photos = settings.CONFIG.photos
    found = _stores.get(id(chosen))
    if found is None or found[0] is not chosen:
        # By identity: a table of options cannot be hashed. Two threads may both make one; either will do.
        found = _stores[id(chosen)] = (chosen, Store(chosen))
    return found[1]


_stores: Final[dict[int, tuple[config.Photos, Store]]] = {}


def new_key(kind: str) -> str:
    """A key that nobody can guess: "p" for a photo, "a" for an avatar. Its two first digits spread the folders."""
    digits = secrets.token_hex(20)
    return f"{kind}/{digits[:2]}/{digits[2:]}"


def square(key: str) -> str:
    """The name of a photo's thumbnail."""
    return f"{key}-square.jpg"


def display(key: str) -> str:
    """The name of a photo's large picture."""
    return f"{key}-display.jpg"


def avatar(key: str) -> str:
    """The name of a person's picture."""
    return f"{key}.jpg"


def portrait_url(person: int | str) -> str:
    """An address of a person's picture that stays right when they take another."""
    from django.conf import settings

    return f"{settings.CONFIG.site.url}{PORTRAITS}{person}"


def delete(name: str) -> None:
    """Removes a picture from the storage in force; one that is gone already is no error."""
    store().delete(name)
