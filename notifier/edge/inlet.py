"""Reads what WebSocket clients send: many sockets in one turn of the reactor (docs/performance.md says what it gains).
Twisted keeps the transports. It reads again itself where anything but data comes: an end, an error, a close."""

import select
from typing import Any, Final, Protocol

from twisted.logger import Logger

from notifier.edge.direct import is_plain, unsent

log = Logger()

GATHER: Final = 0.005  # s: how long words wait for company, while turns come less than twice this apart
AT_ONCE: Final = 256  # sockets in one turn; the rest come in the next one
READ_SIZE: Final = 4096  # bytes: a receipt has 40, and a client that floods us gets no more than its share


class Speaker(Protocol):
    """A connection whose bytes are read here. `descriptor`: its file descriptor while they are, else -1."""

    descriptor: int
    transport: Any

    def dataReceived(self, data: bytes) -> None: ...


class Inlet:
    """An epoll of our own inside the reactor's: one event there stands for all sockets that have something to say.

    Many that speak wake the reactor 200 times a second, all together: 4 000 receipts a second that come one by one cost
    10 us each instead of 44. Where there is no epoll, nothing is taken and Twisted reads as ever.
    A connection here has nothing unsent: while Twisted waits to write, and not to read, it takes a reset for the end
    without a look at what the client said before.
    """

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self._poll: Any = None
        self._speakers: dict[int, Speaker] = {}
        self._watching = False  # the reactor wakes us
        self._timer: Any = None  # we wake ourselves
        self._heard = 0.0  # when somebody last spoke, in the reactor's time
        self._stopped = not hasattr(select, "epoll")

    # -- who is read

    def take(self, speaker: Speaker) -> None:
        """Read this connection from now on, if its transport is plain TCP and has nothing unsent."""
        transport = speaker.transport
        if self._stopped or not is_plain(transport) or not transport.connected or unsent(transport):
            return
        descriptor = transport.fileno()
        try:
            if self._poll is None:
                self._poll = select.epoll()
            self._poll.register(descriptor, select.EPOLLIN)
        except OSError:
            return  # no descriptor is left, or no memory: Twisted goes on reading
        transport.stopReading()
        speaker.descriptor = descriptor
        self._speakers[descriptor] = speaker
        if self._timer is None:
            self._watch()

    def give_back(self, speaker: Speaker) -> None:
        """Let Twisted read again; it meets whatever is there: unread bytes, an end, an error."""
        if speaker.descriptor < 0:
            return
        self._poll.unregister(speaker.descriptor)
        self.forget(speaker)
        speaker.transport.startReading()

    def forget(self, speaker: Speaker) -> None:
        """The connection is gone, and its descriptor with it."""
        if speaker.descriptor >= 0:
            del self._speakers[speaker.descriptor]
            speaker.descriptor = -1
            if not self._speakers:
                self._rest()

    def stop(self) -> None:
        """Read nobody any more."""
        self._stopped = True
        for speaker in list(self._speakers.values()):
            self.give_back(speaker)

    def _give_up(self) -> None:
        if not self._stopped:
            log.warn("Twisted reads all WebSockets from now on, which costs more CPU, until the next start")
        self.stop()

    # -- when

    def _watch(self) -> None:
        if not self._watching:
            self._watching = True
            self.reactor.addReader(self)

    def _rest(self) -> None:
        """Nobody is left: leave no trace in the reactor."""
        if self._watching:
            self._watching = False
            self.reactor.removeReader(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._poll.close()
        self._poll = None

    def _gathered(self) -> None:
        self._timer = None
        try:
            self._turn()
        except BaseException:  # the reactor does the same for what it reads: nobody may stay unheard over it
            log.failure("while reading WebSockets")
            self._give_up()

    def _turn(self) -> None:
        """Read; then let the reactor wake us, or, when turns follow each other closely, wait a little for company."""
        heard, more = self._hear()
        if not self._speakers:
            return
        closely = False
        if heard:
            now = self.reactor.seconds()
            closely, self._heard = now - self._heard < 2 * GATHER, now
        if not closely and not more:
            self._watch()
            return
        if self._watching:
            self._watching = False
            self.reactor.removeReader(self)
        if self._timer is None:
            self._timer = self.reactor.callLater(0 if more else GATHER, self._gathered)

    def _hear(self) -> tuple[bool, bool]:
        """Take in what has come: was there anything, and is there more for sure?"""
        speakers = self._speakers
        ready = self._poll.poll(0, AT_ONCE)
        more = len(ready) == AT_ONCE
        for descriptor, _ in ready:
            speaker = speakers.get(descriptor)
            if speaker is None:
                continue  # one before it in this turn has ended it
            try:
                data = speaker.transport.socket.recv(READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            if not data:
                self.give_back(speaker)
                continue
            more = more or len(data) == READ_SIZE
            try:
                speaker.dataReceived(data)
            except (
                Exception
            ):  # a bug ends this connection, as it would if Twisted had called; the others go on
                log.failure("while reading a WebSocket")
                speaker.transport.abortConnection()
        return bool(ready), more

    # -- Twisted's descriptor interface

    def fileno(self) -> int:
        return -1 if self._poll is None else int(self._poll.fileno())

    def doRead(self) -> None:
        self._turn()

    def logPrefix(self) -> str:
        return "inlet"

    def connectionLost(self, reason: Any) -> None:
        """The reactor lets go of us, at its end or over a bug of ours: Twisted reads for everybody."""
        self._watching = False
        self._give_up()
