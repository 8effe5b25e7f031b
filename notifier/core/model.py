"""The nouns: who did what, to what, and who should hear of it; and what is sent to phones, with what result."""

from typing import Literal, TypeAlias

import msgspec

# All are plain trees without cycles, so the garbage collector need not track them (gc=False).


class Actor(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The person who acted; `id` is a user id, `name` and `image` (URL) are for display."""

    id: str
    name: str | None = None
    image: str | None = None


class Object(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What was acted upon: a photo, a comment; `url` and `image` are for display."""

    type: str
    id: str
    url: str | None = None
    image: str | None = None


class Event(msgspec.Struct, frozen=True, gc=False):
    """One action, checked and complete; everything downstream trusts its fields.

    `id` names the action and is the same on every repeat. `time` is the producer's and `accepted`
    that of the stream entry, both in ms since 1970 UTC. `kind` is the base type ("like" also for
    an unlike, which has `retracts` set). `to` holds distinct user ids without the actor's own and
    may be empty. `named` tells that the producer gave the id.
    """

    id: str
    time: int
    accepted: int
    kind: str
    retracts: bool
    actor: Actor
    to: tuple[str, ...]
    object: Object | None
    text: str | None
    named: bool


# --- The way out, to phones ----------------------------------------------------------------------------------

Provider: TypeAlias = Literal["apns", "fcm"]
Wire: TypeAlias = Literal[
    "apns", "fcm", "gcm"
]  # gcm: the older JSON, which self-hosted gateways of FCM speak
Environment: TypeAlias = Literal["production", "sandbox"]
OutcomeKind: TypeAlias = Literal[
    "delivered", "drop_message", "drop_token", "config_error", "retry", "reconnect_retry", "unknown"
]
Scope: TypeAlias = Literal["token", "endpoint", "app", "credential", "provider"]
TokenAction: TypeAlias = Literal["forget", "suspect", "replace"]
VerdictKind: TypeAlias = Literal["done", "later", "forget", "bury"]


class Notification(msgspec.Struct, frozen=True, gc=False):
    """A row of somebody's inbox, as far as a phone shows it.

    `time` is ms since 1970 UTC; `group` names what merges on a screen. (`epoch`, `seq`) is the row's place.
    """

    id: str
    kind: str
    actors: tuple[Actor, ...]
    count: int
    time: int
    object: Object | None
    text: str | None
    group: str
    epoch: str
    seq: int


class Device(msgspec.Struct, frozen=True, gc=False):
    """One app on one phone. `id` follows from the token; `registered` is when the app last said so (ms).

    `locale` (BCP 47), `time_zone` (IANA) and `app_version` are empty where the app did not tell.
    """

    id: str
    provider: Provider
    app: str
    token: str
    registered: int
    environment: Environment = "production"
    locale: str = ""
    time_zone: str = ""
    app_version: str = ""

    def __repr__(self) -> str:
        # Whoever knows a token can be mistaken for the phone: it must not reach a log by way of a traceback.
        return f"Device(id={self.id!r}, provider={self.provider!r}, app={self.app!r})"


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """One notification on its way to one device; its name at the provider is the same on every try.

    `seq`: of the row it is for. `deadline`: ms. Before this try: `tries` that count, `free` that do not (they
    surely did not reach the provider), and `doubts`, answers that call the token bad without proving it.
    """

    user: str
    notification: str
    seq: int
    device: Device
    deadline: int
    tries: int = 0
    free: int = 0
    doubts: int = 0


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What became of one request, whichever the provider.

    `kind`: drop_message, this one can never succeed; drop_token, the device is gone; config_error, ours to mend;
    retry; reconnect_retry, surely not processed, so it does not count as a try (scope "credential": renew the
    provider token first); unknown, sent and not answered. `scope`: what a pause should cover. `status`: 0 without
    an answer. `reason`: the provider's word, or ours in lower case. `retry_after`: s. `action` on the token: forget, on
    the provider's clear word; suspect, the token or our own set-up is wrong; replace, by `replacement_token`.
    `dead_since_ms`: since when the provider knows.
    """

    kind: OutcomeKind
    provider: Wire
    status: int
    reason: str
    retry_after: int | None = None
    scope: Scope | None = None
    action: TokenAction | None = None
    replacement_token: str | None = None
    dead_since_ms: int | None = None

    def __repr__(self) -> str:
        return f"Outcome({self.kind}: {self.provider} {self.status} {self.reason or '-'})"


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What to do with a delivery now.

    later: again at `at` (ms), with these `tries`, `free` and `doubts`. forget: the device, if it was registered
    before `before` (ms). bury: for `reason`, one of a closed set; `detail` is for people.
    """

    kind: VerdictKind
    at: int = 0
    tries: int = 0
    free: int = 0
    doubts: int = 0
    before: int = 0
    reason: str = ""
    detail: str = ""
