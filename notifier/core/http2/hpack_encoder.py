"""Requests into header blocks (RFC 7541): constants take a byte after their first use, of what varies the
name does. A model of the peer's table says what it knows; nothing in use is ever pushed out of it."""

from typing import Final

from notifier.core.http2.hpack_decoder import DEFAULT_TABLE
from notifier.core.http2.hpack_static import STATIC_FIELDS, STATIC_NAMES, STATIC_SIZE, Field, entry_size
from notifier.core.http2.template import HeaderField, Indexing, Template

# A full table holds what is no longer said: old credentials, kinds of requests that are over. It is emptied,
# and filled anew by need; but not at every block, should more be in use than it holds.
_BLOCKS_BETWEEN_RESETS: Final = 1000


class Encoder:
    """`limit`: the largest table that we use, in octets, whatever the peer allows; 0 uses none."""

    def __init__(self, limit: int = DEFAULT_TABLE) -> None:
        self._limit = limit
        self._peer_max = DEFAULT_TABLE  # until its SETTINGS say otherwise
        self._max = DEFAULT_TABLE  # as the peer's decoder knows it
        self._entries: list[Field] = []  # oldest first
        self._fields: dict[Field, int] = {}
        self._names: dict[bytes, int] = {}
        self._room = min(limit, DEFAULT_TABLE)
        self._update = b""  # for the next block to begin with
        self._blocks = 0  # blocks since the table was empty
        self.version = 0
        """Grows whenever blocks become different: what was remembered of them is void."""
        if limit < DEFAULT_TABLE:
            self._reset()

    def obey(self, table_size: int) -> None:
        """The peer's SETTINGS_HEADER_TABLE_SIZE, when it comes and whenever it changes."""
        if table_size == self._peer_max:
            return
        self._peer_max = table_size
        if min(table_size, self._limit) != self._max:
            self._reset()

    def encode(self, template: Template, values: tuple[bytes, ...]) -> bytes:
        """The next block to be sent. `values`: of the fields that vary, in the template's order."""
        start, self._update = self._update, b""
        self._blocks += 1
        if self._worth_a_reset(template, values):
            self._reset()
            start, self._update = self._update, b""
        return start + b"".join(self._pieces(template, values))

    def pattern(self, template: Template, lengths: tuple[int, ...]) -> list[bytes] | None:
        """What stands before, between and behind values of these lengths, as long as `version` stays.

        None while the next block would teach the peer something.
        """
        values = tuple(map(bytes, lengths))
        missing = self._missing(template, values)
        if self._update or any(self._fits(*field) for field in missing):
            return None
        pieces = self._pieces(template, values)
        return pieces[::2]

    def _pieces(self, template: Template, values: tuple[bytes, ...]) -> list[bytes]:
        """The parts of a block: by turns what we say and, at odd places, the values that vary."""
        pieces, said, given = [], b"", iter(values)
        for field in template.fields:
            if field.value is not None:
                said += self._constant(field.name, field.value, field.indexing)
                continue
            value = next(given)
            said += self._head(field, value) + integer(len(field.prefix) + len(value), 0x7F, 0) + field.prefix
            pieces += [said, value]
            said = b""
        pieces.append(said)
        return pieces

    def _constant(self, name: bytes, value: bytes, indexing: Indexing) -> bytes:
        if indexing is Indexing.INDEXED:
            index = self._index_of((name, value))
            if index:
                return integer(index, 0x7F, 0x80)
            if not self._fits(name, value):
                indexing = Indexing.WITHOUT
        literal = self._name(name, indexing) + integer(len(value), 0x7F, 0) + value
        if indexing is Indexing.INDEXED:
            self._insert(name, value)
        return literal

    def _head(self, field: HeaderField, value: bytes) -> bytes:
        """The start of a varying field. The first of its name is inserted for the sake of the name."""
        name, indexing = field.name, field.indexing
        if indexing is Indexing.WITHOUT and not self._index_of_name(name):
            value = field.prefix + value
            if self._fits(name, value):
                head = self._name(name, Indexing.INDEXED)
                self._insert(name, value)
                return head
        return self._name(name, indexing)

    def _name(self, name: bytes, indexing: Indexing) -> bytes:
        mask = 0x3F if indexing is Indexing.INDEXED else 0x0F
        index = self._index_of_name(name)
        if index:
            return integer(index, mask, indexing)
        return bytes((indexing,)) + integer(len(name), 0x7F, 0) + name

    # --- The model of the peer's table ---

    def _index_of(self, field: Field) -> int:
        at = self._fields.get(field)
        return STATIC_FIELDS.get(field, 0) if at is None else STATIC_SIZE + len(self._entries) - at

    def _index_of_name(self, name: bytes) -> int:
        index = STATIC_NAMES.get(name, 0)
        if index:
            return index
        at = self._names.get(name)
        return 0 if at is None else STATIC_SIZE + len(self._entries) - at

    def _fits(self, name: bytes, value: bytes) -> bool:
        return entry_size(name, value) <= self._room

    def _insert(self, name: bytes, value: bytes) -> None:
        self._fields[name, value] = self._names[name] = len(self._entries)
        self._entries.append((name, value))
        self._room -= entry_size(name, value)
        self.version += 1

    def _missing(self, template: Template, values: tuple[bytes, ...]) -> list[Field]:
        """What should be in the table for these requests and is not."""
        given = iter(values)
        missing = []
        for field in template.fields:
            if field.value is None:
                value = field.prefix + next(given)
                known = field.indexing is Indexing.NEVER or self._index_of_name(field.name)
            else:
                value = field.value
                known = field.indexing is Indexing.NEVER or self._index_of((field.name, value))
            if not known:
                missing.append((field.name, value))
        return missing

    def _worth_a_reset(self, template: Template, values: tuple[bytes, ...]) -> bool:
        if self._blocks <= _BLOCKS_BETWEEN_RESETS or not self._entries:
            return False
        return not all(self._fits(*field) for field in self._missing(template, values))

    def _reset(self) -> None:
        """Empties the table by size 0, then sets the size that is to be (RFC 7541 4.2, 6.3)."""
        self._max = min(self._peer_max, self._limit)
        self._update = integer(0, 0x1F, 0x20) + (integer(self._max, 0x1F, 0x20) if self._max else b"")
        self._entries.clear()
        self._fields.clear()
        self._names.clear()
        self._room = self._max
        self._blocks = 0
        self.version += 1


def integer(value: int, mask: int, first: int) -> bytes:
    """`value` in the bits of `mask` beside those of `first`, and in more bytes if need be (RFC 7541 5.1)."""
    if value < mask:
        return bytes((first | value,))
    encoded = bytearray((first | mask,))
    value -= mask
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
