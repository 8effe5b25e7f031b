"""Listeners from Twisted endpoint strings, with a backlog that a reconnect storm fits into; and the way back to one."""

# mypy: allow-untyped-calls
# (Twisted's endpoints are annotated in part)

from typing import Any, Final

from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.internet.endpoints import (
    TCP4ClientEndpoint,
    TCP6ClientEndpoint,
    UNIXClientEndpoint,
    serverFromString,
)

BACKLOG: Final = 4096  # Twisted's own default is 50


def endpoint(reactor: Any, description: str) -> Any:
    """The endpoint that `description` names (tcp:, ssl:, unix:, systemd: …). ValueError when it names none."""
    kind = kind_of(description)
    if kind in ("tcp", "ssl", "unix") and ":backlog=" not in description:
        description += f":backlog={BACKLOG}"
    try:
        return serverFromString(reactor, description)
    except (KeyError, IndexError):
        if kind != "systemd":
            raise
        raise ValueError(
            "systemd has handed over no such socket: compare FileDescriptorName= in the .socket unit, and Sockets= in "
            "the service"
        ) from None


def kind_of(description: str) -> str:
    """What an endpoint string begins with: tcp, ssl, unix, systemd …"""
    return description.partition(":")[0]


def take_waiting(port: Any) -> None:
    """Accept who waits in the queue of a listener: its end would reset them, as if nobody had been here.

    Twisted accepts only as many at a time as came lately.
    """
    if hasattr(port, "numberAccepts"):
        port.numberAccepts = BACKLOG
        port.doRead()


def way_to(reactor: Any, address: Any, seconds: float) -> Any:
    """The client's endpoint for a listener of this machine, by its address; None for a kind that we do not know."""
    if isinstance(address, IPv4Address):
        host = "127.0.0.1" if address.host == "0.0.0.0" else address.host  # noqa: S104
        return TCP4ClientEndpoint(reactor, host, address.port, timeout=seconds)
    if isinstance(address, IPv6Address):
        host = "::1" if address.host == "::" else address.host
        return TCP6ClientEndpoint(reactor, host, address.port, timeout=seconds)
    if isinstance(address, UNIXAddress):
        return UNIXClientEndpoint(reactor, address.name, timeout=seconds)
    return None
