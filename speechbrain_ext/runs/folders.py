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

from speechbrain_ext.runs.files import sync_folder, writing

UNFINISHED, LOCK = "unfinished", "lock"
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
        _sweep(folder)
        unfinished, held = _begin(folder)
        try:
            yield str(unfinished)
            _usual_rights(unfinished)
            sync(unfinished)
            _put(unfinished, folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
            os.close(held)


def _begin(folder):
    """A new folder that is told from what a killed process left."""
    while True:
        unfinished = _beside(folder)
        unfinished.mkdir(parents=True)
        held = _hold(unfinished)
        # Another may have swept it before it was held.
        if held is not None and unfinished.exists():
            return unfinished, held


def _beside(folder):
    return folder.with_name(
        f"{folder.name}.{UNFINISHED}-{uuid.uuid4().hex[:8]}"
    )


def _hold(folder):
    """Lock a folder as long as we live; None where another lives."""
    handle = os.open(folder, os.O_RDONLY)
    if _locked(handle, "flock"):
        return handle
    os.close(handle)
    return None


def _locked(handle, how):
    """Whether a lock is this process's now, or there are none on this disk."""
    try:
        import fcntl

        getattr(fcntl, how)(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except (ImportError, OSError):
        pass
    return True


def _sweep(folder):
    """Remove what killed processes left beside a folder."""
    pattern = f"{glob.escape(folder.name)}.{UNFINISHED}-*"
    for left in folder.parent.glob(pattern):
        with contextlib.suppress(OSError):
            held = _hold(left)
            if held is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(held)


def _usual_rights(folder):
    """safetensors leaves files that only their owner may read; undo that."""
    mask = os.umask(0)
    os.umask(mask)
    for path in filter(Path.is_file, folder.rglob("*")):
        path.chmod(path.stat().st_mode | 0o666 & ~mask)


def sync(folder: str | os.PathLike) -> None:
    """Bring all files below a folder, and their names, to the disk."""
    for top, _, names in os.walk(str(folder)):
        for name in names:
            with open(os.path.join(top, name), "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(top)


def _put(unfinished, folder):
    """Give a folder its name; what has it already goes in one piece."""
    old = None
    if folder.is_dir():
        old = _beside(folder)
        os.rename(folder, old)
    try:
        os.rename(unfinished, folder)
    except OSError:
        if old:
            os.rename(old, folder)
        raise
    sync_folder(folder.parent)
    if old:
        shutil.rmtree(old, ignore_errors=True)


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
    while not _locked(stream, "lockf"):
        if time.monotonic() >= until:
            stream.seek(0)
            owner = stream.read().strip() or "another process"
            raise ValueError(
                f"{folder}: {owner} works there: wait until it has ended, "
                "end it, or give another run_name"
            )
        time.sleep(0.2)
