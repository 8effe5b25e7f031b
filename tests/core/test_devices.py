"""Devices: what may be registered, one spelling for each token, and the stored form."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.core.devices import (
    MAX_BODY,
    App,
    Refused,
    canonical,
    decode,
    device_id,
    encode,
    owner,
    register,
    shown,
    surplus,
)
from notifier.core.model import Device

NOW = 1_795_335_933_172
HEX = "0123456789abcdef" * 4
FCM = "dGVzdA:APA91bH" + "x_-9" * 33
APPS = {
    "demo": App(frozenset({"apns", "fcm"})),
    "debug": App(frozenset({"apns"}), "sandbox"),
    "droid": App(frozenset({"fcm"})),
}


def asked(**changes: Any) -> bytes:
    """A registration; `...` takes a field out."""
    whole = {"platform": "fcm", "app": "demo"} | changes
    return json.dumps({name: value for name, value in whole.items() if value is not ...}).encode()


def taken(token: str = FCM, **changes: Any) -> Device:
    found = register(token, asked(**changes), APPS, NOW)
    assert isinstance(found, Device), found
    return found


def test_a_whole_registration() -> None:
    made = taken(
        HEX,
        platform="apns",
        environment="sandbox",
        locale="pt_BR",
        time_zone="Europe/Berlin",
        app_version="5.1 (7)",
    )
    assert made == Device(
        device_id(HEX), "apns", "demo", HEX, NOW, "sandbox", "pt-BR", "Europe/Berlin", "5.1 (7)"
    )  # fmt: skip


def test_a_short_one() -> None:
    assert taken() == Device(device_id(FCM), "fcm", "demo", FCM, NOW)


def test_gcm_means_fcm() -> None:
    assert taken(platform="gcm") == taken()


def test_an_app_says_for_its_iphones_where_they_live_unless_they_do() -> None:
    assert taken(HEX, platform="apns").environment == "production"
    assert taken(HEX, platform="apns", app="debug").environment == "sandbox"
    assert taken(HEX, platform="apns", app="debug", environment="production").environment == "production"


def test_fields_of_later_versions_are_ignored() -> None:
    assert taken(badge="yes") == taken()


REFUSED = [
    (FCM, b"", ""),
    (FCM, b"\xff", ""),
    (FCM, b"[" * 3000, ""),
    (FCM, b'{"platform":"fcm","app":"demo","x":"' + b"x" * MAX_BODY + b'"}', ""),
    (FCM, asked(platform=...), ""),
    (FCM, asked(app=7), ""),
    (FCM, asked(platform="adm"), "platform"),
    (FCM, asked(platform="APNS"), "platform"),
    (FCM, asked(app="nobody"), "app"),
    (FCM, asked(app="debug"), "platform"),
    (HEX, asked(app="droid", platform="apns"), "platform"),
    (FCM, asked(platform="apns"), "token"),
    (HEX[:-1], asked(platform="apns"), "token"),
    (HEX[:62], asked(platform="apns"), "token"),
    ("ab" * 101, asked(platform="apns"), "token"),
    (HEX[:-1] + "\n", asked(platform="apns"), "token"),
    ("short", asked(), "token"),
    ("x" * 1025, asked(), "token"),
    (FCM + "/", asked(), "token"),
    (FCM + " ", asked(), "token"),
    (FCM + "\n", asked(), "token"),
    (FCM + '"', asked(), "token"),
    (FCM + "é", asked(), "token"),
    (FCM, asked(environment=""), "environment"),
    (FCM, asked(environment="debug"), "environment"),
    (FCM, asked(locale="english please"), "locale"),
    (FCM, asked(locale="e"), "locale"),
    (FCM, asked(locale="en\n"), "locale"),
    (FCM, asked(time_zone="../../etc/passwd"), "time_zone"),
    (FCM, asked(time_zone="a/b/c/d"), "time_zone"),
    (FCM, asked(app_version="x" * 65), "app_version"),
    (FCM, asked(app_version="\x1b[2J"), "app_version"),
]


@pytest.mark.parametrize(("token", "body", "field"), REFUSED)
def test_what_is_refused(token: str, body: bytes, field: str) -> None:
    found = register(token, body, APPS, NOW)
    assert isinstance(found, Refused)
    assert found.field == field
    assert found.detail
    assert token not in found.detail


FITS = ["ab" * 32, "AB" * 100]
LOCALES = ["", "en", "pt-BR", "zh_Hant_TW", "sr-Latn-RS", "de-CH-1996", "yue"]
ZONES = ["", "UTC", "Europe/Berlin", "America/Argentina/Buenos_Aires", "Etc/GMT+3"]


def test_what_is_taken() -> None:
    for token in FITS:
        assert taken(token, platform="apns").token == token.lower()
    for locale in LOCALES:
        assert taken(locale=locale).locale == locale.replace("_", "-")
    for zone in ZONES:
        assert taken(time_zone=zone).time_zone == zone


def test_one_token_is_one_device_however_it_is_spelt() -> None:
    assert taken(HEX.upper(), platform="apns").id == taken(HEX, platform="apns").id == device_id(HEX.upper())
    assert canonical(FCM) == FCM
    assert device_id(FCM) != device_id(FCM.upper()), "Google's tokens are not hexadecimal: case counts"
    assert taken(app="droid").id == taken(app="demo").id
    assert device_id("token") == "k3hudNL_jVWSY-DQ8_qPdw"  # stored state: it must never change


@given(st.text(min_size=1, max_size=300).filter(lambda text: text.isascii()))
def test_a_device_id_is_fit_for_a_key_and_does_not_tell_the_token(token: str) -> None:
    made = device_id(token)
    assert len(made) == 22
    assert made.replace("-", "").replace("_", "").isalnum()
    assert len(token) < 4 or token not in made


device_of = st.builds(
    Device,
    st.just("some-id"),
    st.sampled_from(["apns", "fcm"]),
    st.text("abz09_-", min_size=1, max_size=32),
    st.text(min_size=1, max_size=200),
    st.integers(0, 2**53),
    st.sampled_from(["production", "sandbox"]),
    st.text(max_size=35),
    st.text(max_size=64),
    st.text(max_size=64),
)


@given(device_of)
def test_a_device_reads_back_as_it_was_stored(device: Device) -> None:
    line = encode(device)
    assert decode(device.id, line) == device
    letter = {"apns": "a", "fcm": "f"}[device.provider]
    assert line.split(" ")[:3] == [f"1{letter}", device.app, str(device.registered)]


def test_what_a_newer_process_wrote_is_left_alone() -> None:
    for version in ("2", "10"):
        assert decode("d", f"{version}a demo 5 whatever") == Device("d", "apns", "demo", "", 5)
    assert decode("d", "2w demo 5 a provider of later times") is None


@pytest.mark.parametrize(
    ("value", "user"),
    [
        (None, ""), (b"", ""), (b"garbage", ""), (b"1 ana", ""), (b"1 ana x -", ""), (b"1 \xff 5 -", ""),
        (b"1 ana 5 -", "ana"), (b"1 ana 5 ben", "ana"), (b"12 ana 5 - and more", "ana"),
    ],
    ids=str,
)  # fmt: skip
def test_whose_a_device_is(value: bytes | None, user: str) -> None:
    assert owner(value) == user


@pytest.mark.parametrize("line", ["", "1", "1x demo 5 []", "1a demo x []", "1a demo 5 {}", "1a demo 5 ["])
def test_a_broken_line_is_told(line: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode("d", line)


@pytest.mark.parametrize(
    "line",
    [
        "canary", "canary demo 5 []", "1a demo 5 [canary", '1a demo 5 ["canary"]', "1c canary 5 []",
        '1a demo 5 ["x", "canary", "", "", ""]',
    ],
)  # fmt: skip
def test_what_is_told_of_a_broken_line_has_no_token(line: str) -> None:
    with pytest.raises(ValueError, match=r".+") as told:
        decode("d", line)
    assert "canary" not in str(told.value)


def test_who_has_too_many_loses_the_oldest() -> None:
    ages = {"a": 3, "c": 1, "b": 1}
    devices = [msgspec.structs.replace(taken(), id=name, registered=at) for name, at in ages.items()]
    assert surplus(devices, 3) == []
    assert [each.id for each in surplus(devices, 2)] == ["b"]
    assert [each.id for each in surplus(devices, 1)] == ["b", "c"]
    assert [each.id for each in surplus(devices, 0)] == ["b", "c", "a"]
    assert [each.id for each in surplus(devices, 1, "b")] == ["c", "a"]
    assert [each.id for each in surplus(devices, 0, "b")] == ["c", "a"]


def test_no_token_is_shown() -> None:
    device = taken("canary-token-" + "x" * 100)
    assert "canary" not in repr(device)
    assert "canary" not in f"{device}"
    assert "canary" not in repr([device])
    word = shown(device.token, b"secret")
    assert word == shown(device.token, b"secret") != shown(device.token, b"other")
    assert len(word) == 12
    assert shown(HEX, b"secret") == shown(HEX.upper(), b"secret")
