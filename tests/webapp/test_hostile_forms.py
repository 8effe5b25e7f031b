"""Forms that no browser sends, through the application as a server calls it: whatever they are, no 500."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest
from django.core.signals import request_finished
from django.db import close_old_connections
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.webapp.caller import PICTURE, Caller

ROUTES = (("POST", "/api/photos"), ("PUT", "/api/me/avatar"), ("PATCH", "/api/me"), ("POST", "/api/session"))
MULTIPART = "multipart/form-data; boundary=frontier"
Send = Callable[..., tuple[int, Any]]


@pytest.fixture
def send(api: Caller) -> Iterator[Send]:
    """Calls the application: `send(method, path, content type, content)`; status and problem, "" for a success."""
    from webapp.wsgi import application  # as gunicorn does

    ana = api.join("ana")
    request_finished.disconnect(close_old_connections)

    def call(method: str, path: str, kind: str, content: bytes) -> tuple[int, str]:
        status: list[str] = []
        environ = {
            "REQUEST_METHOD": method, "PATH_INFO": path, "SCRIPT_NAME": "", "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "8000", "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": "127.0.0.1:8000", "REMOTE_ADDR": "10.9.9.9",
            "HTTP_AUTHORIZATION": f"Bearer {ana.token}",
            "CONTENT_TYPE": kind, "CONTENT_LENGTH": str(len(content)), "wsgi.input": io.BytesIO(content),
            "wsgi.url_scheme": "http", "wsgi.errors": io.StringIO(),
        }  # fmt: skip
        body = b"".join(application(environ, lambda line, headers: status.append(line)))
        code = int(status[0].split()[0])
        if code < 400:
            return code, ""
        said = json.loads(body)
        assert said["status"] == code
        return code, said["type"].rpartition(":")[2]

    yield call
    request_finished.connect(close_old_connections)


def part(*headers: str, content: bytes = PICTURE) -> bytes:
    """A form with one part."""
    head = "\r\n".join(headers).encode("utf-8", "surrogateescape")
    return b"--frontier\r\n" + head + b"\r\n\r\n" + content + b"\r\n--frontier--\r\n"


def file(disposition: str, *more: str) -> bytes:
    return part(f'Content-Disposition: form-data; name="file"; {disposition}', *more)


def test_codecs_of_file_names(send: Send) -> None:
    codecs = ("martian", "hex", "idna", "undefined", "rot13", "utf-16", "", "utf-8%00", "a\x00b", "x" * 5000)
    for codec, (method, path) in itertools.product(codecs, ROUTES):
        for name in (f"filename*={codec}''%e2%82%ac.jpg", f"filename*0*={codec}''a; filename*1*=%00.jpg"):
            assert send(method, path, MULTIPART, file(name))[0] in (200, 201, 400, 422), name


def test_codecs_of_the_content_type(send: Send) -> None:
    values = ("martian''x", "hex''x", "utf-8''%00", "utf-8''%ff", "'", "''", "undefined''%41")
    for parameter, value in itertools.product(("charset", "boundary", "x"), values):
        for kind in ("multipart/form-data; boundary=frontier", "text/plain"):
            told = f"{kind}; {parameter}*={value}"
            for method, path in ROUTES:
                assert send(method, path, told, file('filename="a.jpg"'))[0] < 500, told


ABSURD: Final = (
    file('filename=""'),
    file('filename="\x00"'),
    file('filename="a\x00.jpg"'),
    file('filename="../../.."'),
    file('filename="' + "a" * 10_000 + '"'),
    file('filename="a.jpg"; filename="b.jpg"'),
    file("filename"),
    file("filename*"),
    file("filename*=x"),
    file("filename*0=x; filename*2=y; filename*x=z"),
    file('filename="a.jpg"', "Content-Type: image/jpeg; charset=martian"),
    file('filename="a.jpg"', "Content-Type: image/jpeg; charset*=martian''x"),
    file('filename="a.jpg"', "Content-Type: ;;;"),
    file('filename="a.jpg"', "Content-Length: -1"),
    file('filename="a.jpg"', "Content-Length: ٣"),
    file('filename="a.jpg"', "Content-Transfer-Encoding: base64"),
    file('filename="a.jpg"', "Content-Transfer-Encoding: martian; x*=martian''y"),
    part("Content-Disposition: form-data; name=\"\"; filename=\"a.jpg\""),
    part("Content-Disposition: form-data; name*=martian''file; filename=\"a.jpg\""),
    part('Content-Disposition: form-data; name="caption\x00"'),
    part('Content-Disposition: form-data; name="caption"', content=b"\x00"),
    part('Content-Disposition: form-data; name="_charset_"', content=b"martian"),
    part("Content-Disposition:"),
    part("Content-Disposition"),
    part(":"),
    part("x" * 20_000),
    part(*["X-Header: y"] * 2000),
    b"--frontier\r\n" * 2000,
    b"--frontier--",
    b"--frontier",
    b"",
    b"\r\n" * 5000,
)  # fmt: skip


def test_absurd_parts(send: Send) -> None:
    for form in ABSURD:
        for method, path in ROUTES:
            assert send(method, path, MULTIPART, form)[0] < 500, form[:200]


def test_a_name_in_a_known_codec_is_no_reason_to_refuse_a_picture(send: Send) -> None:
    for name in ("filename*=UTF-8''%e2%82%ac.jpg", "filename*=iso-8859-1'en'%A3.jpg", 'filename="€.jpg"'):
        assert send("POST", "/api/photos", MULTIPART, file(name)) == (201, "")
        assert send("PUT", "/api/me/avatar", MULTIPART, file(name)) == (200, "")


def test_a_fault_of_ours_is_none_of_the_sender(send: Send, monkeypatch: pytest.MonkeyPatch) -> None:
    """What fails while a form is read, and is not its content's fault."""

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("django.core.files.uploadhandler.MemoryFileUploadHandler.file_complete", full)
    assert send("POST", "/api/photos", MULTIPART, file('filename="a.jpg"'))[0] == 500


WORDS = st.sampled_from(
    [
        *(
            "form-data",
            "name",
            "filename",
            "filename*",
            "filename*0*",
            "filename*1",
            "charset",
            "charset*",
            "boundary",
        ),
        *(
            "=",
            ";",
            '"',
            "'",
            "''",
            "*",
            "%",
            "%00",
            "%ff",
            "\\",
            ",",
            " ",
            "\t",
            "\x00",
            "\x7f",
            "é",
            "\u2028",
            "/",
        ),
        *(
            "utf-8",
            "martian",
            "hex",
            "idna",
            "undefined",
            "utf-7",
            "rot13",
            "base64",
            "file",
            "caption",
            "a.jpg",
            "٣",
        ),
        *(
            "Content-Disposition",
            "Content-Type",
            "Content-Transfer-Encoding",
            "Content-Length",
            ":",
            "\r\n",
            "\n",
            "\r",
        ),
    ]
)
TEXTS = st.lists(WORDS | st.text(max_size=4), max_size=14).map("".join)
PARTS = st.builds(
    lambda headers, content: part(*headers, content=content),
    st.lists(
        st.builds("{}: form-data; name={}; {}".format, st.just("Content-Disposition"), TEXTS, TEXTS)
        | st.builds("Content-{}: {}".format, st.sampled_from(["Type", "Transfer-Encoding", "Length"]), TEXTS)
        | TEXTS,
        max_size=4,
    ),
    st.binary(max_size=40) | st.just(PICTURE),
)  # fmt: skip


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    route=st.sampled_from(ROUTES),
    kind=st.just(MULTIPART) | TEXTS.map(lambda more: f"{MULTIPART}; {more}") | TEXTS,
    form=st.lists(PARTS, min_size=1, max_size=3).map(b"".join) | st.binary(max_size=200),
)
def test_nothing_that_is_sent_is_a_fault_here(
    send: Send, route: tuple[str, str], kind: str, form: bytes
) -> None:
    # PEP 3333: bytes of the wire, as text in Latin-1.
    told = kind.encode("utf-8", "surrogatepass").decode("latin-1")
    assert send(*route, told, form)[0] < 500, (kind, form)
