"""Listeners from Twisted endpoint strings, with a backlog that a reconnect storm fits into."""

# mypy: allow-untyped-calls
# (Twisted's endpoints are annotated in part)

from typing import Any, Final

from twisted.internet.endpoints import serverFromString

BACKLOG: Final = 4096  # Twisted's own default is 50


def endpoint(reactor: Any, description: str) -> Any:
    """The endpoint that `description` names (tcp:, ssl:, unix:, systemd: …). ValueError when it names none."""
    kind = description.partition(":")[0]
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
