"""How many scans a JPEG has: each costs its decoder a pass over all of the picture, and may be a dozen bytes long."""

from __future__ import annotations

import re
from typing import Final

MOST: Final = 32
"""Scans that are let in; encoders make up to 18, of CMYK."""

_START: Final = b"\xff\xd8"
_SCAN: Final = 0xDA
_END: Final = 0xD9
# ITU-T T.81 section B.1.1.2 to B.1.1.5: FF fills, 00 makes a byte of the picture's data of it, D0 to D7 restart within.
_MARKER: Final = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
_BARE: Final = frozenset({0x01, 0xD8})  # markers without a segment behind them: table B.1


def too_many_scans(data: bytes) -> bool:
    """Whether a file is a JPEG of more than `MOST` scans. What stands behind its end does not count."""
    if not data.startswith(_START):
        return False
    scans, at = 0, len(_START)
    while (found := _MARKER.search(data, at)) is not None and (marker := found[1][0]) != _END:
        scans += marker == _SCAN
        if scans > MOST:
            return True
        at = found.end()
        if marker not in _BARE:
            # The length counts itself; a smaller one is skipped as that, as libjpeg does.
            at += max(2, int.from_bytes(data[at : at + 2], "big"))
    return False
