"""The WSGI application: `gunicorn webapp.wsgi`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import django
from django.core.handlers.wsgi import WSGIHandler, WSGIRequest


class Request(WSGIRequest):
    """A request whose Content-Type may be anything: Django fails at some before anybody could answer."""

    def _set_content_type_params(self, meta: Mapping[str, Any]) -> None:
        """RFC 2231 parameters may name codecs that Python does not have, or that make no text."""
        try:
            super()._set_content_type_params(meta)
        except (ValueError, LookupError):
            self.content_type = ""
            self.content_params: dict[str, str] = {}
            self.META["webapp.unreadable"] = "Content-Type"


class Handler(WSGIHandler):
    """Django's handler, with such requests."""

    request_class = Request


os.environ.setdefault("DJANGO_SETTINGS_MODULE", "webapp.settings")
django.setup(set_prefix=False)
application = Handler()
