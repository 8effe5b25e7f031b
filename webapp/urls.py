"""Which address is answered by what."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, path, re_path

from webapp import site

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(f"^{site.PAGES.pattern.removeprefix('/')}$", site.page),
    path("static/<path:name>", site.static),
]
