"""A cache's folder: made, and held by one builder at a time."""

import fcntl
import logging
import os
import socket
import time
from contextlib import contextmanager

logger = logging.getLogger(__name__)


def make_folder(folder):
    """Make a cache's folder, where it is not there."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"feature cache {folder}: cannot be made ({error.strerror}): "
            "choose another folder",
        ) from error


@contextmanager
def locked(folder):
    """One builder at a time; the kernel frees the lock of a killed one."""
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            logger.warning(
                "feature cache %s: waiting for %s",
                folder,
                lock.read().strip() or "another process",
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        since = time.strftime("%H:%M:%S")
        lock.write(
            f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
        )
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)
