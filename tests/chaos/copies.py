"""What a client holds of its inbox, by the rules of the protocol, and every breach of them that it notices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

Message = dict[str, Any]


class Row(NamedTuple):
    """One notification as a client or an inbox has it."""

    seq: int
    id: str
    read: bool


@dataclass
class Copy:
    """A client's list and its place. `faults`: what the server may never do, in words."""

    rows: dict[str, Row] = field(default_factory=dict)
    epoch: str | None = None
    seq: int = 0
    faults: list[str] = field(default_factory=list)
    resyncs: int = 0
    # epochs: of a place that was gone, and of the one that came for it
    moves: list[tuple[str, str]] = field(default_factory=list)
    resumes: int = 0
    _settled: bool = False  # nothing is missing before `seq`: a live change moves the place
    _greeted: bool = False
    _gone: str | None = None  # the epoch of a place of which a resync said that it is gone
    _last: int = 0  # highest seq heard on this connection since it began or was told to load anew
    _moved: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Between two changes, with no `upto` owed."""
        return self._greeted and self._settled

    def connected(self) -> tuple[str | None, int]:
        """A connection begins: the (epoch, after) to send."""
        self._greeted = self._settled = False
        if self.epoch is None:
            self.rows.clear()  # everything follows, but not what was taken back since
            self._last = 0
            return None, 0
        self.resumes += 1
        self._last = self.seq
        return self.epoch, self.seq

    def apply(self, message: Message) -> int:
        """One message of the server; the seq to acknowledge, or 0."""
        kind = message["type"]
        if not self._greeted:
            if kind != "ready":
                self.faults.append(f"{kind} before ready")
            self._greeted = True
            return 0
        if kind == "resync":
            self.rows.clear()
            self._moved.clear()
            self.resyncs += 1
            self._gone = self.epoch
            self._settled, self._last = False, 0
        elif kind == "upto":
            self._upto(message)
        elif "seq" in message:
            return self._change(kind, message)
        return 0

    def _upto(self, message: Message) -> None:
        if message["seq"] < self._last:
            self.faults.append(f"upto {message['seq']} after seq {self._last}")
        self.epoch, self.seq = message["epoch"], message["seq"]
        if self._gone is not None:
            self.moves.append((self._gone, self.epoch))
            self._gone = None
        self._last, self._settled = message["seq"], True
        self._drop_below(message["floor"])

    def _change(self, kind: str, message: Message) -> int:
        seq = message["seq"]
        if seq <= self._last:
            self.faults.append(f"{kind} {seq} after seq {self._last}")
        if seq != self._last + 1:
            self._settled = False  # a hole: legal in a resume, which ends with upto
        self._last = seq
        if self._settled:
            self.seq = seq
        self._carry_out(kind, message)
        self._drop_below(message["floor"])
        return seq if kind == "notification" else 0

    def _carry_out(self, kind: str, message: Message) -> None:
        if kind == "notification":
            self._add(message["seq"], message)
        elif kind == "retract":
            self.rows.pop(message["id"], None)
        elif kind == "deleted":
            for nid in message["ids"]:
                self.rows.pop(nid, None)
        elif kind == "read":
            for nid in message["ids"]:
                if nid in self.rows:
                    self.rows[nid] = self.rows[nid]._replace(read=True)

    def _add(self, seq: int, message: Message) -> None:
        nid = message["id"]
        if self._moved.setdefault(nid, seq) != seq:
            self.faults.append(f"{nid} came as seq {self._moved[nid]} and again as {seq}")
        self.rows[nid] = Row(seq, nid, message["read"])

    def _drop_below(self, floor: int) -> None:
        if floor and any(row.seq <= floor for row in self.rows.values()):
            self.rows = {nid: row for nid, row in self.rows.items() if row.seq > floor}

    def listed(self) -> list[Row]:
        """The rows in the order of the inbox."""
        return sorted(self.rows.values())
