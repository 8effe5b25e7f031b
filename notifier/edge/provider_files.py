"""The files that Apple and Google give an operator, read and checked; errors name the file and never quote it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec

from notifier.core.credentials import (
    TOKEN_HOSTS,
    ApnsKey,
    CredentialError,
    ServiceAccount,
    apns_key,
    p8,
    service_account,
)
from notifier.edge.client_certificate import ClientCertificate, client_certificate
from notifier.edge.secret_file import FileRefused, read
from notifier.edge.signing import Sign, es256, rs256


def apns_key_file(file: str | Path, key_id: str, team_id: str) -> tuple[ApnsKey, Sign]:
    """Apple's .p8 file, and what signs with it. Raises CredentialError."""
    data = _secret(file)
    try:
        return apns_key(key_id, team_id), es256(p8(data))
    except CredentialError as error:
        problem = str(error)
    raise CredentialError(f"{file}: {problem}")


def apns_certificate_file(
    file: str | Path, password_file: str | Path | None, now: float
) -> ClientCertificate:
    """A certificate for APNs with its key, as PKCS#12 or PEM. Raises CredentialError."""
    data = _secret(file)
    password = None if password_file is None else _secret(password_file).rstrip(b"\r\n")
    try:
        return client_certificate(data, password, now)
    except CredentialError as error:
        problem = str(error)
    raise CredentialError(f"{file}: {problem}")


def service_account_file(
    file: str | Path, hosts: Collection[str] = TOKEN_HOSTS, token_url: str = ""
) -> tuple[ServiceAccount, Sign]:
    """A Google service account, and what signs with its key. Raises CredentialError.

    `hosts`: where the file's own token_uri may lead; `token_url`: takes its place, on an operator's word.
    """
    data = _secret(file)
    try:
        account = service_account(data, hosts)
        sign = rs256(account.private_key)
    except CredentialError as error:
        problem = str(error)
    else:
        return (msgspec.structs.replace(account, token_uri=token_url) if token_url else account), sign
    raise CredentialError(f"{file}: {problem}")


def gateway_key_file(file: str | Path) -> str:
    """The key of a gateway that speaks the JSON of GCM: one line of visible ASCII. Raises CredentialError."""
    key = _secret(file).strip()
    if not key or not all(0x21 <= byte <= 0x7E for byte in key):
        raise CredentialError(f"{file}: must hold the gateway's key alone, on one line")
    return key.decode("ascii")


def _secret(file: str | Path) -> bytes:
    try:
        return read(Path(file), secret=True)
    except FileRefused as refused:
        raise CredentialError(f"{file}: {refused}") from None
