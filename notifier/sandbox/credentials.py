"""What a sender shows to the sandbox: an APNs key and a service account, made here and worth nothing elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import Struct

KEY_ID: Final = "SANDBOXKEY"
TEAM_ID: Final = "SANDBOXTEA"
TOPIC: Final = "com.example.demo"
PROJECT: Final = "notifier-sandbox"
RSA_BITS: Final = 2048


class Credentials(Struct, frozen=True):
    """Files (mode 0600) in the form that Apple and Google give them in."""

    apns_key: Path
    service_account: Path


def make_credentials(folder: Path) -> Credentials:
    """Those of a folder, made when they are missing. The sandbox believes any, so they open nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    made = Credentials(folder / f"AuthKey_{KEY_ID}.p8", folder / "service-account.json")
    if not made.apns_key.exists():
        _write(made.apns_key, _pem(ec.generate_private_key(ec.SECP256R1())))
    if not made.service_account.exists():
        account = {
            "type": "service_account",
            "project_id": PROJECT,
            "private_key_id": "sandbox",
            "private_key": _pem(rsa.generate_private_key(65537, RSA_BITS)).decode(),
            "client_email": f"push@{PROJECT}.iam.gserviceaccount.com",
            # Google's, as in a real file: where the sandbox listens is said in the configuration.
            "token_uri": "https://oauth2.googleapis.com/token",
        }
        _write(made.service_account, msgspec.json.format(msgspec.json.encode(account)))
    return made


def app_toml(name: str, made: Credentials, apns: str, fcm: str, token_uri: str, authority: str) -> str:
    """An app of notifier's configuration whose devices are the sandbox's phones."""
    return f"""\
[apps.{name}.apns]
topic = "{TOPIC}"
key_file = "{made.apns_key}"
key_id = "{KEY_ID}"
team_id = "{TEAM_ID}"
production_url = "{apns}"
sandbox_url = "{apns}"
authority_file = "{authority}"

[apps.{name}.fcm]
service_account_file = "{made.service_account}"
url = "{fcm}"
token_url = "{token_uri}"
authority_file = "{authority}"
"""


def _pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, data: bytes) -> None:
    draft = path.with_name(f"{path.name}.new")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)
    draft.rename(path)
