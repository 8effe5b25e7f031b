"""Header blocks of the peer into fields (RFC 7541). With a table of size 0, which we ask for, blocks are
independent of each other, and whoever needs only the status may leave the rest of a block unread."""

from collections import deque
from typing import Final

from notifier.core.http2 import huffman
from notifier.core.http2.hpack_static import STATIC, STATIC_SIZE, Field, entry_size

DEFAULT_TABLE: Final = 4096  # RFC 9113 6.5.2

_INTEGER_MAX: Final = 1 << 24  # no index or length may be near; RFC 7541 5.1 wants a bound


class BadBlock(ValueError):
    """A block that cannot be decoded: the tables of both ends differ from now on."""


class ListTooLong(ValueError):
    """A block whose fields take more than we take."""


class Decoder:
    """`allowed`: the largest table in octets that the peer may use, as our acknowledged SETTINGS say.
    `list_max`: the largest header list in octets, counted as in RFC 9113 6.5.2.
    """

    __slots__ = ("_size", "_table", "allowed", "list_max", "table_max")

    def __init__(self, list_max: int, allowed: int = DEFAULT_TABLE) -> None:
        self.allowed = allowed
        self.list_max = list_max
        # A peer must shrink its table in the first block after it has acknowledged a smaller limit, and we
        # might close if it does not (RFC 9113 4.3.1). Servers without a table never say so, and others take
        # time: what they had is kept, and blocks are read with it, until they say.
        self.table_max = DEFAULT_TABLE
        self._table: deque[Field] = deque()
        self._size = 0

    @property
    def stateless(self) -> bool:
        """No block says anything about another: the peer has given up its table."""
        return not self.table_max

    @property
    def size(self) -> int:
        """Octets that the dynamic table takes."""
        return self._size

    def decode(self, block: bytes) -> list[Field]:
        """The fields of `block` in order. Raises BadBlock or ListTooLong; then no block can be decoded any more."""
        fields: list[Field] = []
        at, room = 0, self.list_max
        try:
            while at < len(block):
                first = block[at]
                if first & 0xE0 == 0x20:
                    at = self._resize(block, at, bool(fields))
                    continue
                field, at = self._field(block, at, first)
                room -= entry_size(*field)
                if room < 0:
                    raise ListTooLong(f"a header list is over {self.list_max} octets")
                fields.append(field)
        except IndexError:
            raise BadBlock("a header block ends in the middle of a field") from None
        return fields

    def _field(self, block: bytes, at: int, first: int) -> tuple[Field, int]:
        if first & 0x80:  # RFC 7541 6.1
            index, at = _integer(block, at, 0x7F)
            return self._entry(index), at
        remembered = first & 0x40  # 6.2.1; else 6.2.2 and 6.2.3, which differ for who forwards fields
        index, at = _integer(block, at, 0x3F if remembered else 0x0F)
        if index:
            name = self._entry(index)[0]
        else:
            name, at = _string(block, at)
        value, at = _string(block, at)
        if remembered:
            self._remember(name, value)
        return (name, value), at

    def _entry(self, index: int) -> Field:
        if 0 < index <= STATIC_SIZE:
            return STATIC[index - 1]
        if index and index - STATIC_SIZE <= len(self._table):
            return self._table[index - STATIC_SIZE - 1]
        raise BadBlock(f"a header block names entry {index}, which is not in the tables")  # 2.3.3

    def _remember(self, name: bytes, value: bytes) -> None:
        size = entry_size(name, value)
        self._shrink(self.table_max - size)
        if size <= self.table_max:  # a larger one only empties the table (4.4)
            self._table.appendleft((name, value))
            self._size += size

    def _resize(self, block: bytes, at: int, late: bool) -> int:
        if late:
            raise BadBlock("the size of the table changes in the middle of a header block")  # 4.2
        size, at = _integer(block, at, 0x1F)
        if size > self.allowed:  # 6.3
            raise BadBlock(f"the peer wants a table of {size} octets, allowed are {self.allowed}")
        self.table_max = size
        self._shrink(size)
        return at

    def _shrink(self, size: int) -> None:
        while self._table and self._size > size:
            self._size -= entry_size(*self._table.pop())


def _integer(block: bytes, at: int, mask: int) -> tuple[int, int]:
    """The integer at `at` and where it ends (RFC 7541 5.1). IndexError if the block ends before."""
    value = block[at] & mask
    at += 1
    if value < mask:
        return value, at
    shift = 0
    while True:
        byte = block[at]
        at += 1
        value += (byte & 0x7F) << shift
        if value > _INTEGER_MAX or shift > 28:
            raise BadBlock("a header block holds an integer out of all proportion")
        if byte < 0x80:
            return value, at
        shift += 7


def _string(block: bytes, at: int) -> tuple[bytes, int]:
    """The string at `at` and where it ends (RFC 7541 5.2). IndexError if the block ends before."""
    coded = block[at] & 0x80
    size, at = _integer(block, at, 0x7F)
    end = at + size
    if end > len(block):
        raise BadBlock("a string reaches beyond its header block")
    text = block[at:end]
    if not coded:
        return text, end
    try:
        return huffman.decode(text), end
    except ValueError as fault:
        raise BadBlock(str(fault)) from None
