"""How a provider is made to fail: by what a device token begins with, or by rules that are set while it runs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple

from msgspec import Meta, Struct, field

from notifier.sandbox.exchange import Action, Provider

RULES: Final = 1_000
Text = Annotated[str, Meta(max_length=200)]


class Rule(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """An answer for requests whose token begins with `token`, `times` times (0: until it is taken back).

    Without `status` the provider answers as it would have, after `delay_ms`, with `action` done to it.
    `retry_after` goes out as it stands: seconds, or a date. `timestamp_ms` belongs to APNs' 410.
    """

    provider: Provider
    token: Text = ""
    status: Annotated[int, Meta(ge=200, le=599)] | None = None
    reason: Text = ""
    times: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 0
    delay_ms: Annotated[int, Meta(ge=0, le=600_000)] = 0
    retry_after: Text | None = None
    timestamp_ms: Annotated[int, Meta(ge=0)] | None = None
    action: Action = "answer"
    skip: Annotated[int, Meta(ge=0, le=1_000_000_000)] = field(default=0)
    """How many matching requests pass before the rule begins."""


class Prefix(NamedTuple):
    """What a token that begins with a prefix brings about at each provider."""

    about: str
    apns: Rule
    fcm: Rule


def _both(about: str, **how: object) -> Prefix:
    return Prefix(about, Rule("apns", **how), Rule("fcm", **how))  # type: ignore[arg-type]  # fields by name


# Every prefix is hexadecimal, so that it can begin an APNs token as well: "bad", then what happens.
PREFIXES: Final[Mapping[str, Prefix]] = {
    "bad400": Prefix(
        "a token that never was one",
        Rule("apns", status=400, reason="BadDeviceToken"),
        Rule("fcm", status=400, reason="INVALID_TOKEN"),
    ),
    "bad401": Prefix(
        "credentials that ended",
        Rule("apns", status=403, reason="ExpiredProviderToken"),
        Rule("fcm", status=401, reason="UNAUTHENTICATED"),
    ),
    "bad403": Prefix(
        "credentials of somebody else",
        Rule("apns", status=403, reason="InvalidProviderToken"),
        Rule("fcm", status=403, reason="SENDER_ID_MISMATCH"),
    ),
    "bad404": Prefix(
        "a wrong address",
        Rule("apns", status=404, reason="BadPath"),
        Rule("fcm", status=404, reason="NOT_FOUND"),
    ),
    "bad410": Prefix(
        "the app was removed (APNs: since now)",
        Rule("apns", status=410, reason="Unregistered"),
        Rule("fcm", status=404, reason="UNREGISTERED"),
    ),
    "bad413": Prefix(
        "too large",
        Rule("apns", status=413, reason="PayloadTooLarge"),
        Rule("fcm", status=413, reason=""),
    ),
    "bad429": Prefix(
        "too many for this device; Retry-After: 1",
        Rule("apns", status=429, reason="TooManyRequests", retry_after="1"),
        Rule("fcm", status=429, reason="QUOTA_EXCEEDED", retry_after="1"),
    ),
    "bad500": Prefix(
        "an error of the provider",
        Rule("apns", status=500, reason="InternalServerError"),
        Rule("fcm", status=500, reason="INTERNAL"),
    ),
    "bad503": Prefix(
        "the provider is down",
        Rule("apns", status=503, reason="ServiceUnavailable"),
        Rule("fcm", status=503, reason="UNAVAILABLE", retry_after="1"),
    ),
    "bad001": _both("answered after 2 seconds", delay_ms=2_000),
    "bad002": _both("never answered", action="hang"),
    "bad003": _both("stream reset, perhaps after it was processed", action="reset"),
    "bad004": _both("stream refused, certainly not processed", action="refuse"),
    "bad005": _both("GOAWAY, then answered", action="goaway"),
    "bad006": _both("connection closed without a word", action="close"),
}


class Standing(Struct):
    """A rule and what is left of it."""

    number: int
    rule: Rule
    left: int
    skip: int
    met: int = 0


class Script:
    """The rules that stand, oldest first; the first that fits decides, then the token's prefix."""

    def __init__(self) -> None:
        self._rules: deque[Standing] = deque()
        self._numbers = 0

    def add(self, rule: Rule) -> int:
        """The number of the rule. Raises ValueError at 1 000 rules."""
        if len(self._rules) >= RULES:
            raise ValueError(f"there are {RULES} rules already; DELETE /script takes them back")
        self._numbers += 1
        self._rules.append(Standing(self._numbers, rule, rule.times, rule.skip))
        return self._numbers

    def standing(self) -> list[Standing]:
        """All rules, with how often each was met."""
        return list(self._rules)

    def clear(self, number: int | None = None) -> bool:
        """Takes one rule back, or all; False if there was none."""
        before = len(self._rules)
        self._rules = deque(each for each in self._rules if number is not None and each.number != number)
        return len(self._rules) < before

    def take(self, provider: Provider, token: str) -> Rule | None:
        """The rule for a request with this token, counted as used; None: the provider does as it always does."""
        for standing in self._rules:
            rule = standing.rule
            if rule.provider != provider or not token.startswith(rule.token):
                continue
            if standing.skip:
                standing.skip -= 1
                continue
            if rule.times:
                if not standing.left:
                    continue
                standing.left -= 1
            standing.met += 1
            return rule
        prefix = PREFIXES.get(token[:6])
        if prefix is None or provider == "oauth":
            return None
        return prefix.apns if provider == "apns" else prefix.fcm
