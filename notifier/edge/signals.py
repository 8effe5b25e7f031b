"""Signals of the operating system, as calls on the reactor."""

import signal
import threading
from collections.abc import Callable
from typing import Any


def on_signal(reactor: Any, number: int, act: Callable[[], None]) -> None:
    """Call `act` in the reactor for this signal, in place of what was done before. A process whose reactor does not
    run in the main thread gets no signals, so there this does nothing."""
    if threading.current_thread() is threading.main_thread():
        # The handler runs between any two instructions: all it does is to wake the reactor.
        signal.signal(number, lambda *_: reactor.callFromThread(act))


def die_of(number: int) -> None:
    """End this process now, by the signal itself, so that whoever started it is told the truth."""
    signal.signal(number, signal.SIG_DFL)
    signal.raise_signal(number)
