"""How much one person, or one address, may do: one Redis call a request, whatever it counts against."""

from __future__ import annotations

import functools
import ipaddress
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast, get_args

import redis

from webapp import config, redis_clients
from webapp.problems import Problem

Name = Literal["address", "portraits", "reads", "writes", "uploads", "sign_ups", "log_ins", "log_ins_name"]
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_SCRIPT: Final = (Path(__file__).parent / "lua" / "limits.lua").read_text()
_BACK: Final = (Path(__file__).parent / "lua" / "limits_back.lua").read_text()
_MICROSECONDS: Final = 1_000_000
_SILENCE: Final = 10.0  # s between two lines about a Redis that does not count
_log: Final = logging.getLogger(__name__)


class Count(NamedTuple):
    """One thing to count: against which rate, and whose (a person, an address, a name)."""

    name: Name
    whose: str


class Limits:
    """The rates of the configuration, counted in Redis."""

    def __init__(self, client: redis.Redis, settings: config.Limits) -> None:
        self._script = client.register_script(_SCRIPT)
        self._back = client.register_script(_BACK)
        self._rates = {name: config.rate(getattr(settings, name)) for name in get_args(Name)}
        self._silent_until = 0.0

    def take(self, *counts: Count, must: bool = False, also: str | None = None) -> dict[bytes, bytes] | None:
        """Counts a request against all of these. Raises Problem `too-many-requests` when one is used up.

        When Redis cannot count: lets it pass, or with `must` raises Problem `unavailable`. What guards
        passwords must be counted.

        Returns the hash under the key `also`, read in the same call; None when that was not possible.
        """
        arguments: list[float] = []
        for count in counts:
            rate = self._rates[count.name]
            arguments += (rate.seconds * _MICROSECONDS / rate.count, rate.count)
        try:
            keys = [_key(count) for count in counts]
            wait, pairs = cast("Any", self._script(keys=[*keys, also] if also else keys, args=arguments))
        except redis.RedisError as failure:
            self._uncounted(failure, must)
            return None
        if wait:
            seconds = wait / _MICROSECONDS
            raise Problem(
                "too-many-requests", "this was too often; try again after Retry-After", wait=seconds
            )
        return dict(zip(pairs[::2], pairs[1::2], strict=True)) if also else None

    def give_back(self, count: Count) -> None:
        """Undoes one `take` of something of which only failures count. Does nothing when Redis fails."""
        rate = self._rates[count.name]
        try:
            self._back(keys=[_key(count)], args=[rate.seconds * _MICROSECONDS / rate.count])
        except redis.RedisError as failure:
            self._uncounted(failure, must=False)

    def _uncounted(self, failure: redis.RedisError, must: bool) -> None:
        if time.monotonic() >= self._silent_until:
            self._silent_until = time.monotonic() + _SILENCE
            _log.error("limits are not counted, because Redis fails: %s", failure)
        if must:
            raise Problem("unavailable", "tries cannot be counted at the moment", wait=5) from failure


def _key(count: Count) -> str:
    return f"limit:{count.name}:{count.whose}"


def limits() -> Limits:
    """Those of the configuration in force. They may be shared by threads."""
    from django.conf import settings

    return _limits(redis_clients.client("limits"), settings.CONFIG.limits)


_limits: Final = functools.lru_cache(maxsize=8)(Limits)


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """Addresses and networks, as `site.trusted_proxies` has them."""
    return tuple(ipaddress.ip_network(text) for text in texts)


def where_from(meta: Mapping[str, Any]) -> str:
    """Where a request comes from, as `address_of` tells it with the proxies of the configuration in force."""
    from django.conf import settings

    return address_of(meta, _networks(settings.CONFIG.site.trusted_proxies))


_networks: Final = functools.lru_cache(maxsize=8)(networks)


def address_of(meta: Mapping[str, Any], trusted: Sequence[Network]) -> str:
    """Where a request comes from: an IPv4 address, or the /64 of an IPv6 one, which one subscriber has.

    `X-Forwarded-For` is believed from the right, as far as each that wrote it is `trusted`. A socket of this
    machine, which has no address, is.
    """
    hops = [hop.strip() for hop in str(meta.get("HTTP_X_FORWARDED_FOR", "")).split(",") if hop.strip()]
    address = _address(str(meta.get("REMOTE_ADDR", "")))
    while hops and (address is None or any(address in network for network in trusted)):
        before = _address(hops.pop())
        if before is None:
            break  # whoever wrote this is trusted, what it says is of no use
        address = before
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found
