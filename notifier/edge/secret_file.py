"""Key files as an operator gives them: of bounded size, and secrets only when nobody but their owner may open them."""

import os
import struct
import sys
from pathlib import Path
from typing import Final

MAX_FILE_BYTES: Final = 65_536
OPEN: Final = "is a secret open to other users: chmod 600 it; if they read it, replace it"


class FileRefused(ValueError):
    """A file that must not be used; the text completes "FILE: ..."."""


def read(path: Path, *, secret: bool = False) -> bytes:
    """What is in it. `secret`: it must be closed to other users. Raises FileRefused."""
    try:
        with path.open("rb") as file:
            if secret and open_to_others(file.fileno()):
                raise FileRefused(OPEN)
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FileRefused(f"cannot be read ({reason}); check the path and its permissions") from None
    if len(data) > MAX_FILE_BYTES:
        raise FileRefused(f"is larger than {MAX_FILE_BYTES} bytes, so it is no key file; check the path")
    return data


def read_secret(path: Path) -> str:
    """The text of a secret file, without the white space around it. Raises OSError when it cannot be read, ValueError
    when others can read it too or it is no text."""
    with path.open("rb") as file:
        if open_to_others(file.fileno()):
            raise ValueError(f"{path} {OPEN}")
        data = file.read()
    try:
        return data.decode().strip()
    except UnicodeDecodeError:
        pass
    raise ValueError(f"{path} is not text in UTF-8")  # out here: the other error holds the bytes


def open_to_others(descriptor: int) -> bool:
    """May others than the owner read or write this open file? What an ACL grants to single users does not count."""
    mode = os.fstat(descriptor).st_mode & 0o077
    # systemd gives a credential to the service's user by an ACL (mode 0440, "r--r-----+"). With an ACL the
    # mode's group bits are only its mask: what groups may do stands in the entries.
    acl = _acl(descriptor) if mode else b""
    if not acl:
        return mode != 0
    entries = [(tag, permissions) for tag, permissions, _ in struct.iter_unpack("<HHI", acl[4:])]
    group_object, group, mask, other = 0x04, 0x08, 0x10, 0x20  # acl(5), linux/posix_acl_xattr.h
    allowed = next((permissions for tag, permissions in entries if tag == mask), 0o7)
    groups = any(permissions & allowed for tag, permissions in entries if tag in (group_object, group))
    return groups or any(permissions for tag, permissions in entries if tag == other)


def _acl(descriptor: int) -> bytes:
    if sys.platform != "linux":
        return b""
    try:
        return os.getxattr(descriptor, "system.posix_acl_access")
    except OSError:  # none set, or a file system without them: the mode then says it all
        return b""
