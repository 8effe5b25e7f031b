"""What stands behind pushes in memory (the rules of lua/look.lua), and what a handover gives to senders of its own
process."""

from collections.abc import Iterable, Mapping

from notifier.core import keys
from notifier.core.inbox import NOTIFICATION
from notifier.core.lanes import Lane, PushEntry, Row
from notifier.core.model import Device
from notifier.edge.memory_state import Box, ItemError, MemoryServer, line_of
from notifier.ports import Given, GroupLost, Looked, PushesRead, Seen


class Giving:
    """One handover: what it appends, by lane, and what it reads at its end. `rooms`: how many entries it may read."""

    def __init__(self, server: MemoryServer, tagged: str, rooms: Mapping[str, int], consumer: str) -> None:
        self.server, self.tagged, self.rooms, self.consumer = server, tagged, rooms, consumer
        self._made: dict[str, set[str]] = {}

    def push(self, lane: str, entry: PushEntry) -> None:
        made = self.server.push(keys.pushes(self.tagged, lane), entry)
        self._made.setdefault(lane, set()).add(made)

    def given(self) -> dict[str, Given | None]:
        """By lane."""
        return {lane: self._given(lane) for lane in self._made if lane in self.rooms}

    def _given(self, lane: str) -> Given | None:
        server = self.server
        stream = server.lane(keys.pushes(self.tagged, lane))
        try:
            entries = stream.read(server.now, self.rooms[lane], self.consumer)
        except GroupLost:
            return None
        mine = [one for one in entries if one.id in self._made[lane]]
        looked = [look_behind(server, lane, one) for one in mine]
        found = {one.entry.id: one for one in looked if one.row.standing == "row"}
        more = any(at > stream.ends["read"] for at in stream.entries)
        return Given(PushesRead(entries), Seen(server.now, server.run, found), more)


def look_behind(server: MemoryServer, lane: str, entry: PushEntry) -> Looked:
    """What stands behind an entry, with all devices that its person is listed with there."""
    try:
        server.hazard("look", entry.user, entry.notification)
        row = row_of(server.box(entry.user), entry.notification)
        if row.standing == "row":
            server.hazard("devices", entry.user, entry.notification)
    except ItemError as error:
        return Looked(entry, Row("broken", record=str(error)))
    if row.standing != "row":
        return Looked(entry, row)
    found = ordered((server.devices.get(entry.user) or {}).values())
    meant = (one for one in found if str(lane_of(one)) == lane and entry.device in ("", one.id))
    return Looked(entry, row, tuple(meant))


def row_of(box: Box | None, nid: str) -> Row:
    """What a push finds of a notification in somebody's inbox."""
    if box is None:
        return Row("forgotten")
    seq = box.places.get(nid, 0)
    record = box.records.get(seq)
    if record is None:
        return Row("trimmed")
    if record.kind != NOTIFICATION:
        return Row("retracted", seq)
    if record.read:
        return Row("read", seq)
    if seq <= box.seen:
        return Row("seen", seq)
    return Row("row", seq, f"{box.birth}.{box.run}", line_of(record), box.unread)


def lane_of(device: Device) -> Lane:
    return Lane(device.app, device.provider)


def ordered(devices: Iterable[Device]) -> tuple[Device, ...]:
    """Those registered longest ago first."""
    return tuple(sorted(devices, key=lambda one: (one.registered, one.id)))
