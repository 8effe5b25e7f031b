"""Django with one view and nothing else: what the photo API's requests stand beside."""

from __future__ import annotations

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path


def bare(request: HttpRequest) -> HttpResponse:
    """As many bytes as a photo has."""
    return HttpResponse(b'{"x":"' + b"x" * 600 + b'"}', content_type="application/json")


urlpatterns = [path("bare", bare)]
settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["127.0.0.1"], SECRET_KEY="bench", MIDDLEWARE=[])
application = get_wsgi_application()
