"""The one Twisted reactor of the test run, in a thread of its own; tests await on it through `run`."""

from __future__ import annotations

import inspect
import sys
import threading
import traceback
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswer
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

T = TypeVar("T")
Work = Coroutine[Deferred[Any], Any, T] | Deferred[T] | Callable[[], Any]

_lock = threading.Lock()
_thread: threading.Thread | None = None


def start() -> None:
    """Starts the reactor's thread once. It installs no signal handlers: use subprocess, not spawnProcess."""
    global _thread
    with _lock:
        if _thread is not None:
            return
        reactor = _reactor()
        up = threading.Event()
        reactor.callWhenRunning(up.set)
        _thread = threading.Thread(
            target=reactor.run,
            kwargs={"installSignalHandlers": False},
            name="reactor",
            daemon=True,
        )
        _thread.start()
        if not up.wait(10):
            raise RuntimeError("the reactor did not start within 10 s")


def stop() -> None:
    """Stops the reactor for good, with its thread pool (whose threads would keep the process alive)."""
    with _lock:
        if _thread is None or not _thread.is_alive():
            return
        reactor = _reactor()
        reactor.callFromThread(reactor.stop)
        _thread.join(10)


def run(work: Work[T], timeout: float = 30.0) -> T:
    """Runs a coroutine, a Deferred or a plain callable in the reactor's thread and returns its result.

    A callable may return a value, a coroutine or a Deferred. Raises what the work raises, and TimeoutError
    when it did not end within `timeout` seconds: the work is cancelled then.
    """
    if threading.current_thread() is _thread:
        raise RuntimeError("run() was called in the reactor's thread: await there instead")
    start()
    answer: Future[Any] = Future()
    _reactor().callFromThread(_begin, work, timeout, answer)
    try:
        result = answer.result(timeout + 5)
    except NoAnswer:
        raise TimeoutError(f"the reactor itself is stuck for {timeout + 5:g} s:\n{_where()}") from None
    if isinstance(result, Failure):
        result.raiseException()
    return result  # type: ignore[no-any-return]


def _reactor() -> Any:
    from twisted.internet import reactor  # late: importing it installs it

    return reactor


def _begin(work: Work[Any], timeout: float, answer: Future[Any]) -> None:
    def expired(result: object, seconds: float) -> object:
        raise TimeoutError(f"the test's work did not end within {seconds:g} s")

    deferred = maybeDeferred(_plain, work)
    deferred.addTimeout(timeout, _reactor(), onTimeoutCancel=expired)
    deferred.addBoth(answer.set_result)


def _plain(work: Work[Any]) -> Any:
    started = work() if callable(work) else work
    return Deferred.fromCoroutine(started) if inspect.iscoroutine(started) else started


def _where() -> str:
    frame = sys._current_frames().get(_thread.ident or 0) if _thread is not None else None
    return "".join(traceback.format_stack(frame)) if frame is not None else "(its thread has ended)"
