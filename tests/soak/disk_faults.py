"""Faults of a disk that a forked child meets: the n-th call of a kind fails.

A hook that Python calls before each rename and opening raises what the
system would; fsync is wrapped, as Python tells of it to no hook. The code that
is tried is the real one.
"""

from __future__ import annotations

import mmap
import os
import signal
import struct
import sys
import time
from pathlib import Path

CALLS = ("fsync", "rename")
# Shared with the children, so that the parent sees their counts.
_COUNTS = mmap.mmap(-1, 64)
_GONE = ".gone"
_taken: list[Path] = []


def _add(call):
    """One more call of a kind; how many there were before."""
    place = 8 * CALLS.index(call)
    (before,) = struct.unpack_from("q", _COUNTS, place)
    struct.pack_into("q", _COUNTS, place, before + 1)
    return before


def counted() -> dict[str, int]:
    """Calls of each kind since the last `count`."""
    return dict(zip(CALLS, struct.unpack_from(f"{len(CALLS)}q", _COUNTS)))


def count() -> None:
    """In a child: count the calls, and let all of them be."""
    _watch(lambda call, about: None)


def failing(call: str, nth: int, number: int):
    """What makes the n-th call, and all after it, fail in a child."""

    def fail(seen, about):
        if seen == call and counted()[call] > nth:
            raise OSError(number, os.strerror(number), *about)

    return lambda: _watch(fail)


def _watch(look):
    struct.pack_into(f"{len(CALLS)}q", _COUNTS, 0, *([0] * len(CALLS)))
    whole = os.fsync

    def fsync(handle):
        _add("fsync")
        look("fsync", ())
        return whole(handle)

    os.fsync = fsync

    def hook(event, about):
        if event == "os.rename":
            _add("rename")
            look("rename", (str(about[0]), None, str(about[1])))

    sys.addaudithook(hook)


def stopping(nth: int, there: Path):
    """What stops a child once, at its n-th fsync, and not before a file is there."""

    stopped = []

    def stop(call, about):
        due = counted()["fsync"] >= nth and there.exists()
        if due and not stopped:
            stopped.append(call)
            os.kill(os.getpid(), signal.SIGSTOP)

    return lambda: _watch(stop)


def sleeping(seconds: float):
    """What makes a child begin later."""
    return lambda: time.sleep(seconds)


# ----------------------------------------------------------------------------
# Files that are gone between two looks.


def vanish(path: Path, at: str):
    """What takes a file away in a child when another one is opened."""
    _taken.append(path)

    def hook(event, about):
        opens = event == "open" and isinstance(about[0], (str, os.PathLike))
        if opens and str(about[0]).endswith(at) and path.exists():
            os.rename(path, f"{path}{_GONE}")

    return lambda: sys.addaudithook(hook)


def give_back() -> int:
    """Put back what was taken away; how many there were."""
    gone = [path for path in _taken if Path(f"{path}{_GONE}").exists()]
    for path in gone:
        os.replace(f"{path}{_GONE}", path)
    _taken.clear()
    return len(gone)


def vanishing(told):
    """Work, words, the file that goes, and at the opening of which."""
    corpus = Path(told.world.corpus)
    audio = sorted((corpus / "train-clean-100").rglob("*.flac"))[3]
    features = told.made / "5.flac"
    place = told.disk.place
    run = sorted((told.made / "study").rglob("hypotheses-*.jsonl"))[0]
    weights = place / "base/trained/projector.safetensors"
    system, result = "trained/system.json", run.with_name("result.json")
    for name, which, path, at in (
        ("training", "an utterance", audio, "train-clean-100.csv"),
        ("features", "an utterance", features, "5.flac"),
        ("measuring", "the weights", weights, system),
        ("export", "the weights", weights, system),
        ("report", "answers", run, run.name),
        ("report", "a result", result, "result.json"),
    ):
        if name in told.works:
            yield told.works[name], which, path, at
