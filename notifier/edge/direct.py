"""Writing to a socket at once instead of on the reactor's next turn: 6-8 us less per frame (docs/performance.md).
The one place that touches private attributes of Twisted's TCP transport; a test per release holds it."""

from socket import SO_SNDBUF, SOL_SOCKET
from typing import Any

from twisted.internet.tcp import Client, Server

# Exactly these: a TLS transport forwards `socket` and `dataBuffer` too, and would send plain text.
_PLAIN = (Server, Client)


def is_plain(transport: Any) -> bool:
    """Is this Twisted's own TCP transport, whose socket carries what the protocol says?"""
    return type(transport) in _PLAIN


def send_now(transport: Any, data: bytes) -> bool:
    """Write `data`; what the kernel does not take now goes through transport.write as usual. True if it took all."""
    if (
        type(transport) in _PLAIN
        and not transport.dataBuffer
        and not transport._tempDataLen
        and transport.connected
    ):
        try:
            sent = transport.socket.send(data)
        except OSError:
            # EAGAIN, or a connection that is gone: transport.write knows what to do with either
            sent = 0
        if sent == len(data):
            return True
        data = data[sent:]
    transport.write(data)
    return False


def unsent(transport: Any) -> int:
    """Bytes that wait in the process because the peer does not read them."""
    inner = getattr(transport, "transport", transport)  # under TLS the TCP transport is one further down
    try:
        return int(len(inner.dataBuffer) - inner.offset + inner._tempDataLen)
    except AttributeError:
        return 0  # a transport of some other kind: nothing is known


def end_writing(transport: Any) -> None:
    """Close our half of the connection, behind what is unsent; the whole of it under TLS, which knows no halves."""
    if type(transport) in _PLAIN:
        transport.loseWriteConnection()
    else:
        transport.loseConnection()


def bound_kernel(transport: Any, size: int) -> None:
    """Let the kernel hold about `size` bytes for this peer (Linux doubles it).

    Left alone it takes megabytes for a client that does not read, where no limit of ours can see them.
    """
    try:
        transport.socket.setsockopt(SOL_SOCKET, SO_SNDBUF, size)  # a TLS transport forwards `socket`
    except (AttributeError, OSError):
        pass  # a transport of some other kind, or one that has just gone
