"""A child that is killed at a moment of its own work on files. Linux only.

Everything is imported before; a child is a copy of this process (fork), so
that a case takes the time of its work alone. A moment is the n-th operation
on files below a folder: a file about to be opened for writing, just opened
(there, empty), half written by a library that opens it itself, brought to the
disk, renamed, removed, a folder made. Children of a child count with it.
"""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import io
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

from soak.forks import fork

# A child that hangs is a fault.
PATIENCE = 300.0
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
EVENTS = ("os.rename", "os.remove", "os.rmdir", "os.mkdir")
# Whose writers of tensors open their files by themselves.
LIBRARIES = ("speechbrain", "speechllm", "peft", "transformers", "safetensors")


@dataclass(frozen=True)
class Moment:
    """At the n-th operation at once, or so many seconds after it.

    0 is the start. ``victim`` is all processes, the first one alone, or that
    one of those it started which comes there.
    """

    number: int
    after: float | None = None
    victim: str = "all"

    def __str__(self):
        when = f"at operation {self.number}"
        if self.after is not None:
            when = f"{1000 * self.after:.0f} ms after operation {self.number}"
        return when + ("" if self.victim == "all" else f", {self.victim}")


@dataclass(frozen=True)
class Ended:
    """How a child ended: whether killed, after what, with what last words."""

    status: int
    killed: bool
    operations: int
    seconds: float
    said: str


def run_child(
    work: Callable[[], object],
    folder: Path,
    aside: Path,
    moment: Moment | None = None,
) -> Ended:
    """Do some work in a copy of this process, which may be killed.

    ``aside`` is a folder for what it says and counts, apart from the work's.
    """
    aside.mkdir(parents=True, exist_ok=True)
    said, count = aside / "said", aside / "count"
    count.write_bytes(b"")
    Path(f"{count}.told").unlink(missing_ok=True)
    reached, tell = os.pipe()
    began = time.monotonic()

    def begun():
        os.close(reached)
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        # Where it hangs is told before it is ended.
        faulthandler.dump_traceback_later(PATIENCE - 10, file=2)
        _Moments(folder, count, moment, tell).begin()
        return work()

    child = fork(begun, said)
    os.close(tell)
    try:
        status, victim = _watch(child, reached, moment)
    except TimeoutError as error:
        last = said.read_text(errors="replace")[-3000:]
        raise TimeoutError(f"{error}, {moment}: {last}") from error
    if victim == child:
        victim = status == -signal.SIGKILL
    return Ended(
        status,
        bool(victim),
        count.stat().st_size,
        time.monotonic() - began,
        said.read_text(errors="replace") if said.exists() else "",
    )


def _watch(child, reached, moment):
    """Kill whom a child tells, a while after; its status, and who it was."""
    victim, until = 0, time.monotonic() + PATIENCE
    ready, _, _ = select.select([reached], [], [], PATIENCE)
    told = os.read(reached, 8) if ready else b""
    if told:
        victim = int.from_bytes(told, "big")
        time.sleep(moment.after or 0)
        # One that is killed at once does it by itself.
        if moment.after is not None:
            _kill(child, victim, moment.victim)
    os.close(reached)
    while not (done := os.waitpid(child, os.WNOHANG))[0]:
        if time.monotonic() > until:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise TimeoutError(f"a child hung for {PATIENCE:.0f} s")
        time.sleep(0.003)
    return os.waitstatus_to_exitcode(done[1]), victim


def _kill(first, here, victim):
    """Kill all of a group, its first process, or the one that is here."""
    with contextlib.suppress(ProcessLookupError):
        if victim == "all":
            os.killpg(first, signal.SIGKILL)
        else:
            os.kill(first if victim == "first" else here, signal.SIGKILL)


class _Moments:
    """Counts operations in a file, which copies of a process share."""

    def __init__(self, folder, count, moment, tell):
        self.folder = os.path.realpath(folder)
        self.count = os.open(count, os.O_WRONLY | os.O_APPEND)
        self.mark = f"{count}.told"
        self.moment, self.pipe = moment, tell
        self.told = False

    def begin(self):
        """From now on operations count."""
        self.first = os.getpid()
        sys.addaudithook(self._audited)
        fsync = os.fsync
        os.fsync = lambda handle: (self._passed(), fsync(handle))[1]
        for module, name in ((builtins, "open"), (io, "open"), (os, "open")):
            setattr(module, name, self._opened(getattr(module, name)))
        self._libraries()
        if self.moment and not self.moment.number:
            self._passed()

    def _passed(self):
        """One more operation; perhaps the last."""
        os.write(self.count, b".")
        if not self._is_moment():
            return
        self.told = True
        # One process alone is killed, whichever comes first.
        with contextlib.suppress(FileExistsError):
            os.close(os.open(self.mark, os.O_CREAT | os.O_EXCL))
            self._tell(os.getpid())

    def _is_moment(self, ahead=0):
        """Whether it is reached, by whom it is for, for the first time."""
        if self.moment is None or self.told or os.path.exists(self.mark):
            return False
        if self.moment.victim == "started" and os.getpid() == self.first:
            return False
        return os.fstat(self.count).st_size + ahead >= self.moment.number

    def _tell(self, here):
        """Say that this is the moment; where it is at once, be killed."""
        os.write(self.pipe, here.to_bytes(8, "big"))
        if self.moment.after is None:
            _kill(self.first, here, self.moment.victim)

    def _ours(self, path):
        """Whether a path lies in the folder of the work."""
        if not isinstance(path, (str, bytes, os.PathLike)):
            return False
        path = os.path.abspath(os.fsdecode(path))
        return path.startswith(self.folder + os.sep)

    def _audited(self, event, told):
        if event == "open":
            path, mode, flags = told
            writes = flags & WRITES if isinstance(flags, int) else False
            if mode and not set(str(mode)) & set("wax+"):
                writes = False
            if writes and self._ours(path):
                self._passed()
        elif event in EVENTS:
            # Below an open folder a path is a mere name.
            inside = told[-1] if isinstance(told[-1], int) else -1
            if inside >= 0 or self._ours(told[0]):
                self._passed()

    def _opened(self, opens):
        """An open that counts once more when the file is there, empty."""

        def counted(file, mode="r", *more, **named):
            stream = opens(file, mode, *more, **named)
            writes = mode & WRITES if isinstance(mode, int) else "w" in mode
            if writes and self._ours(file):
                self._passed()
            return stream

        return counted

    def _libraries(self):
        """Those that open files by themselves leave half of one too."""
        writers = [(torch, "save")]
        for name, module in list(sys.modules.items()):
            if name.startswith(LIBRARIES):
                known = vars(module).items()
                writers += [(module, n) for n, one in known if one is save_file]
        for module, name in writers:
            setattr(module, name, self._torn(getattr(module, name)))

    def _torn(self, save):
        """A writer with a moment at which half of its file is there."""

        def saved(*given, **named):
            path = [*given, *named.values()][1]
            self._passed()
            done = save(*given, **named)
            if self._ours(path):
                self._tear(path)
            return done

        return saved

    def _tear(self, path):
        """Where this is the moment, leave half of a file."""
        if self._is_moment(1) and self.moment.after is None:
            os.truncate(path, os.path.getsize(path) // 2)
        self._passed()
