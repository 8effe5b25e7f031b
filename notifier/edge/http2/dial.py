"""How a push server is reached: TLS 1.2 or later, its certificate checked, HTTP/2 or nothing."""

# mypy: allow-untyped-calls
# (twisted.internet.ssl has no annotations)

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.x509 import load_pem_x509_certificates
from msgspec import Struct
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import VerificationError
from twisted.internet import ssl
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.python.failure import Failure

from notifier.core.credentials import CredentialError
from notifier.edge.secret_file import FileRefused, read

CONNECT_WITHIN: Final = 10.0  # s, for TCP
HTTPS: Final = 443


class Place(Struct, frozen=True):
    """Where a push server is."""

    host: str
    port: int = HTTPS

    @property
    def authority(self) -> str:
        """As `:authority` has it (RFC 9113 section 8.3.1)."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTPS else f"{host}:{self.port}"


def place(url: str) -> Place:
    """The place that an `https://host[:port]` names. Raises CredentialError."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or HTTPS
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme != "https" or not host or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise CredentialError(f"{url!r} must be https://HOST or https://HOST:PORT and nothing more")
    return Place(host, port)


def trusted(file: str | Path) -> Any:
    """A trust root of the certificates in a PEM file, and of these alone. Raises CredentialError."""
    try:
        found = load_pem_x509_certificates(read(Path(file)))
    except FileRefused as refused:
        raise CredentialError(f"{file}: {refused}") from None
    except ValueError:
        raise CredentialError(f"{file}: no certificate in PEM can be read from it") from None
    return ssl.trustRootFromCertificates([ssl.Certificate(X509.from_cryptography(each)) for each in found])


def endpoint(
    reactor: Any,
    host: str,
    port: int,
    trust: Any = None,
    certificate: ssl.PrivateCertificate | None = None,
) -> IStreamClientEndpoint:
    """Resolves the name anew for each connection, so that they spread over the server's hosts.

    `trust`: a trust root; None takes the system's. `certificate`: the client's own, if it shows one.
    """
    options = ssl.optionsForClientTLS(
        host,
        trustRoot=trust,
        clientCertificate=certificate,
        acceptableProtocols=[b"h2"],
        extraCertificateOptions={"raiseMinimumTo": ssl.TLSVersion.TLSv1_2},  # RFC 9113 9.2
    )
    plain: Any = HostnameEndpoint(reactor, host, port, timeout=CONNECT_WITHIN)
    wrapped: IStreamClientEndpoint = wrapClientTLS(options, plain)
    return wrapped


# What OpenSSL calls it, and what it means to an operator.
_TLS_FAULTS: Final = (
    ("certificate verify failed", "no authority that is trusted here has signed the server's certificate"),
    ("alert certificate expired", "our certificate has expired"),
    ("alert certificate revoked", "our certificate has been revoked"),
    ("alert unknown ca", "the server does not accept our certificate"),
    ("alert bad certificate", "the server does not accept our certificate"),
    ("alert no application protocol", "the server does not speak HTTP/2 (no h2 in ALPN)"),
    ("wrong version number", "what listens there does not speak TLS"),
)


def told(failure: Failure) -> str:
    """Why there is no connection, in words."""
    error = failure.value
    if isinstance(error, VerificationError):
        return "TLS: the server's certificate is for another name"
    if not isinstance(error, SSL.Error):
        return failure.getErrorMessage()
    # A list of (library, function, reason), except for SysCallError, whose first argument is a number.
    whole = error.args[0] if error.args and isinstance(error.args[0], list) else ()
    said = "; ".join(str(each[-1]) for each in whole)
    if isinstance(error, SSL.SysCallError):
        said = str(error.args[-1])
    means = next((words for mark, words in _TLS_FAULTS if mark in said), "")
    return f"TLS: {means} ({said})" if means else f"TLS: {said or 'the connection was cut'}"
