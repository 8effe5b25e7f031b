"""APNs as a sender sees it: what it checks, in which order, and in which words it refuses.

Facts: Apple, "Sending notification requests to APNs" and "Handling notification responses from APNs"."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any, Final

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from msgspec import Struct

from notifier.sandbox.exchange import Answer, Link, Request, json_answer
from notifier.sandbox.phones import Phones, Push
from notifier.sandbox.script import Rule, Script

PATH: Final = re.compile(r"/3/device/([^/?]*)")
TOKEN: Final = re.compile(r"(?:[0-9a-f]{2}){1,100}")
UUID: Final = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LARGEST: Final = 4096
LARGEST_VOIP: Final = 5120
JWT_SECONDS: Final = 3600
CLOCK_SKEW_SECONDS: Final = 60
COLLAPSE_BYTES: Final = 64
PRIORITIES: Final = ("1", "5", "10")
# What the topic of a push type ends with.
SUFFIXES: Final[Mapping[str, str]] = {
    "alert": "",
    "background": "",
    "complication": ".complication",
    "controls": ".push-type.controls",
    "fileprovider": ".pushkit.fileprovider",
    "liveactivity": ".push-type.liveactivity",
    "location": ".location-query",
    "mdm": "",
    "pushtotalk": ".voip-ptt",
    "voip": ".voip",
    "widgets": ".push-type.widgets",
}
STATUS: Final[Mapping[str, int]] = {
    **dict.fromkeys(
        (
            *(
                "BadCollapseId",
                "BadDeviceToken",
                "BadExpirationDate",
                "BadMessageId",
                "BadPriority",
                "BadTopic",
            ),
            *(
                "DeviceTokenNotForTopic",
                "InvalidPushType",
                "MissingDeviceToken",
                "MissingTopic",
                "PayloadEmpty",
            ),
        ),
        400,
    ),
    **dict.fromkeys(
        ("ExpiredProviderToken", "InvalidProviderToken", "MissingProviderToken", "Forbidden"), 403
    ),
    "BadPath": 404,
    "MethodNotAllowed": 405,
    "PayloadTooLarge": 413,
    "TooManyProviderTokenUpdates": 429,
}


class Refused(Exception):
    """The reason, in Apple's word."""


class Key(Struct, frozen=True):
    """A provider key that the sandbox knows: tokens that name it are verified, and stand for this team alone."""

    team: str
    key: EllipticCurvePublicKey


def refusal(reason: str, apns_id: str, status: int | None = None, timestamp_ms: int | None = None) -> Answer:
    """An error as APNs answers it: `timestamp` (ms) belongs to 410."""
    body: dict[str, Any] = {"reason": reason}
    if timestamp_ms is not None:
        body["timestamp"] = timestamp_ms
    return json_answer(STATUS.get(reason, 400) if status is None else status, body, apns_id=apns_id)


class Apns:
    """The provider: one for any number of connections."""

    def __init__(self, phones: Phones, script: Script, topics: frozenset[str] = frozenset()) -> None:
        """topics: the bundle ids that tokens belong to; none named: any will do."""
        self.phones = phones
        self.script = script
        self.topics = topics
        self.keys: dict[str, Key] = {}

    def answer(self, request: Request, link: Link) -> Answer:
        """What APNs says to this request on this connection."""
        apns_id = request.fields.get("apns-id", "")
        try:
            token = self._token(request)
            rule = self.script.take("apns", token)
            if rule is not None and rule.status not in (None, 200):
                return self._scripted(rule, request, apns_id)
            self._check(request, link, apns_id)
            if not token.strip("0"):
                raise Refused("BadDeviceToken")  # of no device anywhere: what people test their key with
            push = self._push(request, apns_id)
        except Refused as refused:
            return refusal(str(refused), apns_id)
        answer = Answer(200, fields={"apns-id": apns_id})
        link.proven = True
        if rule is not None:
            answer = msgspec.structs.replace(answer, delay=rule.delay_ms / 1000, action=rule.action)
        if answer.action not in ("hang", "refuse"):
            self.phones.take(token, "ios", push)
        return answer

    @staticmethod
    def _token(request: Request) -> str:
        if request.method != "POST":
            raise Refused("MethodNotAllowed")
        path = PATH.fullmatch(request.path)
        if path is None:
            raise Refused("BadPath")
        if not path[1]:
            raise Refused("MissingDeviceToken")
        if not TOKEN.fullmatch(path[1]):
            raise Refused("BadDeviceToken")
        return path[1]

    @staticmethod
    def _scripted(rule: Rule, request: Request, apns_id: str) -> Answer:
        status = rule.status or 200
        timestamp = rule.timestamp_ms
        if status == 410 and timestamp is None:
            timestamp = int(request.at * 1000)
        answer = refusal(
            rule.reason or "InternalServerError", apns_id, status, timestamp if status == 410 else None
        )
        fields = dict(answer.fields)
        if rule.retry_after is not None:
            fields["retry-after"] = rule.retry_after
        return msgspec.structs.replace(answer, fields=fields, delay=rule.delay_ms / 1000, action=rule.action)

    def _check(self, request: Request, link: Link, apns_id: str) -> None:
        fields = request.fields
        if not link.certificate:
            self._authorise(fields.get("authorization", ""), link, request.at)
        if apns_id and not UUID.fullmatch(apns_id):
            raise Refused("BadMessageId")
        kind = fields.get("apns-push-type", "alert")
        if kind not in SUFFIXES:
            raise Refused("InvalidPushType")
        self._check_topic(fields.get("apns-topic", ""), SUFFIXES[kind], link)
        priority = fields.get("apns-priority", "10")
        if priority not in PRIORITIES or (kind == "background" and priority == "10"):
            raise Refused("BadPriority")
        if not fields.get("apns-expiration", "0").isdecimal():
            raise Refused("BadExpirationDate")
        if len(fields.get("apns-collapse-id", "").encode()) > COLLAPSE_BYTES:
            raise Refused("BadCollapseId")
        if not request.body:
            raise Refused("PayloadEmpty")
        if len(request.body) > (LARGEST_VOIP if kind == "voip" else LARGEST):
            raise Refused("PayloadTooLarge")

    def _check_topic(self, topic: str, suffix: str, link: Link) -> None:
        if not topic:
            if link.certificate:  # the subject of the certificate names it
                return
            raise Refused("MissingTopic")
        if not topic.endswith(suffix) or topic == suffix:
            raise Refused("BadTopic")
        if self.topics and topic.removesuffix(suffix) not in self.topics:
            raise Refused("DeviceTokenNotForTopic")

    def _authorise(self, header: str, link: Link, at: float) -> None:
        scheme, _, token = header.partition(" ")
        if not header:
            raise Refused("MissingProviderToken")
        try:
            head = jwt.get_unverified_header(token)
            claims = msgspec.json.decode(_unpadded(token.split(".")[1]), type=dict[str, Any])
            kid, team, made = head["kid"], claims["iss"], claims["iat"]
        except (jwt.InvalidTokenError, msgspec.DecodeError, ValueError, LookupError):
            raise Refused("InvalidProviderToken") from None
        if scheme.lower() != "bearer" or head.get("alg") != "ES256" or not isinstance(made, int | float):
            raise Refused("InvalidProviderToken")
        if not at - JWT_SECONDS <= made <= at + CLOCK_SKEW_SECONDS:
            raise Refused("ExpiredProviderToken")
        if self.keys and not self._signed(token, str(kid), str(team)):
            raise Refused("InvalidProviderToken")
        # A connection belongs to the team of its first push.
        if link.team not in (None, team):
            raise Refused("Forbidden")
        link.team = str(team)

    def _signed(self, token: str, kid: str, team: str) -> bool:
        key = self.keys.get(kid)
        if key is None or key.team != team:
            return False
        try:
            jwt.decode(token, key.key, ["ES256"], options={"verify_iat": False, "verify_exp": False})
        except jwt.InvalidTokenError:
            return False
        return True

    @staticmethod
    def _push(request: Request, apns_id: str) -> Push:
        try:
            body = msgspec.json.decode(request.body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise Refused("PayloadEmpty") from None
        aps = body.pop("aps", {})
        if not isinstance(aps, dict):
            raise Refused("PayloadEmpty")
        alert = aps.get("alert") or {}
        words = alert if isinstance(alert, dict) else {"body": str(alert)}
        badge = aps.get("badge")
        return Push(
            identity=apns_id,
            place=request.fields.get("apns-collapse-id", ""),
            at=request.at,
            title=str(words.get("title", "")),
            text=str(words.get("body", "")),
            badge=badge if isinstance(badge, int) else None,
            sound=bool(aps.get("sound")),
            alert=bool(alert),
            group=str(aps.get("thread-id", "")),
            data=body,
        )


def _unpadded(text: str) -> bytes:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise ValueError(str(error)) from None
