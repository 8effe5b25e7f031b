"""Connections to Redis, one pool for each server and process: events, feeds, limits, and marks of who wrote."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from webapp import config

__all__ = ["Purpose", "client"]

Purpose = Literal["events", "feeds", "limits", "marks"]


def client(purpose: Purpose) -> redis.Redis:
    """The client for a purpose, made at first use; safe in threads. It answers bytes.

    Its calls raise redis.RedisError when the server does not answer within redis.timeout_seconds.
    """
    chosen: config.Redis = settings.CONFIG.redis
    special = {"events": chosen.events_url, "feeds": chosen.feeds_url, "limits": chosen.limits_url}
    return _client(special.get(purpose) or chosen.url, chosen)


@lru_cache(maxsize=16)
def _client(url: str, chosen: config.Redis) -> redis.Redis:
    tls = {"ssl_ca_certs": chosen.ca_file} if url.startswith("rediss:") and chosen.ca_file else {}
    return redis.Redis.from_url(
        url,
        username=chosen.username,
        password=config.secret(chosen.password_file, "redis.password_file") or None,
        socket_timeout=chosen.timeout_seconds,
        socket_connect_timeout=chosen.timeout_seconds,
        # redis-py's own default is ten tries with growing pauses: a request that waits for a dead Redis for a minute.
        retry=Retry(NoBackoff(), 0),
        **tls,
    )
