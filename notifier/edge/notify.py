"""Tells systemd how the service is, as sd_notify(3): one datagram to $NOTIFY_SOCKET, nothing without it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Mapping

SECONDS_TO_WAIT = 1.0  # a full queue of a busy systemd may hold us this long, never for ever


class Systemd:
    """The service manager that started this process, if one did.

    Every method returns True when the datagram was sent, and False when there is no manager or it cannot be
    reached. None raises: a service must not end because nobody listens to its state.
    """

    def __init__(
        self,
        environ: Mapping[str, str] = os.environ,
        *,
        pid: int | None = None,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._monotonic_ns = monotonic_ns
        self.watchdog_seconds = _watchdog_seconds(environ, os.getpid() if pid is None else pid)
        """Longest silence between two calls of `watchdog`, in seconds; None when no watchdog is set."""

    def ready(self, status: str = "") -> bool:
        """Start-up, or a reload, is complete."""
        return self._send("READY=1", *_status(status))

    def status(self, text: str) -> bool:
        """One line for `systemctl status`."""
        return self._send(*_status(text))

    def stopping(self, status: str = "") -> bool:
        return self._send("STOPPING=1", *_status(status))

    def reloading(self) -> bool:
        """The configuration is being read again; `ready` ends it."""
        # sd_notify(3): Type=notify-reload takes RELOADING=1 only with the CLOCK_MONOTONIC time, in us.
        return self._send("RELOADING=1", f"MONOTONIC_USEC={self._monotonic_ns() // 1000}")

    def watchdog(self) -> bool:
        """Still well. Send it only when the work moves, not merely because a timer fired."""
        return self._send("WATCHDOG=1")

    def extend(self, seconds: float) -> bool:
        """Ask for `seconds` more, from now, before the running start or stop counts as hung."""
        return self._send(f"EXTEND_TIMEOUT_USEC={round(seconds * 1_000_000)}")

    def _send(self, *assignments: str) -> bool:
        if self._address is None:
            return False
        data = "\n".join(assignments).encode("utf-8", "backslashreplace")
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
                out.settimeout(SECONDS_TO_WAIT)
                out.sendto(data, self._address)
        except OSError:
            return False
        return True


def _address(text: str) -> bytes | None:
    # sd_notify(3): an absolute path, or "@" for the abstract namespace; other families are not for us.
    if len(text) < 2 or text[0] not in "/@":
        return None
    raw = os.fsencode(text)
    return b"\0" + raw[1:] if text[0] == "@" else raw


def _status(text: str) -> tuple[str, ...]:
    # A newline would begin a new assignment: a status must not be able to say READY=1.
    line = " ".join(text.split())
    return (f"STATUS={line}",) if line else ()


def _watchdog_seconds(environ: Mapping[str, str], pid: int) -> float | None:
    # sd_watchdog_enabled(3): WATCHDOG_PID names the process that is meant, if it is set.
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    return int(text) / 1_000_000 if text.isascii() and text.isdigit() and int(text) else None
