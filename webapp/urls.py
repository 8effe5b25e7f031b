"""Which address is answered by what."""

from __future__ import annotations

from typing import Any

urlpatterns: list[Any] = []
