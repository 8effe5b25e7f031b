"""What a provider's answer means: tables of (status, reason) -> Outcome for APNs, FCM v1 and the legacy GCM JSON.
Only a listed pair may end a token; what nobody has listed falls to the default of its status."""

import re
from collections.abc import Mapping
from typing import Annotated, Final, NamedTuple, TypeVar

import msgspec
from msgspec import Meta, Struct

from notifier.core.model import Outcome, OutcomeKind, Scope, TokenAction, Wire
from notifier.core.retry_after import retry_after

T = TypeVar("T")

MAX_BODY: Final = 65_536
OTHER: Final = "other"


class Answer(Struct, frozen=True, gc=False):
    """A whole response; `retry_after` and `date` are the headers of these names, empty where there was none."""

    status: int
    body: bytes = b""
    retry_after: str = ""
    date: str = ""


class Rule(NamedTuple):
    """What a pair of status and reason means."""

    kind: OutcomeKind
    scope: Scope | None = None
    action: TokenAction | None = None


Pairs = Mapping[tuple[int, str], Rule]

_DELIVERED: Final = Rule("delivered")
_BUG: Final = Rule("drop_message")  # the request itself is wrong, and would be the next time
_DEAD: Final = Rule("drop_token", "token", "forget")
_SUSPECT: Final = Rule("drop_token", "token", "suspect")  # or it is the environment, the topic, the project
_WRONG_APP: Final = Rule("config_error", "app")
_WRONG_KEY: Final = Rule("config_error", "credential")
_STRANGER: Final = Rule("config_error", "provider")  # not the provider answers there
_RENEW: Final = Rule("reconnect_retry", "credential")
_RECONNECT: Final = Rule("reconnect_retry", "endpoint")
_BUSY_TOKEN: Final = Rule("retry", "token")
_BUSY: Final = Rule("retry", "credential")
_DOWN: Final = Rule("retry", "provider")
_SLOW: Final = Rule("retry", "endpoint")

APNS: Final[Pairs] = {
    (200, ""): _DELIVERED,
    (400, "BadCollapseId"): _BUG,
    (400, "BadDeviceToken"): _SUSPECT,  # malformed, or of the other environment: the answer is the same
    (400, "BadExpirationDate"): _BUG,
    (400, "BadMessageId"): _BUG,
    (400, "BadPriority"): _BUG,
    (400, "BadTopic"): _WRONG_APP,
    (400, "DeviceTokenNotForTopic"): _SUSPECT,
    (400, "DuplicateHeaders"): _BUG,
    (400, "IdleTimeout"): _RECONNECT,
    (400, "InvalidPushType"): _BUG,
    (400, "MissingDeviceToken"): _BUG,
    (400, "MissingTopic"): _WRONG_APP,
    (400, "PayloadEmpty"): _BUG,
    (400, "TopicDisallowed"): _WRONG_APP,
    (400, "BadChannelId"): _BUG,  # this and the next four: broadcasts, which are never sent
    (400, "CannotCreateChannelConfig"): _BUG,
    (400, "ChannelNotRegistered"): _BUG,
    (400, "FeatureNotEnabled"): _BUG,
    (400, "MissingChannelId"): _BUG,
    (400, "MissingPushType"): _BUG,
    (403, "BadCertificate"): _WRONG_KEY,
    (403, "BadCertificateEnvironment"): _WRONG_KEY,
    (403, "BadEnvironmentKeyIdInToken"): _WRONG_KEY,
    (403, "BadEnvironmentKeyInToken"): _WRONG_KEY,  # what live servers were seen to say
    (403, "ExpiredProviderToken"): _RENEW,
    (403, "Forbidden"): _WRONG_KEY,
    (403, "InvalidProviderToken"): _WRONG_KEY,
    (403, "MissingProviderToken"): _WRONG_KEY,
    (403, "UnrelatedKeyIdInToken"): _WRONG_KEY,
    (404, "BadPath"): _BUG,
    (405, "MethodNotAllowed"): _BUG,
    (410, "ExpiredToken"): _DEAD,
    (410, "Unregistered"): _DEAD,
    (413, "PayloadTooLarge"): _BUG,
    (429, "TooManyProviderTokenUpdates"): _BUSY,
    (429, "TooManyRequests"): _BUSY_TOKEN,  # too many to this one phone; the connection is well
    (500, "InternalServerError"): _DOWN,
    (503, "ServiceUnavailable"): _DOWN,
    (503, "Shutdown"): _RECONNECT,
}

# The part behind a colon is ours: no code of Google's has one, so no answer can bring it.
_MALFORMED: Final = "INVALID_ARGUMENT:token"
_BUSY_DEVICE: Final = ":device"

FCM: Final[Pairs] = {
    (200, ""): _DELIVERED,
    (400, "FAILED_PRECONDITION"): _WRONG_APP,
    (400, "INVALID_ARGUMENT"): _BUG,  # a bare 400 says nothing of the token
    (400, _MALFORMED): _SUSPECT,
    (400, "OUT_OF_RANGE"): _BUG,
    (401, "THIRD_PARTY_AUTH_ERROR"): _WRONG_APP,
    (401, "UNAUTHENTICATED"): _RENEW,
    (403, "PERMISSION_DENIED"): _WRONG_KEY,
    (403, "SENDER_ID_MISMATCH"): _SUSPECT,  # of another project; or the project is the wrong one
    (404, "NOT_FOUND"): _WRONG_APP,  # a misspelt project, which would else erase all its tokens
    (404, "UNREGISTERED"): _DEAD,
    (409, "ABORTED"): _SLOW,
    (429, "QUOTA_EXCEEDED"): _BUSY,
    (429, "QUOTA_EXCEEDED" + _BUSY_DEVICE): _BUSY_TOKEN,
    (429, "RESOURCE_EXHAUSTED"): _BUSY,
    (429, "RESOURCE_EXHAUSTED" + _BUSY_DEVICE): _BUSY_TOKEN,
    (499, "CANCELLED"): _SLOW,
    (500, "INTERNAL"): _DOWN,
    (500, "UNKNOWN"): _DOWN,
    (503, "UNAVAILABLE"): _DOWN,
    (504, "DEADLINE_EXCEEDED"): _DOWN,
}

# The status of an error inside a 200 is 200.
GCM: Final[Pairs] = {
    (200, ""): _DELIVERED,
    (200, "DeviceMessageRateExceeded"): _BUSY_TOKEN,
    (200, "InternalServerError"): _DOWN,
    (200, "InvalidApnsCredential"): _WRONG_APP,
    (200, "InvalidDataKey"): _BUG,
    (200, "InvalidPackageName"): _WRONG_APP,
    (200, "InvalidParameters"): _BUG,
    (200, "InvalidRegistration"): _SUSPECT,
    (200, "InvalidTtl"): _BUG,
    (200, "MessageTooBig"): _BUG,
    (200, "MismatchSenderId"): _SUSPECT,
    (200, "MissingRegistration"): _BUG,
    (200, "NotRegistered"): _DEAD,
    (200, "TopicsMessageRateExceeded"): _BUSY,
    (200, "Unavailable"): _DOWN,
    (400, ""): _BUG,
    (401, ""): _WRONG_KEY,
}

TABLES: Final[Mapping[Wire, Pairs]] = {"apns": APNS, "fcm": FCM, "gcm": GCM}

# Statuses whose meaning does not depend on a word (RFC 9110 section 15), before the hundreds decide. Who may not
# come in (401, 403, 407) is a matter of credentials: to drop the message would drop all of them until mended.
_STATUS: Final[dict[int, Rule]] = {
    401: _WRONG_KEY, 403: _WRONG_KEY, 407: _WRONG_KEY, 408: _SLOW, 421: _RECONNECT, 425: _SLOW, 429: _BUSY,
}  # fmt: skip
_STATUS_OF: Final[Mapping[Wire, Mapping[int, Rule]]] = {
    "apns": _STATUS,
    "fcm": _STATUS | {404: _WRONG_APP},  # the URL names the project
    "gcm": _STATUS | {404: _WRONG_APP, 410: _WRONG_APP},  # 410: as Google's own endpoint ended
}

ACCEPTED: Final[Mapping[Wire, Outcome]] = {wire: Outcome("delivered", wire, 200, "") for wire in TABLES}

_WORD: Final = re.compile(r"[A-Za-z0-9_]{1,64}", re.ASCII)


def label(outcome: Outcome) -> str:
    """The reason for a metric's label or a key's name: a word of a closed set, `other` for all else."""
    known = (outcome.status, outcome.reason) in TABLES[outcome.provider] or outcome.reason in OURS
    return outcome.reason if known else OTHER


# Without an answer --------------------------------------------------------------------------------------------

# Not a word of it was processed: a stream above the last of a GOAWAY (RFC 9113 section 6.8), REFUSED_STREAM
# (section 8.7), no connection at all, more than we let ourselves send, no room on a connection before what had been
# looked at was too old. To send again is safe and no try.
NOT_SENT: Final = frozenset({"refused", "goaway", "unreachable", "paced", "waited"})
# It may have been. Only the same id and the same collapse key on the next try hide that it comes twice.
UNANSWERED: Final = frozenset({"reset", "lost", "timeout", "garbled"})
OURS: Final = NOT_SENT | UNANSWERED | {"unreadable"}


def not_sent(wire: Wire, reason: str) -> Outcome:
    """The request surely was not processed; `reason`: one of NOT_SENT."""
    return Outcome("reconnect_retry", wire, 0, reason, scope="endpoint")


def paced(wire: Wire, seconds: int) -> Outcome:
    """Our own measure of what the provider may be sent is full, for `seconds` s."""
    return Outcome("reconnect_retry", wire, 0, "paced", max(1, seconds), scope="credential")


def unanswered(wire: Wire, reason: str) -> Outcome:
    """The request went out, an answer never came; `reason`: one of UNANSWERED."""
    return Outcome("unknown", wire, 0, reason, scope="endpoint")


# APNs ---------------------------------------------------------------------------------------------------------

_Int = Annotated[int, Meta(ge=0, lt=2**53)]


class _ApnsError(Struct, frozen=True, gc=False):
    reason: str = ""
    timestamp: _Int | None = None


_apns_error: Final = msgspec.json.Decoder(_ApnsError)


def apns(answer: Answer, now: float) -> Outcome:
    """What APNs said; `now`: s since 1970."""
    if answer.status == 200:
        return ACCEPTED["apns"]
    error = _read(_apns_error, answer.body) or _ApnsError()
    outcome = _outcome("apns", answer, _word(error.reason), now)
    if outcome.action != "forget":
        return outcome
    if error.timestamp is None:
        # Without the time there is no telling whether the app has come back since: not Apple's clear word.
        return msgspec.structs.replace(outcome, action="suspect")
    return msgspec.structs.replace(outcome, dead_since_ms=error.timestamp)


# FCM v1 -------------------------------------------------------------------------------------------------------


class _Violation(Struct, frozen=True, gc=False):
    field: str = ""
    subject: str = ""
    description: str = ""


class _Detail(Struct, frozen=True, gc=False):
    type: str = msgspec.field(name="@type", default="")
    error_code: str = msgspec.field(name="errorCode", default="")
    field_violations: tuple[_Violation, ...] = msgspec.field(name="fieldViolations", default=())
    violations: tuple[_Violation, ...] = ()
    retry_delay: str = msgspec.field(name="retryDelay", default="")


class _Status(Struct, frozen=True, gc=False):
    """google.rpc.Status as JSON."""

    status: str = ""
    message: str = ""
    details: tuple[_Detail, ...] = ()


class _FcmError(Struct, frozen=True, gc=False):
    error: _Status


_fcm_error: Final = msgspec.json.Decoder(_FcmError)
_TOKEN_FIELDS: Final = frozenset({"message.token", "token"})
_names_token: Final = re.compile(r"registration token", re.IGNORECASE).search
_names_device: Final = re.compile(r"\bdevice\b", re.IGNORECASE).search
_duration: Final = re.compile(r"(\d{1,9})(?:\.\d{1,9})?s", re.ASCII).fullmatch


def fcm(answer: Answer, now: float) -> Outcome:
    """What FCM said over its HTTP v1 interface; `now`: s since 1970."""
    if answer.status == 200:
        return ACCEPTED["fcm"]
    read = _read(_fcm_error, answer.body)
    if read is None:
        return _outcome("fcm", answer, "", now)
    error = read.error
    code = next((each.error_code for each in error.details if each.type.endswith(".FcmError")), "")
    reason = _narrowed(_word(code or error.status), bool(code), error)
    rule = FCM.get((answer.status, reason))
    if rule is not None and rule.action is not None and not code and reason != _MALFORMED:
        reason = ""  # the transport's word, not that of FCM: no token must die of it
    outcome = _outcome("fcm", answer, reason, now)
    if outcome.retry_after is None and (seconds := _retry_delay(error)) is not None:
        return msgspec.structs.replace(outcome, retry_after=seconds)
    return outcome


def _narrowed(reason: str, coded: bool, error: _Status) -> str:
    """The reason, with what only the rest of the error tells: whether it is about the one token."""
    if reason == "INVALID_ARGUMENT":
        fields = {each.field for detail in error.details for each in detail.field_violations}
        if fields & _TOKEN_FIELDS or (coded and _names_token(error.message)):
            return _MALFORMED
    elif reason in ("QUOTA_EXCEEDED", "RESOURCE_EXHAUSTED"):
        told = [each for detail in error.details for each in detail.violations]
        texts = (error.message, *(text for each in told for text in (each.subject, each.description)))
        if any(_names_device(text) for text in texts):
            return reason + _BUSY_DEVICE
    return reason


def _retry_delay(error: _Status) -> int | None:
    # google.rpc.RetryInfo, for answers that have no Retry-After.
    for detail in error.details:
        if detail.type.endswith(".RetryInfo") and (match := _duration(detail.retry_delay)):
            return retry_after(match[1], "", 0)
    return None


# Legacy GCM ---------------------------------------------------------------------------------------------------


class _GcmResult(Struct, frozen=True, gc=False):
    message_id: str | int = ""
    registration_id: str = ""
    error: str = ""


class _GcmAnswer(Struct, frozen=True, gc=False):
    results: tuple[_GcmResult, ...]


_gcm_answer: Final = msgspec.json.Decoder(_GcmAnswer)


def gcm(answer: Answer, now: float, count: int = 1) -> tuple[Outcome, ...]:
    """What a gateway said in the legacy JSON of GCM, for each of the `count` tokens of the request in order."""
    if answer.status != 200:
        return (_outcome("gcm", answer, "", now),) * count
    read = _read(_gcm_answer, answer.body)
    if read is None or len(read.results) != count:
        return (Outcome("unknown", "gcm", 200, "unreadable", scope="endpoint"),) * count
    return tuple(_gcm_result(answer, each, now) for each in read.results)


def _gcm_result(answer: Answer, result: _GcmResult, now: float) -> Outcome:
    if result.error:
        if (200, result.error) not in GCM:
            return Outcome("drop_message", "gcm", 200, _word(result.error))
        return _outcome("gcm", answer, result.error, now)
    if result.registration_id:
        token = result.registration_id
        return Outcome("delivered", "gcm", 200, "", action="replace", replacement_token=token)
    return ACCEPTED["gcm"]


# All ----------------------------------------------------------------------------------------------------------


def _read(decoder: msgspec.json.Decoder[T], body: bytes) -> T | None:
    """The body, or None: front ends answer with HTML, or with nothing."""
    if len(body) > MAX_BODY:
        return None
    try:
        return decoder.decode(body)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors, as is bad UTF-8
        return None


def _outcome(wire: Wire, answer: Answer, reason: str, now: float) -> Outcome:
    status = answer.status
    rule = TABLES[wire].get((status, reason)) or _default(wire, status)
    wait = retry_after(answer.retry_after, answer.date, now) if answer.retry_after else None
    return Outcome(rule.kind, wire, status, reason, wait, rule.scope, rule.action)


def _default(wire: Wire, status: int) -> Rule:
    listed = _STATUS_OF[wire].get(status)
    if listed is not None:
        return listed
    if 400 <= status <= 499:
        return _BUG
    # Neither 200 nor an error: a proxy or a wrong base URL. Messages wait until somebody has looked.
    return _DOWN if status >= 500 else _STRANGER


def _word(reason: str) -> str:
    # It ends up in logs and labels: nothing but a word may come from outside.
    return reason if not reason or _WORD.fullmatch(reason) else "unreadable"
