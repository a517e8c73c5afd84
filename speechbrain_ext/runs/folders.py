"""Folders that are whole or not there, and that one process works in."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from speechbrain_ext.runs.disks import abandoned, held, remove, writing
from speechbrain_ext.runs.files import sync, sync_folder

UNFINISHED, LOCK = "unfinished", "lock"
# How the name ends that a folder has while another takes its place.
BEFORE = "-before"
# Seconds to wait for another process that may be about to end.
PATIENCE = 30.0


@contextlib.contextmanager
def whole_folder(folder: str | os.PathLike) -> Iterator[str]:
    """A folder to fill, which gets its name if no error comes, or goes.

    Arguments
    ---------
    folder : str or Path
        Its final name; what stands there is replaced.

    Yields
    ------
    unfinished : str
        A new folder beside it. At the end of the block all in it is brought
        to the disk, so that not even a power cut leaves half of it.

    Raises
    ------
    OSError
        If it cannot be written: names the folder and what to do. What stood
        there before is untouched.
    """
    folder = Path(os.path.abspath(folder))
    with writing(folder):
        _tidy(folder)
        unfinished = folder.with_name(
            f"{folder.name}.{UNFINISHED}-{uuid.uuid4().hex[:8]}"
        )
        unfinished.mkdir(parents=True)
        try:
            with held(unfinished):
                yield str(unfinished)
                usual_rights(unfinished)
                sync(unfinished)
                _put(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)


def _tidy(folder):
    """Remove what a killed process left; what it was to replace is put back."""
    pattern = f"{glob.escape(folder.name)}.{UNFINISHED}-*"
    for left in abandoned(folder.parent, pattern):
        if left.name.endswith(BEFORE) and not folder.exists():
            os.rename(left, folder)
        else:
            remove(left)


def usual_rights(folder: str | os.PathLike) -> None:
    """Give files below a folder the rights that any new file has here.

    safetensors leaves files that only their owner may read.
    """
    # For the moment in which it has to be set to be read, nobody else's.
    mask = os.umask(0o077)
    os.umask(mask)
    for top, _, names in os.walk(os.fspath(folder)):
        for name in names:
            os.chmod(os.path.join(top, name), 0o666 & ~mask)


def _put(unfinished, folder):
    """Give a folder its name; what has it already goes in one piece."""
    # Not removed first: half of it could not be told from a whole.
    before = unfinished.with_name(unfinished.name + BEFORE)
    if folder.is_dir():
        os.rename(folder, before)
    try:
        os.rename(unfinished, folder)
    except OSError:
        if before.is_dir():
            os.rename(before, folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(before, ignore_errors=True)


@contextlib.contextmanager
def alone(folder: str | os.PathLike, patience: float = PATIENCE) -> Iterator:
    """Let no second process work in a folder.

    Arguments
    ---------
    folder : str or Path
        Of a run, say.
    patience : float
        Seconds to wait for the other to end.

    Raises
    ------
    ValueError
        If another process works there still: names it.
    """
    path = Path(folder, LOCK)
    with contextlib.ExitStack() as held:
        with writing(path):
            stream = held.enter_context(open(path, "a+"))
            _wait(stream, folder, patience)
            where = f"on {socket.gethostname()}"
            stream.truncate(0)
            stream.write(f"process {os.getpid()} {where}\n")
            stream.flush()
        yield


def _wait(stream, folder, patience):
    """Wait until a lock is ours, but not for ever."""
    until = time.monotonic() + patience
    # Not flock(), whose locks live on in processes that read data.
    while not _mine(stream):
        if time.monotonic() >= until:
            stream.seek(0)
            owner = stream.read().strip() or "another process"
            raise ValueError(
                f"{folder}: {owner} works there: wait until it has ended, "
                "end it, or give another run_name"
            )
        time.sleep(0.2)


def _mine(stream):
    """Whether a lock is this process's now; it goes when the process ends."""
    try:
        import fcntl

        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        pass  # no locks on this disk
    return True
