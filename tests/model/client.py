"""A client by the book: what it shows, its place, and what it must never be told."""

from __future__ import annotations

from tests.model.moves import Moves
from tests.model.nouns import READ, ROW, SEEN, TOMB, Mark, Place, Record
from tests.model.process import Message, Process, Session
from tests.model.rules import Broken


class Client:
    """One device of a person. active: its person looks at everything at once."""

    def __init__(self, state: Moves, user: str, active: bool, shown: set[tuple[str, str]]) -> None:
        self.state, self.rules, self.user, self.active, self.shown = state, state.rules, user, active, shown
        self.process: Process | None = None
        self.session: Session | None = None
        self.queue: list[Message] = []
        self.place: Place | None = None
        self.view: dict[str, tuple[int, bool]] = {}
        self.seen = self.last = self.marked = 0
        self.settled = False

    def connect(self, process: Process) -> None:
        self.drop()
        if self.rules["cut"] and self.place is not None and self.last > self.place.seq:
            self.place = None
        if self.place is None:
            self.view = {}
        self.settled, self.last = False, self.place.seq if self.place else 0
        self.process = process
        self.session = Session(self.state, process.name, self, self.place)
        process.sessions.append(self.session)

    def drop(self) -> None:
        """The line is cut: what was on it is lost."""
        if self.process is not None and self.session is not None:
            if self.session in self.process.sessions:
                self.process.sessions.remove(self.session)
                self.process.left.append(self.user)
            self.process = self.session = None
        self.queue = []

    def hear(self, message: Message) -> None:
        """Sent by the session: from then on a mark may count for it."""
        self.queue.append(message)
        if message[0] == "change" and message[3].kind == ROW:
            self.shown.add((self.user, message[3].id))

    def receive(self) -> None:
        """The next message on the line."""
        if self.queue:
            kind, *rest = self.queue.pop(0)
            getattr(self, f"_{kind}")(*rest)

    def _ready(self, place: Place) -> None:
        if self.place is not None and not self.rules["adopt"]:
            self.place = place._replace(seq=self.place.seq)

    def _resync(self) -> None:
        self.place, self.view, self.settled, self.last, self.marked = None, {}, False, 0, 0

    def _upto(self, place: Place, floor: int, seen: int) -> None:
        self.place, self.last, self.settled, self.seen = place, place.seq, True, seen
        self._forget_below(floor)

    def _change(self, seq: int, floor: int, record: Record) -> None:
        if seq <= self.last:
            raise Broken("ascending", f"{self.user} was told of seq {seq} after {self.last}")
        if seq != self.last + 1:
            self.settled = False
        self.last = seq
        if self.settled and self.place is not None:
            self.place = self.place._replace(seq=seq)
        self._show(seq, record)
        self._forget_below(floor)

    def _show(self, seq: int, record: Record) -> None:
        if record.kind == ROW:
            self.view[record.id] = (seq, record.read)
        elif record.kind == TOMB:
            self.view.pop(record.id, None)
        elif record.kind == SEEN:
            self.seen = record.upto
        else:
            for each in set(record.ids) & self.view.keys():
                self.view[each] = (self.view[each][0], True)

    def _forget_below(self, floor: int) -> None:
        if self.rules["floor"]:
            self.view = {name: row for name, row in self.view.items() if row[0] > floor}

    def mark(self, what: int) -> None:
        """What its person does: look, read all or one, delete one."""
        if self.process is None or self.session is None or self.place is None or not self.settled:
            return
        session = self.session
        upto = session.place._replace(seq=min(self.place.seq, session.place.seq))
        names = sorted(self.view)
        one = (names[what // 4 % len(names)],) if names else ()
        if what % 4 == 0 and one:
            self._send(Mark(self.user, TOMB, Place(0, 0, 0), one))
        elif what % 4 == 1 and one:
            self._send(Mark(self.user, READ, Place(0, 0, 0), one))
        elif what % 4 == 2:
            self._send(Mark(self.user, READ, upto))
        else:
            self.look()

    def look(self) -> bool:
        """Say up to where its person has looked; False when that is known."""
        if self.place is None or self.session is None or not self.settled or self.place.seq <= self.marked:
            return False
        self.marked = self.place.seq
        here = self.session.place
        self._send(Mark(self.user, SEEN, here._replace(seq=min(self.marked, here.seq))))
        return True

    def _send(self, mark: Mark) -> None:
        if self.process is not None:
            self.process.marks.append(mark)
