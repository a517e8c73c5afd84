"""What a piece of code does to a folder, and what a power cut leaves of it.

Recorded are files' content, fsyncs, and entries that come, go or are renamed:
Python's calls are wrapped, and the folder is looked through before and after
each, so that what libraries write without Python is seen too. Linux only.

After a power cut, of what was not brought to the disk by an fsync of the file
any part may be there, and of the entries that were not by one of their folder
any, in any order. That is what POSIX promises, and less than most disks do.
"""

from __future__ import annotations

import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TOP = 0
# What may be there of content that was not brought to the disk.
PARTS: dict[str, Callable[[bytes], bytes]] = {
    "all": lambda data: data,
    "nothing": lambda data: b"",
    "half": lambda data: data[: len(data) // 2],
    "zeros": lambda data: bytes(len(data)),
    "before": lambda data: data,
}


@dataclass
class Tree:
    """Folders and files by number: entries, and content."""

    folders: dict[int, dict[str, int]] = field(
        default_factory=lambda: {TOP: {}}
    )
    files: dict[int, bytes] = field(default_factory=dict)

    def copy(self) -> Tree:
        """The same, to be changed."""
        folders = {one: dict(names) for one, names in self.folders.items()}
        return Tree(folders, dict(self.files))

    def paths(self, folder=TOP, above="") -> Iterator[tuple[str, int, int]]:
        """Path, number and folder of all that is reached from the top."""
        for name, one in self.folders.get(folder, {}).items():
            yield above + name, one, folder
            if one in self.folders:
                yield from self.paths(one, f"{above}{name}/")

    def apply(self, op: tuple) -> None:
        """Do one thing to the entries."""
        kind, *about = op
        if kind == "link":
            folder, name, one = about
            self.folders[folder][name] = one
        elif kind == "unlink":
            folder, name, one = about
            if self.folders[folder].get(name) == one:
                del self.folders[folder][name]
        elif kind == "rename":
            folder, name, to, new, one = about
            if self.folders[folder].get(name) == one:
                del self.folders[folder][name]
            self.folders[to][new] = one


class Recorder:
    """Records what is done below a folder while it is entered.

    What is there before counts as brought to the disk.
    """

    def __init__(self, top: Path):
        self.top, self.ops = top.resolve(), []
        self.now, self.real, self._lock = Tree(), {}, threading.RLock()
        self._count = itertools.count(TOP + 1)
        self._look()
        self.before, self.ops = self.now.copy(), []

    def __enter__(self):
        self._whole = {
            name: getattr(os, name)
            for name in ("fsync", "rename", "replace", "unlink", "remove")
        }
        for name, whole in self._whole.items():
            setattr(os, name, self._wrapped(name, whole))
        return self

    def __exit__(self, *_):
        for name, whole in self._whole.items():
            setattr(os, name, whole)
        self._look()

    def _wrapped(self, name, whole):
        def call(what, *more, **how):
            with self._lock:
                self._look()
                # Before it is deleted, say.
                path = self._path(what, how) if name == "fsync" else None
                done = whole(what, *more, **how)
                if path is not None:
                    one = self._number(path)
                    if one is not None:
                        self.ops.append(("fsync", one))
                self._look()
                return done

        return call

    def _path(self, what, how):
        if isinstance(what, int):
            what = os.readlink(f"/proc/self/fd/{what}")
        return Path(os.fspath(what)).absolute()

    def _number(self, path):
        if path == self.top:
            return TOP
        try:
            name = str(path.relative_to(self.top))
        except ValueError:
            return None
        return {p: one for p, one, _ in self.now.paths()}.get(name)

    def _look(self):
        """Note what has changed since the last look."""
        found = {}
        for path in sorted(self.top.rglob("*")):
            found[str(path.relative_to(self.top))] = path.stat().st_ino, path
        known = {path: (one, up) for path, one, up in self.now.paths()}
        numbers = {self.real[one]: one for one, _ in known.values()}
        is_now = {numbers.get(ino): path for path, (ino, _) in found.items()}
        for path, (one, up) in known.items():
            new = is_now.get(one, path)
            # What is in a renamed folder has moved with it.
            if new != path and self._number_at(path) == one:
                to = self._number_at(str(Path(new).parent))
                names = Path(path).name, to, Path(new).name
                self._op("rename", up, *names, one)
        for path, (one, up) in known.items():
            if one not in is_now and self._number_at(path) == one:
                self._op("unlink", up, Path(path).name, one)
        for path, (ino, place) in found.items():
            one = self._number_at(path)
            if one is None or self.real[one] != ino:
                one = next(self._count)
                self.real[one] = ino
                if place.is_dir():
                    self.now.folders[one] = {}
                up = self._number_at(str(Path(path).parent))
                self._op("link", up, Path(path).name, one)
            if place.is_file():
                data = place.read_bytes()
                if self.now.files.get(one) != data:
                    self.now.files[one] = data
                    self.ops.append(("data", one, data))

    def _number_at(self, path):
        one = TOP
        for part in Path(path).parts:
            one = self.now.folders.get(one, {}).get(part)
            if one is None:
                return None
        return one

    def _op(self, *op):
        self.now.apply(op)
        self.ops.append(op)


# ----------------------------------------------------------------------------
# What may be left.


def left_by(record: Recorder, most: int, draw: random.Random) -> Iterator:
    """States that a power cut may leave: words, and a `Tree`.

    After each recorded step; at most so many for each.
    """
    for many in range(len(record.ops) + 1):
        yield from _after(record, many, most, draw)


def _after(record, many, most, draw):
    """States after so many steps: the extremes, then some drawn."""
    disk, dirty, pending = record.before.copy(), set(), []
    content = dict(disk.files)
    for folder in record.now.folders:
        disk.folders.setdefault(folder, {})
    for op in record.ops[:many]:
        kind, *about = op
        if kind == "data":
            content[about[0]] = about[1]
            dirty.add(about[0])
        elif kind == "fsync" and about[0] in content:
            dirty.discard(about[0])
            disk.files[about[0]] = content[about[0]]
        elif kind == "fsync":
            for one in [p for p in pending if about[0] in _folders(p)]:
                pending.remove(one)
                disk.apply(one)
        else:
            pending.append(op)
    count, seen = len(pending), set()
    for bits, how in _choices(count, most, draw):
        tree = disk.copy()
        for bit, op in zip(bits, pending):
            if bit:
                tree.apply(op)
        for one in dirty:
            name = how if how != "mixed" else draw.choice(list(PARTS))
            if name != "before":
                tree.files[one] = PARTS[name](content[one])
        told = f"step {many}: entries {''.join('01'[b] for b in bits)}, {how}"
        key = repr(sorted((p, tree.files.get(o)) for p, o, _ in tree.paths()))
        if key not in seen:
            seen.add(key)
            yield told, tree


def _folders(op):
    """The folders whose fsync brings an entry to the disk."""
    return (op[1],) if op[0] != "rename" else (op[1], op[3])


def _choices(count, most, draw):
    """Which entries are there, and how much of the content."""
    none, everything = (0,) * count, (1,) * count
    ends = [(bits, how) for bits in (everything, none) for how in PARTS]
    alone = [tuple(int(i == j) for i in range(count)) for j in range(count)]
    ends += [(bits, "nothing") for bits in alone[::-1]]
    yield from ends[:most]
    for _ in range(most - len(ends)):
        yield tuple(draw.randrange(2) for _ in range(count)), "mixed"


def build(tree: Tree, folder: Path) -> None:
    """Write a state to a new folder."""
    folder.mkdir()
    for path, one, _ in tree.paths():
        if one in tree.folders:
            (folder / path).mkdir()
        else:
            (folder / path).write_bytes(tree.files.get(one, b""))
