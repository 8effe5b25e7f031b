"""Requests that no client of ours sends: charsets that are no text, forms where JSON is wanted."""

from __future__ import annotations

import pytest

from tests.webapp.caller import PICTURE, Caller

FORM = (
    b'--frontier\r\nContent-Disposition: form-data; name="caption"\r\n\r\n\\ud800 x\r\n'
    b'--frontier\r\nContent-Disposition: form-data; name="file"; filename="a.jpg"\r\n\r\n'
    + PICTURE
    + b"\r\n--frontier--\r\n"
)
MULTIPART = "multipart/form-data; boundary=frontier"
KINDS = (MULTIPART, "application/x-www-form-urlencoded", "application/json")


# Python has codecs that make no text of bytes, that know no way around what they cannot read, and that make
# halves of surrogate pairs.
@pytest.mark.parametrize("charset", ["hex", "idna", "undefined", "rot13", "utf-16", "unicode_escape"])
def test_a_codec_that_is_no_utf_8_is_refused(api: Caller, charset: str) -> None:
    ana = api.join("ana")
    for method, path in (("POST", "/api/photos"), ("PUT", "/api/me/avatar"), ("PATCH", "/api/me")):
        for kind in KINDS:
            said = api(method, path, ana, FORM, CONTENT_TYPE=f"{kind}; charset={charset}")
            assert (said.status, said.problem) == (400, "invalid-request"), (method, path, kind)


def test_the_charset_of_a_request_without_content_counts_for_nothing(api: Caller) -> None:
    api.join("zoe", display_name="Zoë")
    said = api("GET", "/api/search?q=zo%C3%AB", CONTENT_TYPE="text/plain; charset=latin-1")
    assert [found["name"] for found in said.json["items"]] == ["zoe"]


@pytest.mark.parametrize("charset", ["utf-8", "UTF8", "us-ascii", "martian"])
def test_utf_8_by_any_name_is_let_in(api: Caller, charset: str) -> None:
    ana = api.join("ana")
    assert api("POST", "/api/photos", ana, FORM, CONTENT_TYPE=f"{MULTIPART}; charset={charset}").status == 201


def test_a_form_where_json_is_wanted_is_the_senders_fault(api: Caller) -> None:
    said = api("PATCH", "/api/me", api.join("ana"), FORM, CONTENT_TYPE=MULTIPART)
    assert (said.status, said.problem) == (400, "invalid-request")
