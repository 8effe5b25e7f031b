"""How a push server is reached: TLS 1.2 or later, its certificate checked, HTTP/2 or nothing."""

from typing import Any, Final

from twisted.internet import ssl
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import IStreamClientEndpoint

CONNECT_WITHIN: Final = 10.0  # s, for TCP


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
