"""Which address is answered by what."""

from __future__ import annotations

from django.urls import URLPattern, URLResolver, include, path, re_path

from webapp import media, site
from webapp.api import routes

urlpatterns: list[URLPattern | URLResolver] = [
    re_path(f"^{site.PAGES.pattern.removeprefix('/')}$", site.page),
    path("static/<path:name>", site.static),
    path("media/<path:name>", media.picture),
    path("portraits/<str:person>", media.portrait),
    path("api/", include(routes.urlpatterns)),
]
handler404 = site.missing
