"""FCM HTTP v1 as a sender sees it, and the OAuth endpoint that gives out its tokens.

Facts: Firebase, "FCM HTTP v1 API" (projects.messages.send, ErrorCode); RFC 7523 for the grant."""

from __future__ import annotations

import re
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qs

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from notifier.sandbox.exchange import Answer, Link, Request, json_answer
from notifier.sandbox.phones import Phones, Push
from notifier.sandbox.script import Rule, Script

PATH: Final = re.compile(r"/v1/projects/([^/?]+)/messages:send")
TOKEN: Final = re.compile(r"[A-Za-z0-9:_-]{6,4096}")
LARGEST: Final = 4096
LARGEST_TTL: Final = 2_419_200  # four weeks
LIFE_SECONDS: Final = 3600
SKEW_SECONDS: Final = 300
ACCESS_TOKENS: Final = 1_000
SCOPE: Final = "https://www.googleapis.com/auth/firebase.messaging"
GRANT: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
# The times are checked below, against the sandbox's own clock.
UNTIMED: Final[Any] = {"verify_aud": False, "verify_exp": False, "verify_iat": False}
RESERVED: Final = re.compile(r"from|message_type|collapse_key|google.*|gcm.*", re.DOTALL)
DETAILS: Final = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
INVALID: Final = "The registration token is not a valid FCM registration token"
# errorCode -> HTTP status, canonical status, text
ERRORS: Final[Mapping[str, tuple[int, str, str]]] = {
    "INVALID_ARGUMENT": (400, "INVALID_ARGUMENT", "Request contains an invalid argument."),
    "INVALID_TOKEN": (400, "INVALID_ARGUMENT", INVALID),
    "UNAUTHENTICATED": (401, "UNAUTHENTICATED", "Request had invalid authentication credentials."),
    "THIRD_PARTY_AUTH_ERROR": (401, "UNAUTHENTICATED", "Auth error from APNS or Web Push Service"),
    "SENDER_ID_MISMATCH": (403, "PERMISSION_DENIED", "SenderId mismatch"),
    "PERMISSION_DENIED": (403, "PERMISSION_DENIED", "Permission denied on the project."),
    "UNREGISTERED": (404, "NOT_FOUND", "Requested entity was not found."),
    "NOT_FOUND": (404, "NOT_FOUND", "Requested entity was not found."),
    "QUOTA_EXCEEDED": (429, "RESOURCE_EXHAUSTED", "Quota exceeded for the device."),
    "INTERNAL": (500, "INTERNAL", "Internal error encountered."),
    "UNAVAILABLE": (503, "UNAVAILABLE", "The service is currently unavailable."),
}
# These come without an errorCode of FCM's own: the gateway in front of it says them.
FRONT: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"})


class Refused(Exception):
    """An error code, and the field at fault."""

    def __init__(self, code: str, field: str = "", why: str = "") -> None:
        super().__init__(code)
        self.code, self.field, self.why = code, field, why


def refusal(code: str, field: str = "", why: str = "", status: int | None = None) -> Answer:
    """An error as FCM answers it; 413 and unknown codes come from a front end, as HTML."""
    known = ERRORS.get(code)
    if known is None:
        return Answer(status or 500, b"<html><title>Error</title></html>", {"content-type": "text/html"})
    usual, canonical, text = known
    details: list[dict[str, Any]] = []
    if code not in FRONT:
        details.append(
            {"@type": DETAILS, "errorCode": "INVALID_ARGUMENT" if code == "INVALID_TOKEN" else code}
        )
    if field:
        violation = {"field": field, "description": why or text}
        details.append({"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]})
    error = {"code": status or usual, "message": why or text, "status": canonical, "details": details}
    return json_answer(status or usual, {"error": error})


class Fcm:
    """The provider: messages of any number of projects."""

    def __init__(self, phones: Phones, script: Script, projects: frozenset[str] = frozenset()) -> None:
        """projects: those that exist; none named: any does."""
        self.phones = phones
        self.script = script
        self.projects = projects
        self.granted: OrderedDict[str, float] = OrderedDict()
        self.keys: dict[str, RSAPublicKey] = {}
        self._messages = 0

    def answer(self, request: Request, link: Link) -> Answer:
        """What FCM says to a message."""
        try:
            self._check_path(request)
            self._check_access(request)
            message, dry = self._message(request)
            token = self._token(message)
            rule = self.script.take("fcm", token)
            if rule is not None and rule.status not in (None, 200):
                return scripted(rule)
            push = _push(message, request.at)
        except Refused as refused:
            return refusal(refused.code, refused.field, refused.why)
        link.proven = True
        self._messages += 1
        project = request.path.split("/")[3]
        name = "fake_message_id" if dry else f"0:{self._messages}%{secrets.token_hex(4)}"
        answer = json_answer(200, {"name": f"projects/{project}/messages/{name}"})
        if rule is not None:
            answer = msgspec.structs.replace(answer, delay=rule.delay_ms / 1000, action=rule.action)
        if not dry and answer.action not in ("hang", "refuse"):
            self.phones.take(token, "android", push)
        return answer

    def _check_path(self, request: Request) -> None:
        path = PATH.fullmatch(request.path)
        if request.method != "POST" or path is None or (self.projects and path[1] not in self.projects):
            raise Refused("NOT_FOUND")

    def _check_access(self, request: Request) -> None:
        scheme, _, token = request.fields.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or self.granted.get(token, 0.0) < request.at:
            raise Refused("UNAUTHENTICATED")

    @staticmethod
    def _message(request: Request) -> tuple[dict[str, Any], bool]:
        try:
            body = msgspec.json.decode(request.body, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise Refused("INVALID_ARGUMENT", "message", f"Invalid JSON payload received. {error}") from None
        unknown = body.keys() - {"message", "validate_only"}
        if unknown or not isinstance(body.get("message"), dict):
            raise Refused("INVALID_ARGUMENT", "message", f"Unknown or missing name: {sorted(unknown)}")
        message = body["message"]
        data = message.get("data", {})
        if any(not isinstance(value, str) for value in data.values()):
            raise Refused("INVALID_ARGUMENT", "message.data", "values are strings")
        if any(RESERVED.fullmatch(name) for name in data):
            raise Refused("INVALID_ARGUMENT", "message.data", "a name is reserved")
        size = len(msgspec.json.encode(data)) + len(msgspec.json.encode(message.get("notification", {})))
        if size > LARGEST:
            raise Refused("INVALID_ARGUMENT", "message", "Android message is too big")
        ttl = re.fullmatch(r"(\d{1,9})(?:\.\d{1,9})?s", message.get("android", {}).get("ttl", "0s"))
        if ttl is None or int(ttl[1]) > LARGEST_TTL:
            raise Refused("INVALID_ARGUMENT", "message.android.ttl", "0s to four weeks")
        return message, body.get("validate_only") is True

    @staticmethod
    def _token(message: Mapping[str, Any]) -> str:
        token = message.get("token")
        if not isinstance(token, str) or not TOKEN.fullmatch(token):
            raise Refused("INVALID_TOKEN", "message.token", INVALID)
        return token


def scripted(rule: Rule) -> Answer:
    """The answer that a rule asks for."""
    answer = refusal(rule.reason, status=rule.status)
    if rule.reason == "INVALID_TOKEN":
        answer = refusal("INVALID_TOKEN", "message.token")
    fields = dict(answer.fields)
    if rule.retry_after is not None:
        fields["retry-after"] = rule.retry_after
    return msgspec.structs.replace(answer, fields=fields, delay=rule.delay_ms / 1000, action=rule.action)


def _push(message: Mapping[str, Any], at: float) -> Push:
    android = message.get("android", {})
    notification = {**message.get("notification", {}), **android.get("notification", {})}
    data = {**message.get("data", {}), **android.get("data", {})}
    # FCM names no message of ours: the app knows one by its data.
    identity = f"{data.get('nid', '')}/{data.get('seq', '')}" if "nid" in data else secrets.token_hex(8)
    count = notification.get("notification_count")
    return Push(
        identity=identity,
        place=str(notification.get("tag", "")),
        at=at,
        title=str(notification.get("title", "")),
        text=str(notification.get("body", "")),
        badge=count if isinstance(count, int) else None,
        sound=bool(notification.get("sound") or notification.get("default_sound")),
        alert=bool(notification),
        group=str(android.get("collapse_key", "")),
        data=data,
    )


class OAuth:
    """Google's token endpoint: an assertion for an access token."""

    def __init__(self, fcm: Fcm, script: Script, audience: str) -> None:
        """audience: this endpoint's own URL, which the assertion must name."""
        self.fcm = fcm
        self.script = script
        self.audience = audience

    def answer(self, request: Request, _: Link) -> Answer:
        """What the endpoint says to a grant request."""
        if request.method != "POST" or request.path != "/token":
            return json_answer(404, {"error": "not_found"})
        rule = self.script.take("oauth", "")
        if rule is not None and rule.status not in (None, 200):
            body = {"error": rule.reason or "internal_failure"}
            fields = {} if rule.retry_after is None else {"retry_after": rule.retry_after}
            answer = json_answer(rule.status or 200, body, **fields)
            return msgspec.structs.replace(answer, delay=rule.delay_ms / 1000, action=rule.action)
        fault = self._fault(request)
        if fault:
            return json_answer(400, {"error": "invalid_grant", "error_description": fault})
        token = "ya29." + secrets.token_urlsafe(32)
        self.fcm.granted[token] = request.at + LIFE_SECONDS
        while len(self.fcm.granted) > ACCESS_TOKENS:
            self.fcm.granted.popitem(last=False)
        life = LIFE_SECONDS - 1
        return json_answer(200, {"access_token": token, "expires_in": life, "token_type": "Bearer"})

    def _fault(self, request: Request) -> str:
        form = parse_qs(request.body.decode("latin-1"))
        assertion = form.get("assertion", [""])[0]
        if form.get("grant_type") != [GRANT]:
            return f"grant_type is not {GRANT}"
        try:
            head = jwt.get_unverified_header(assertion)
            claims = jwt.decode(assertion, options={"verify_signature": False})
            key = self.fcm.keys.get(str(head.get("kid")))
            if self.fcm.keys:
                if key is None:
                    return "Invalid JWT Signature: unknown private_key_id"
                jwt.decode(assertion, key, ["RS256"], options=UNTIMED)
        except jwt.InvalidTokenError as error:
            return f"Invalid JWT: {error}"
        made, end = claims.get("iat", 0), claims.get("exp", 0)
        if head.get("alg") != "RS256" or SCOPE not in str(claims.get("scope", "")).split():
            return "Invalid JWT: it is signed with RS256 and has the scope of Firebase messaging"
        if claims.get("aud") != self.audience:
            return f"Invalid JWT: aud is not {self.audience}"
        if not (made - SKEW_SECONDS <= request.at <= end + SKEW_SECONDS and end - made <= LIFE_SECONDS):
            return "Invalid JWT: Token must be a short-lived token and in a reasonable timeframe"
        return ""
