"""What disks do: errors that name the file and the mend, and leftovers.

Some are found by errors, and some by locks: what is not whole yet is held, so
that what a killed process left is known.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

if os.name == "posix":
    import fcntl

# What a person can mend about a disk, and how.
MENDS = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota there",
    errno.EFBIG: "Choose another disk, or raise your limit (ulimit -f)",
    errno.ENOENT: "Make its folder",
    errno.EACCES: "Get the right to write there or choose another folder",
    errno.EPERM: "Get the right to write there or choose another folder",
    errno.EROFS: "Choose a folder that is not read-only",
    errno.EIO: "Look after the disk",
}
# What torch's writer says of a disk that took no more, at once or at the end.
TORCH_WRITER = re.compile("inline_container|iostream error")
# Seconds in which whoever made an unfinished file or folder comes to hold it,
# and how exact a disk's times may be.
MOMENT, JUST_MADE = 0.2, 2


class WriteError(OSError):
    """Something could not be written: names the file and the mend."""


@contextlib.contextmanager
def writing(
    path: str | os.PathLike, temporary: str | os.PathLike | None = None
) -> Iterator[None]:
    """Say of an error in writing which file it was, and what helps.

    Arguments
    ---------
    path : str or Path
        The file or folder that is written in the block.
    temporary : str or Path or None
        Under which name, until it is whole.

    Raises
    ------
    WriteError
        Where the disk failed, whoever noticed: libraries tell a full one
        without a file's name, or by errors of their own. All else is raised
        as it is, such as an error over a file elsewhere.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number, why = _disk_error(error)
        # Of a copy or a rename, what comes, not what it comes from.
        about = getattr(error, "filename2", None)
        about = about or getattr(error, "filename", None)
        if number is None or not _is_ours(about, path, temporary):
            raise
        mend = MENDS.get(number, "Choose another folder")
        raise WriteError(
            number,
            f"could not be written ({why}); what stood there before is "
            f"untouched. {mend}, then start the same command again",
            os.fspath(path),
        ) from error


def _is_ours(about, path, temporary):
    """Whether an error is over what is written: it, in it, or no name."""
    if about is None or not isinstance(about, (str, os.PathLike)):
        return about is None
    about, path = os.path.abspath(about), os.path.abspath(path)
    names = {path, os.path.abspath(temporary or path), os.path.dirname(path)}
    unfinished = (f"{path}{os.sep}", f"{path}.")
    return about in names or about.startswith(unfinished)


def _disk_error(error):
    """The number and words of what a disk said, or None."""
    if isinstance(error, OSError):
        return error.errno, error.strerror
    # What is written in Rust says so, torch's writer no more than that.
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found[1]), os.strerror(int(found[1]))
    if isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)):
        return errno.ENOSPC, "torch could not write all of it"
    return None, ""


def tidy(path: Path) -> None:
    """Remove what killed writers of a file left beside it."""
    for left in abandoned(path.parent, f".{glob.escape(path.name)}.*.tmp"):
        remove(left)


@contextlib.contextmanager
def held(path: str | os.PathLike) -> Iterator[None]:
    """Hold an unfinished file or folder; the kernel frees a killed one's."""
    with contextlib.ExitStack() as stack:
        # Some network disks have no locks: what is left there stays.
        with contextlib.suppress(OSError):
            stack.callback(os.close, _locked(path))
        yield


def _locked(path):
    """A handle of a file or folder, locked (OSError where it cannot be)."""
    if os.name != "posix":
        raise OSError("no locks here")
    is_dir = os.path.isdir(path)
    handle = os.open(path, os.O_RDONLY if is_dir else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def abandoned(folder: Path, pattern: str) -> list[Path]:
    """Unfinished files and folders of a name that nobody holds any more."""
    there, found = list(folder.glob(pattern)), []
    # Some may be about to be held.
    if any(map(_is_new, there)):
        time.sleep(MOMENT)
    for path in there:
        with contextlib.suppress(OSError):
            os.close(_locked(path))
            found.append(path)
    return found


def _is_new(path):
    """Whether a file or folder was made, or filled, just now."""
    with contextlib.suppress(OSError):
        return abs(time.time() - path.stat().st_mtime) < JUST_MADE
    return False


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
