"""curl against the sandbox: Google's whole way, from the assertion to many messages at once across a GOAWAY."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.edge.provider_world import PROJECT, RSA, android
from tests.sandbox.process import Sandbox, sandbox
from tests.servers import missing

MESSAGES = 60
GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"


def public_key() -> str:
    return RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(tmp_path_factory.mktemp("sandbox")) as running:
        running.call("PUT", "keys/fcm/k1", {"pem": public_key()})
        yield running


def curl(there: Sandbox, *arguments: str) -> str:
    program = shutil.which("curl")
    if program is None:
        missing("curl", "not in PATH")
    assert program is not None
    command = [program, "--silent", "--show-error", "--cacert", there.endpoints["authority"], *arguments]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def grant(there: Sandbox) -> Any:
    """What the token endpoint says to a signed assertion (RFC 7523 section 2.1)."""
    now, uri = int(time.time()), there.endpoints["token_uri"]
    claims = {
        "iss": "push@photos.iam.gserviceaccount.com",
        "scope": SCOPE,
        "aud": uri,
        "iat": now,
        "exp": now + 3600,
    }
    assertion = jwt.encode(claims, RSA, "RS256", {"kid": "k1"})
    form = ("--data-urlencode", f"grant_type={GRANT}", "--data-urlencode", f"assertion={assertion}")
    return json.loads(curl(there, *form, uri))


def messages(there: Sandbox, access: str, folder: Path, tokens: Sequence[str]) -> list[str]:
    """One message to each token, all at once over HTTP/2; version, status and name, in any order."""
    url = f"{there.endpoints['fcm']}/v1/projects/{PROJECT}/messages:send"
    parts = []
    for number, token in enumerate(tokens):
        body = folder / f"{number}.json"
        body.write_text(json.dumps({"message": {"token": token, "notification": {"body": "hello"}}}))
        lines = (
            f'url = "{url}"',
            f'header = "authorization: Bearer {access}"',
            'header = "content-type: application/json"',
            f'data-binary = "@{body}"',
            f'output = "{folder / f"{number}.answer"}"',
            r'write-out = "%{http_version} %{response_code}\n"',
            f'cacert = "{there.endpoints["authority"]}"',
            "http2",
        )
        parts.append("\n".join(lines))
    config = folder / "curl.conf"
    config.write_text("\nnext\n".join(parts))
    return curl(there, "--parallel", "--parallel-max", str(len(tokens)), "--config", str(config)).splitlines()


def test_a_grant_and_many_messages(there: Sandbox, tmp_path: Path) -> None:
    access = grant(there)
    assert (access["token_type"], access["expires_in"]) == ("Bearer", 3599)
    tokens = [android(number) for number in range(MESSAGES)]
    assert messages(there, access["access_token"], tmp_path, tokens) == ["2 200"] * MESSAGES
    names = {json.loads(file.read_bytes())["name"] for file in tmp_path.glob("*.answer")}
    assert len(names) == MESSAGES
    for token in tokens:
        (shown,) = there.call("GET", f"devices/{token}")["shown"]
        assert shown["text"] == "hello"


def test_a_goaway_in_the_middle(there: Sandbox, tmp_path: Path) -> None:
    access = grant(there)["access_token"]
    there.call("POST", "script", {"provider": "fcm", "token": android(3), "action": "goaway"})
    tokens = [android(number) for number in range(8)]
    before = there.call("GET", "counts")["fcm"]["goaways"]
    assert messages(there, access, tmp_path, tokens) == ["2 200"] * len(tokens)
    assert there.call("GET", "counts")["fcm"]["goaways"] == before + 1
    there.call("DELETE", "script")


def test_an_assertion_that_somebody_else_has_signed(there: Sandbox) -> None:
    there.call("DELETE", "keys/fcm/k1")
    there.call("PUT", "keys/fcm/k2", {"pem": public_key()})
    assert grant(there)["error"] == "invalid_grant"
