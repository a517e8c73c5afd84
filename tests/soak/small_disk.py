"""A disk of a fixed size, read-only or not, and folders of other users.

Linux only, and root's: a tmpfs in a mount namespace of this process's own,
which goes with it, however it ends.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
NEW_NAMESPACE, READ_ONLY, REMOUNT = 0x00020000, 1, 32
PRIVATE = (1 << 18) | 16384  # of all mounts below
PAGE = 4096
# Linux's capabilities by which root passes over permissions.
OVERRIDE = 0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
SOMEBODY = 65534


def _mount(kind, place, flags, told=None):
    """mount(2); OSError where it is refused."""
    told = told and told.encode()
    what = kind and kind.encode()
    if LIBC.mount(what, str(place).encode(), what, flags, told):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(place))


class SmallDisk:
    """A tmpfs at a folder; sizes are in bytes."""

    WIDE = 512 << 20

    def __init__(self, place: Path):
        self.place = place
        place.mkdir(parents=True, exist_ok=True)
        if LIBC.unshare(NEW_NAMESPACE):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        _mount(None, "/", PRIVATE)
        _mount("tmpfs", place, 0, f"size={self.WIDE},mode=755")

    def resize(self, size: int = WIDE, read_only: bool = False) -> None:
        """Another size, or nothing more to be written."""
        flags = REMOUNT | (READ_ONLY if read_only else 0)
        size = -(-size // PAGE) * PAGE
        _mount("tmpfs", self.place, flags, f"size={size}")

    @property
    def used(self) -> int:
        """Bytes in use."""
        told = os.statvfs(self.place)
        return (told.f_blocks - told.f_bfree) * told.f_frsize

    def empty(self) -> None:
        """Take everything away, and give all the room back."""
        self.resize()
        for path in self.place.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def obey_permissions() -> None:
    """Take root's power over permissions from this process."""
    head = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    if LIBC.capget(head, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~OVERRIDE  # effective
    sets[1] &= ~OVERRIDE  # permitted
    if LIBC.capset(head, sets):
        raise OSError(ctypes.get_errno(), "capset")


def give_away(folder: Path) -> None:
    """Another user owns all of a folder from now on."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
