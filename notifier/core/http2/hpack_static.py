"""The fields that both ends of HPACK know from the start (RFC 7541 Appendix A)."""

from typing import Final, TypeAlias

Field: TypeAlias = tuple[bytes, bytes]
"""(name, value)"""

# One line each: the name, then its values. Names without a value stand alone.
_ROWS: Final = """
:authority
:method GET POST
:path / /index.html
:scheme http https
:status 200 204 206 304 400 404 500
accept-charset
accept-encoding gzip,_deflate
accept-language
accept-ranges
accept
access-control-allow-origin
age
allow
authorization
cache-control
content-disposition
content-encoding
content-language
content-length
content-location
content-range
content-type
cookie
date
etag
expect
expires
from
host
if-match
if-modified-since
if-none-match
if-range
if-unmodified-since
last-modified
link
location
max-forwards
proxy-authenticate
proxy-authorization
range
referer
refresh
retry-after
server
set-cookie
strict-transport-security
transfer-encoding
user-agent
vary
via
www-authenticate
"""


def _fields() -> tuple[Field, ...]:
    rows = (row.encode().split(b" ") for row in _ROWS.split("\n") if row)
    return tuple((name, value.replace(b"_", b" ")) for name, *values in rows for value in values or [b""])


STATIC: Final = _fields()
"""Index 1 of the wire is element 0."""

STATIC_SIZE: Final = len(STATIC)
STATIC_FIELDS: Final = {field: at for at, field in enumerate(STATIC, 1)}
# The first of several entries with a name, as every encoder in the field has it.
STATIC_NAMES: Final = {name: at for at, (name, _) in reversed(tuple(enumerate(STATIC, 1)))}

ENTRY_OVERHEAD: Final = 32  # octets, RFC 7541 4.1


def entry_size(name: bytes, value: bytes) -> int:
    """What an entry takes of a dynamic table, and a field of a header list (RFC 7541 4.1, RFC 9113 6.5.2)."""
    return len(name) + len(value) + ENTRY_OVERHEAD
