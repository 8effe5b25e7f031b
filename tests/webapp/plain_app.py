"""A WSGI application for tests of the worker: `/slow` takes its time; others tell how much content they were sent."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Answers."""
    said = str(len(environ["wsgi.input"].read())).encode()
    if environ["PATH_INFO"] == "/slow":
        time.sleep(2.5)
    start("200 OK", [("Content-Length", str(len(said)))])
    return [said]
