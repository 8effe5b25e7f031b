"""Django's settings, made from the file that WEBAPP_CONFIG names; see webapp/config.py for what can be set."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Any

from webapp.config import Config, load, secret
from webapp.shards.layout import Layout, databases

FILE = os.environ.get("WEBAPP_CONFIG")
CONFIG: Config = load(Path(FILE) if FILE else None)
LAYOUT = Layout(CONFIG.shards.count, CONFIG.shards.nodes)

SECRET_KEY = secret(CONFIG.site.secret_key_file, "site.secret_key_file") or secrets.token_urlsafe(48)
DEBUG = CONFIG.site.debug
ALLOWED_HOSTS = list(CONFIG.site.allowed_hosts)

INSTALLED_APPS = ["webapp"]
MIDDLEWARE = [
    "webapp.shards.middleware.acting_middleware",
    "webapp.api.entry.Entry",
    "ninja.compatibility.files.fix_request_files_middleware",  # Django reads forms only of POST; an avatar is PUT
]
ROOT_URLCONF = "webapp.urls"
WSGI_APPLICATION = "webapp.wsgi.application"
TEMPLATES: list[dict[str, Any]] = []
APPEND_SLASH = False

DATABASES = databases(CONFIG)
DATABASE_ROUTERS = ["webapp.shards.router.Router"]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
PASSWORD_HASHERS = [
    "django.contrib.auth.hashers.ScryptPasswordHasher",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]

_LOCAL_CACHE = "django.core.cache.backends.locmem.LocMemCache"
CACHES = {
    "default": {
        "BACKEND": _LOCAL_CACHE if CONFIG.cache.backend == "local" else CONFIG.cache.backend,
        "LOCATION": list(CONFIG.cache.location),
        "KEY_PREFIX": "webapp",
    }
}
if not CONFIG.cache.location:
    del CACHES["default"]["LOCATION"]

USE_TZ = True
TIME_ZONE = "UTC"
USE_I18N = False
LANGUAGE_CODE = "en"
DATA_UPLOAD_MAX_MEMORY_SIZE = 1_048_576
FILE_UPLOAD_MAX_MEMORY_SIZE = CONFIG.photos.max_bytes + 65_536  # a picture is decoded in memory anyway
SILENCED_SYSTEM_CHECKS: list[str] = []
