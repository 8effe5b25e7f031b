"""Every answer that a provider is known to give, and the ones that nobody has listed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core import outcomes
from notifier.core.model import Outcome, Wire
from notifier.core.outcomes import APNS, FCM, GCM, MAX_BODY, Answer, apns, fcm, gcm, label

NOW = 1_795_335_933.0
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"
BAD_REQUEST = "type.googleapis.com/google.rpc.BadRequest"
QUOTA = "type.googleapis.com/google.rpc.QuotaFailure"

Row = tuple[int, str, str]

# (status, reason, "kind scope action"), from the providers' documentation and not from our tables.
APPLE: list[Row] = [
    (200, "", "delivered - -"),
    *(
        (400, reason, "drop_message - -")
        for reason in (
            "BadCollapseId", "BadExpirationDate", "BadMessageId", "BadPriority", "DuplicateHeaders",
            "InvalidPushType", "MissingDeviceToken", "PayloadEmpty", "BadChannelId",
            "CannotCreateChannelConfig", "ChannelNotRegistered", "FeatureNotEnabled", "MissingChannelId",
            "MissingPushType",
        )
    ),
    (400, "BadDeviceToken", "drop_token token suspect"),
    (400, "DeviceTokenNotForTopic", "drop_token token suspect"),
    (400, "BadTopic", "config_error app -"),
    (400, "MissingTopic", "config_error app -"),
    (400, "TopicDisallowed", "config_error app -"),
    (400, "IdleTimeout", "reconnect_retry endpoint -"),
    *(
        (403, reason, "config_error credential -")
        for reason in (
            "BadCertificate", "BadCertificateEnvironment", "InvalidProviderToken", "MissingProviderToken",
            "UnrelatedKeyIdInToken", "BadEnvironmentKeyIdInToken", "BadEnvironmentKeyInToken", "Forbidden",
        )
    ),
    (403, "ExpiredProviderToken", "reconnect_retry credential -"),
    (404, "BadPath", "drop_message - -"),
    (405, "MethodNotAllowed", "drop_message - -"),
    (410, "Unregistered", "drop_token token forget"),
    (410, "ExpiredToken", "drop_token token forget"),
    (413, "PayloadTooLarge", "drop_message - -"),
    (429, "TooManyRequests", "retry token -"),
    (429, "TooManyProviderTokenUpdates", "retry credential -"),
    (500, "InternalServerError", "retry provider -"),
    (503, "ServiceUnavailable", "retry provider -"),
    (503, "Shutdown", "reconnect_retry endpoint -"),
]  # fmt: skip


def read(outcome: Outcome) -> str:
    return f"{outcome.kind} {outcome.scope or '-'} {outcome.action or '-'}"


@pytest.mark.parametrize(("status", "reason", "meaning"), APPLE)
def test_what_apple_answers(status: int, reason: str, meaning: str) -> None:
    body = json.dumps({"reason": reason, "timestamp": 1_795_000_000_123}).encode() if reason else b""
    outcome = apns(Answer(status, body), NOW)
    assert read(outcome) == meaning
    assert (outcome.provider, outcome.status, outcome.reason) == ("apns", status, reason)
    assert outcome.dead_since_ms == (1_795_000_000_123 if outcome.action == "forget" else None)
    assert label(outcome) == reason


def test_every_answer_of_apple_stands_in_the_rows_above() -> None:
    assert set(APNS) == {(status, reason) for status, reason, _ in APPLE}


def google(status: str, code: str = "", message: str = "", *details: dict[str, Any]) -> bytes:
    more = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    return json.dumps(
        {"error": {"code": 1, "message": message, "status": status, "details": [*more, *details]}}
    ).encode()


BAD_TOKEN = "INVALID_ARGUMENT:token"
PER_DEVICE_TEXT = "Device message rate exceeded"
NOT_VALID = "The registration token is not a valid FCM registration token"
TOKEN_FIELD = {
    "@type": BAD_REQUEST,
    "fieldViolations": [{"field": "message.token", "description": "Invalid registration token"}],
}
TTL_FIELD = {
    "@type": BAD_REQUEST,
    "fieldViolations": [{"field": "message.android.ttl", "description": "bad"}],
}
PER_DEVICE = {"@type": QUOTA, "violations": [{"subject": "device:xyz", "description": "too many"}]}
PER_PROJECT = {"@type": QUOTA, "violations": [{"subject": "project:1", "description": "too many"}]}
ANDROID: list[tuple[int, bytes, str, str]] = [
    (200, b'{"name":"projects/p/messages/1"}', "", "delivered - -"),
    (200, b"", "", "delivered - -"),
    (400, google("FAILED_PRECONDITION"), "FAILED_PRECONDITION", "config_error app -"),
    (400, google("INVALID_ARGUMENT"), "INVALID_ARGUMENT", "drop_message - -"),
    (400, google("INVALID_ARGUMENT", "INVALID_ARGUMENT"), "INVALID_ARGUMENT", "drop_message - -"),
    (400, google("INVALID_ARGUMENT", "", NOT_VALID), "INVALID_ARGUMENT", "drop_message - -"),
    (400, google("INVALID_ARGUMENT", "INVALID_ARGUMENT", "", TTL_FIELD), "INVALID_ARGUMENT", "drop_message - -"),
    (400, google("INVALID_ARGUMENT", "INVALID_ARGUMENT", NOT_VALID), BAD_TOKEN, "drop_token token suspect"),
    (400, google("INVALID_ARGUMENT", "", "", TOKEN_FIELD), BAD_TOKEN, "drop_token token suspect"),
    (400, google("OUT_OF_RANGE"), "OUT_OF_RANGE", "drop_message - -"),
    (401, google("UNAUTHENTICATED"), "UNAUTHENTICATED", "reconnect_retry credential -"),
    (401, google("UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR"), "THIRD_PARTY_AUTH_ERROR", "config_error app -"),
    (403, google("PERMISSION_DENIED"), "PERMISSION_DENIED", "config_error credential -"),
    (403, google("PERMISSION_DENIED", "SENDER_ID_MISMATCH"), "SENDER_ID_MISMATCH", "drop_token token suspect"),
    (404, google("NOT_FOUND", "UNREGISTERED"), "UNREGISTERED", "drop_token token forget"),
    (404, google("NOT_FOUND"), "NOT_FOUND", "config_error app -"),
    (409, google("ABORTED"), "ABORTED", "retry endpoint -"),
    (429, google("RESOURCE_EXHAUSTED"), "RESOURCE_EXHAUSTED", "retry credential -"),
    (429, google("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED"), "QUOTA_EXCEEDED", "retry credential -"),
    (429, google("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "", PER_PROJECT), "QUOTA_EXCEEDED", "retry credential -"),
    (429, google("RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "", PER_DEVICE), "QUOTA_EXCEEDED:device", "retry token -"),
    (429, google("RESOURCE_EXHAUSTED", "", PER_DEVICE_TEXT), "RESOURCE_EXHAUSTED:device", "retry token -"),
    (499, google("CANCELLED"), "CANCELLED", "retry endpoint -"),
    (500, google("INTERNAL", "INTERNAL"), "INTERNAL", "retry provider -"),
    (500, google("UNKNOWN"), "UNKNOWN", "retry provider -"),
    (503, google("UNAVAILABLE", "UNAVAILABLE"), "UNAVAILABLE", "retry provider -"),
    (504, google("DEADLINE_EXCEEDED"), "DEADLINE_EXCEEDED", "retry provider -"),
]  # fmt: skip


@pytest.mark.parametrize(("status", "body", "reason", "meaning"), ANDROID)
def test_what_google_answers(status: int, body: bytes, reason: str, meaning: str) -> None:
    outcome = fcm(Answer(status, body), NOW)
    assert read(outcome) == meaning
    assert (outcome.provider, outcome.status, outcome.reason) == ("fcm", status, reason)
    assert label(outcome) == reason


def test_every_answer_of_google_stands_in_the_rows_above() -> None:
    assert set(FCM) == {(status, reason) for status, _, reason, _ in ANDROID}


# A mistake of the operator's, or of a proxy, that looks like a dead token if one does not look closely.
INNOCENT = [
    google("UNREGISTERED"),  # the transport's word, without FCM's own
    google("NOT_FOUND", "", "Requested entity was not found."),
    google("NOT_FOUND", "NOT_FOUND"),
    b"<html>404 Not Found</html>",
    b"",
    b'{"error":{"details":[{"@type":"some.other.Error","errorCode":"UNREGISTERED"}],"status":"NOT_FOUND"}}',
    b'{"error":{"details":[{"@type":"' + FCM_ERROR.encode() + b'","errorCode":7}],"status":"NOT_FOUND"}}',
    b'{"error":"UNREGISTERED"}',
]


@pytest.mark.parametrize("body", INNOCENT)
def test_a_404_without_fcms_own_word_is_a_wrong_project(body: bytes) -> None:
    assert read(fcm(Answer(404, body), NOW)) == "config_error app -"


def test_a_mismatch_needs_fcms_own_word_too() -> None:
    assert read(fcm(Answer(403, google("SENDER_ID_MISMATCH")), NOW)) == "config_error credential -"


GATEWAY: list[Row] = [
    (200, "", "delivered - -"),
    (200, "DeviceMessageRateExceeded", "retry token -"),
    (200, "InternalServerError", "retry provider -"),
    (200, "InvalidApnsCredential", "config_error app -"),
    (200, "InvalidDataKey", "drop_message - -"),
    (200, "InvalidPackageName", "config_error app -"),
    (200, "InvalidParameters", "drop_message - -"),
    (200, "InvalidRegistration", "drop_token token suspect"),
    (200, "InvalidTtl", "drop_message - -"),
    (200, "MessageTooBig", "drop_message - -"),
    (200, "MismatchSenderId", "drop_token token suspect"),
    (200, "MissingRegistration", "drop_message - -"),
    (200, "NotRegistered", "drop_token token forget"),
    (200, "TopicsMessageRateExceeded", "retry credential -"),
    (200, "Unavailable", "retry provider -"),
    (400, "", "drop_message - -"),
    (401, "", "config_error credential -"),
]


@pytest.mark.parametrize(("status", "reason", "meaning"), GATEWAY)
def test_what_a_gateway_answers(status: int, reason: str, meaning: str) -> None:
    result = {"error": reason} if reason else {"message_id": "0:1"}
    body = json.dumps({"success": 1, "results": [result]}).encode() if status == 200 else b"No."
    (outcome,) = gcm(Answer(status, body), NOW)
    assert read(outcome) == meaning
    assert label(outcome) == reason


def test_every_answer_of_a_gateway_stands_in_the_rows_above() -> None:
    assert set(GCM) == {(status, reason) for status, reason, _ in GATEWAY}


def test_a_gateway_answers_for_each_token_in_order() -> None:
    results = [{"message_id": 5}, {"error": "NotRegistered"}, {"message_id": "1", "registration_id": "new"}]
    found = gcm(Answer(200, json.dumps({"results": results}).encode()), NOW, 3)
    assert [read(each) for each in found] == [
        "delivered - -", "drop_token token forget", "delivered - replace",
    ]  # fmt: skip
    assert found[2].replacement_token == "new"
    assert [each.kind for each in gcm(Answer(503, b"", "7"), NOW, 3)] == ["retry"] * 3


@pytest.mark.parametrize("body", [b"", b"ok", b'{"results":[]}', b'{"results":[{},{}]}', b'{"results":{}}'])
def test_a_200_that_says_nothing_of_the_token_is_unknown(body: bytes) -> None:
    (outcome,) = gcm(Answer(200, body), NOW)
    assert (outcome.kind, outcome.reason) == ("unknown", "unreadable")


def test_an_error_inside_a_200_that_nobody_knows_drops_the_message() -> None:
    (outcome,) = gcm(Answer(200, b'{"results":[{"error":"Weird thing"}]}'), NOW)
    assert (outcome.kind, outcome.reason, label(outcome)) == ("drop_message", "unreadable", "unreadable")


# (status, what each of apns, fcm, gcm makes of it when nothing else is said)
UNLISTED = [
    (100, "config_error provider -", "config_error provider -", "config_error provider -"),
    (204, "config_error provider -", "config_error provider -", "config_error provider -"),
    (301, "config_error provider -", "config_error provider -", "config_error provider -"),
    (401, "config_error credential -", "config_error credential -", "config_error credential -"),
    (402, "drop_message - -", "drop_message - -", "drop_message - -"),
    (403, "config_error credential -", "config_error credential -", "config_error credential -"),
    (404, "drop_message - -", "config_error app -", "config_error app -"),
    (407, "config_error credential -", "config_error credential -", "config_error credential -"),
    (408, "retry endpoint -", "retry endpoint -", "retry endpoint -"),
    (410, "drop_message - -", "drop_message - -", "config_error app -"),
    (413, "drop_message - -", "drop_message - -", "drop_message - -"),
    (421, "reconnect_retry endpoint -", "reconnect_retry endpoint -", "reconnect_retry endpoint -"),
    (425, "retry endpoint -", "retry endpoint -", "retry endpoint -"),
    (429, "retry credential -", "retry credential -", "retry credential -"),
    (500, "retry provider -", "retry provider -", "retry provider -"),
    (502, "retry provider -", "retry provider -", "retry provider -"),
    (599, "retry provider -", "retry provider -", "retry provider -"),
]
NOISE = [
    b"", b"<html></html>", b"\xff\xfe", b"[]", b"null", b'{"reason":7}', b'{"reason":"Brand new"}',
    b'{"error":{"status":"BRAND_NEW"}}', b"[" * 60_000, b'{"reason":"Unregistered"' + b" " * MAX_BODY + b"}",
    b'{"error":{"details":null}}', b'{"reason":"Unregistered","timestamp":-1}',
]  # fmt: skip


@pytest.mark.parametrize("body", NOISE)
@pytest.mark.parametrize(("status", "apple", "android", "gateway"), UNLISTED)
def test_what_nobody_has_listed_goes_by_its_status(
    status: int, apple: str, android: str, gateway: str, body: bytes
) -> None:
    answer = Answer(status, body)
    found = (apns(answer, NOW), fcm(answer, NOW), gcm(answer, NOW)[0])
    assert tuple(read(each) for each in found) == (apple, android, gateway)
    assert {label(each) for each in found} <= {"", "other"} | outcomes.OURS


def test_a_dead_token_without_a_time_is_only_suspected() -> None:
    outcome = apns(Answer(410, b'{"reason":"Unregistered"}'), NOW)
    assert (outcome.kind, outcome.action, outcome.dead_since_ms) == ("drop_token", "suspect", None)


@given(st.integers(100, 599), st.binary(max_size=200) | st.text(max_size=80).map(lambda t: t.encode()))
def test_no_noise_ever_ends_a_token(status: int, body: bytes) -> None:
    answer = Answer(status, body, "x", "y")
    assert not {each.kind for each in (apns(answer, NOW), fcm(answer, NOW), *gcm(answer, NOW))} & {
        "drop_token"
    }


@pytest.mark.parametrize("ours", [BAD_TOKEN, "QUOTA_EXCEEDED:device", "a b", "x" * 65, "\n"])
def test_no_answer_can_bring_a_word_of_ours_or_a_line_for_the_log(ours: str) -> None:
    for status in (400, 404, 429):
        assert fcm(Answer(status, google(ours, ours)), NOW).reason == "unreadable"
        assert apns(Answer(status, json.dumps({"reason": ours}).encode()), NOW).reason == "unreadable"


def test_when_to_come_back_is_read_from_header_or_body() -> None:
    busy = google("UNAVAILABLE", "UNAVAILABLE")
    info = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "31.5s"}
    told = google("UNAVAILABLE", "UNAVAILABLE", "", info)
    assert fcm(Answer(503, busy), NOW).retry_after is None
    assert fcm(Answer(503, busy, "7"), NOW).retry_after == 7
    assert fcm(Answer(503, told), NOW).retry_after == 31
    assert fcm(Answer(503, told, "7"), NOW).retry_after == 7
    date = "Sun, 22 Nov 2026 08:26:33 GMT"
    assert fcm(Answer(429, busy, date), NOW).retry_after == 60
    assert apns(Answer(503, b"", date, "Sun, 22 Nov 2026 08:26:03 GMT"), NOW).retry_after == 30


@pytest.mark.parametrize("wire", ["apns", "fcm", "gcm"])
def test_what_never_was_answered(wire: Wire) -> None:
    for reason in outcomes.NOT_SENT:
        outcome = outcomes.not_sent(wire, reason)
        assert (outcome.kind, label(outcome)) == ("reconnect_retry", reason)
    for reason in outcomes.UNANSWERED:
        outcome = outcomes.unanswered(wire, reason)
        assert (outcome.kind, label(outcome)) == ("unknown", reason)


def test_an_outcome_shows_no_token() -> None:
    outcome = Outcome("delivered", "gcm", 200, "", action="replace", replacement_token="canary-token")
    assert "canary-token" not in repr(outcome)
