"""Disks: full, read-only, failing, emptied, shared, moved, another user's.

Linux only. A small disk is a tmpfs that root may mount; without that right a
full disk is a limit on the size of files, and what cannot be had is not tried,
and not counted. Whatever fails must name the file, say what to do, lose
nothing, leave nothing, and end as the undisturbed when started again.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal

from soak import disk_faults
from soak.campaign import Outcome
from soak.disk_state import end_of, torn, unlike
from soak.disk_work import begin, forked, import_alike, works
from soak.small_disk import SmallDisk, give_away, obey_permissions
from soak.world import make_world
from speechbrain_ext.runs import folders
from speechbrain_ext.runs.folders import BEFORE

# What an error has to say besides the file: what to do.
MEND = re.compile(
    r"[Ff]ree (some|space)|[Cc]hoose a|Get the right|raise your limit"
    r"|Look after the disk|Put it back|Choose|Make its folder|give another|start again"
    r"|prepare the data again|fetch it again|check data_folder"
)
STUCK = "two at once, one stuck: training"
SHARED = ("training", "features", "pruning by copying", "report")
QUICK = ("training", "features", "export", "pruning by copying")


class NoDisk:
    """Where nothing may be mounted: a folder, and files of limited size."""

    def __init__(self, place):
        self.place = place
        place.mkdir(parents=True, exist_ok=True)

    @property
    def used(self):
        """Bytes of all files."""
        return sum(p.stat().st_size for p in self.place.rglob("*"))

    def resize(self, *_):
        """It has no size."""

    empty = SmallDisk.empty


class Campaign:
    """A disk, kinds of work, and how each ends undisturbed."""

    def __init__(self, setting):
        self.setting, self.log = setting, setting.folder / "said.txt"
        made = setting.folder / "made"
        made.mkdir()
        try:
            self.disk = SmallDisk(setting.folder / "disk")
        except OSError:
            self.disk = NoDisk(setting.folder / "disk")
        self.mounted = isinstance(self.disk, SmallDisk)
        self.world, self.made = make_world(setting.folder / "world"), made
        self.works = _needed(works(self.world, made), setting.kinds)
        self.wanted, self.before, self.after, self.met = {}, {}, {}, {}
        for work in self.works.values():
            self._undisturbed(work)
            if work.name == "training":
                shutil.copytree(self.disk.place, made / "runs")

    def begin(self, work):
        """The disk as a work finds it."""
        self.disk.empty()
        if work.start:
            work.start(self.disk.place)

    def do(self, work, *before):
        """Do a work in a child; its exit code."""
        return forked(lambda: work.run(self.disk.place), self.log, *before)

    def _undisturbed(self, work):
        self.begin(work)
        self.before[work.name] = self.disk.used
        code = self.do(work, disk_faults.count)
        if code:
            raise RuntimeError(f"{work.name}: {code}: {self.said()}")
        import_alike(self.log)
        self.met[work.name] = disk_faults.counted()
        self.after[work.name] = self.disk.used
        self.wanted[work.name] = end_of(self.disk.place)

    def said(self) -> str:
        """The last lines that a child wrote."""
        return self.log.read_text(errors="replace")[-1500:].strip()

    def clear(self, place) -> str:
        """What is wrong with an error's words; empty where nothing is."""
        said = self.said()
        if "Traceback" in said:
            return f"a traceback: {said[-700:]}"
        last = said[said.rfind("Error: ") :]
        if not last.startswith("Error: ") or str(place) not in last:
            return f"does not name {place}: {said[-400:]}"
        return "" if MEND.search(last) else f"says no mend: {last}"

    def strike(self, work, kind, which, arm, *before):
        """Do a work under a fault, then without; None where it was not met."""
        self.begin(work)
        stays = self._staying(work)
        arm()
        code = self.do(work, *before)
        self.disk.resize()
        disk_faults.give_back()
        if not code and not unlike(end_of(self.disk.place), self._end(work)):
            return None
        wrong = self.clear(self.disk.place) if code else "no error"
        no_rename = kind == "rename"
        wrong = wrong or torn(self.disk.place, set_aside=no_rename)
        if self._staying(work, no_rename) != stays:
            wrong = wrong or f"{work.stays} did not stay as it was"
        wrong = wrong or self.goes_on(work)
        return Outcome(f"{kind}: {work.name}", which, wrong)

    def _staying(self, work, set_aside=False):
        """What a work is to leave as it was until it has the new one."""
        if not work.stays:
            return {}
        there = self.disk.place / work.stays
        if set_aside and not there.exists():
            (there,) = there.parent.glob(f"{work.stays}.*{BEFORE}")
        return end_of(there)

    def _end(self, work):
        return self.wanted[work.name]

    def goes_on(self, work) -> str:
        """What is wrong with the same command typed again."""
        place = self.disk.place
        kept = {p: p.stat().st_mtime_ns for p in place.glob(work.kept or "-")}
        saved = list(place.glob("base/save/CKPT*"))
        if code := self.do(work):
            return f"started again it ends with {code}: {self.said()[-700:]}"
        made = [p for p, then in kept.items() if p.stat().st_mtime_ns != then]
        if made:
            return f"{made[0].relative_to(place)} was made twice"
        loads = "Loading a checkpoint" in self.log.read_text(errors="replace")
        if work.name == "training" and saved and not loads:
            return "the checkpoint was not used"
        found = unlike(end_of(place), self._end(work))
        return found and f"another end: {found}" or torn(place)


def _needed(every, kinds):
    """The works of some kinds of faults, and those that others start from."""
    named = {kind.rpartition(": ")[2] for kind in kinds}
    named |= {"training", "export"}
    return {n: w for n, w in every.items() if not kinds or n in named}


def faults(setting):
    """All faults of disks."""
    told, wanted = Campaign(setting), setting.kinds
    for title, way in WAYS.items():
        if not wanted or any(kind.startswith(title) for kind in wanted):
            yield from filter(None, way(told))
    told.disk.empty()


def full(told):
    """No space left, at a random write."""
    for work in told.works.values():
        draw = told.setting.random(f"full {work.name}")
        for _ in range(told.setting.many(1, 12)):
            outcome, most = None, told.after[work.name]
            while outcome is None and most > told.before[work.name]:
                size = most = draw.randrange(told.before[work.name], most)
                outcome = told.strike(
                    work,
                    "full",
                    f"{size} bytes of {told.after[work.name]}",
                    lambda: told.disk.resize(size),
                    *(() if told.mounted else (limit(draw.randrange(4000)),)),
                )
            yield outcome


def limit(size):
    """In a child: no file may be larger."""
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def quota(told):
    """The n-th file that is brought to the disk is over a quota."""
    yield from _nth(told, "quota", "fsync", errno.EDQUOT)


def rename(told):
    """The n-th rename fails, as on a disk that goes."""
    yield from _nth(told, "rename", "rename", errno.EIO)


def _nth(told, kind, call, number):
    for work in told.works.values():
        many, draw = told.met[work.name][call], told.setting.random(kind)
        if many and (not told.setting.quick or work.name in QUICK[1:]):
            for _ in range(told.setting.many(1, 6)):
                nth = draw.randrange(many)
                fail = disk_faults.failing(call, nth, number)
                yield told.strike(
                    work, kind, f"{call} {nth} of {many}", lambda: None, fail
                )


def read_only(told):
    """Nothing can be written; what is there can be used."""
    if not told.mounted:
        return
    for work in told.works.values():
        if told.setting.quick and work.name in ("healing", "measuring"):
            continue
        yield told.strike(
            work,
            "read-only",
            "from the start",
            lambda: told.disk.resize(told.disk.WIDE, read_only=True),
        )
    yield from _used(told, "read-only, to be read", lambda: None)


def _used(told, kind, *before):
    """What is whole already is used where it may not be written."""
    out, place = told.setting.folder / "out", told.disk.place
    for name in filter(told.works.get, ("features", "export", "report")):
        work = told.works[name]
        shutil.rmtree(out, ignore_errors=True)
        told.disk.empty()
        if name == "report":
            shutil.copytree(told.made / "study", place / "study")
        else:
            shutil.copytree(told.made / "runs", place, dirs_exist_ok=True)
        if name == "features":
            told.do(work)
        if kind.startswith("read-only"):
            told.disk.resize(told.disk.WIDE, read_only=True)
        else:
            give_away(place)
        call = {
            "features": lambda: work.run(place),
            "export": lambda: work.run(place, out),
            "report": lambda: work.run(place, out),
        }[name]
        code = forked(call, told.log, *before)
        told.disk.resize()
        yield Outcome(f"{kind}: {name}", "", told.said()[-700:] if code else "")


def vanished(told):
    """A file is gone between two looks at it."""
    for case in disk_faults.vanishing(told):
        work, which, path, at = case
        told.begin(work)
        before = disk_faults.vanish(path, at)
        code = told.do(work, before)
        gone = disk_faults.give_back()
        if not gone:
            continue
        left_out = (
            f"cannot be read, [Errno 2] No such file or directory: '{path}"
        )
        wrong = ""
        # A report does without, and says so.
        if code and left_out not in told.said():
            wrong = told.clear(path)
        wrong = wrong or torn(told.disk.place) or told.goes_on(work)
        yield Outcome(f"vanished: {work.name}", which, wrong)


def together(told):
    """Two of the same command at once, in one folder."""
    shared = SHARED[: told.setting.many(3, 4)]
    for name in filter(told.works.get, shared):
        work, draw = told.works[name], told.setting.random(f"two {name}")
        for _ in range(told.setting.many(1, 6)):
            told.begin(work)
            delay = round(draw.uniform(0, 1.5), 2)
            logs = told.log, told.setting.folder / "other.txt"

            def call():
                return work.run(told.disk.place)

            late = disk_faults.sleeping(delay)
            children = [begin(call, logs[0]), begin(call, logs[1], late)]
            ends = [os.waitpid(child, 0)[1] for child in children]
            refused = [log for log, end in zip(logs, ends) if end]
            wrong = torn(told.disk.place)
            wrong = wrong or unlike(end_of(told.disk.place), told._end(work))
            if len(refused) == 2:
                wrong = wrong or f"both failed: {told.said()[-400:]}"
            for log in refused:
                text = log.read_text()[-900:]
                if "Traceback" in text or "Error: " not in text:
                    wrong = wrong or text
            yield Outcome(f"two at once: {name}", f"{delay} s apart", wrong)


def stuck(told):
    """One of two stands still in a run's folder: the other names it."""
    work, place = told.works["training"], told.disk.place
    many, draw = told.met[work.name]["fsync"], told.setting.random("stuck")
    for _ in range(told.setting.many(1, 6)):
        told.begin(work)
        nth = draw.randrange(many // 2)
        stop = disk_faults.stopping(nth, place / "base" / folders.LOCK)
        log = told.setting.folder / "other.txt"
        first = begin(lambda: work.run(place), log, stop)
        os.waitpid(first, os.WUNTRACED)
        wrong = told.clear(place) if told.do(work, impatient) else "no error"
        if f"process {first} " not in told.said():
            wrong = wrong or f"names no process {first}: {told.said()[-400:]}"
        os.kill(first, signal.SIGCONT)
        if os.waitpid(first, 0)[1]:
            wrong = wrong or f"then the first failed: {log.read_text()[-700:]}"
        wrong = wrong or torn(place) or unlike(end_of(place), told._end(work))
        yield Outcome(STUCK, f"at fsync {nth} of {many}", wrong)


def impatient():
    """In a child: wait for another process a second, not half a minute."""
    folders.alone.__wrapped__.__defaults__ = (1.0,)


def moved(told):
    """Results are moved after a full disk: resumed, and exported."""
    work, place = told.works["training"], told.disk.place
    draw = told.setting.random("moved")
    for _ in range(told.setting.many(1, 6)):
        told.disk.empty()
        first, then = place / "first", place / "then"
        first.mkdir()
        room = draw.randrange(40_000, told.after["training"])
        if told.mounted:
            told.disk.resize(room)
        forked(lambda: work.run(first), told.log)
        told.disk.resize()
        first.rename(then)
        code = forked(lambda: work.run(then), told.log)
        wrong = told.said()[-700:] if code else ""
        wanted = told._end(work)
        wrong = wrong or unlike(end_of(then, first, place), wanted)
        yield Outcome("moved: training", f"at {room} bytes", wrong)
        out = place / "out"
        code = forked(lambda: told.works["export"].run(then, out), told.log)
        yield Outcome("moved: export", "", told.said()[-700:] if code else "")


def of_another(told):
    """Folders of another user: used where they may be, or said why not."""
    if not told.mounted:
        return
    alike = ("training", "features", "preparing LibriSpeech", "report")
    for name in filter(told.works.get, alike):
        work = told.works[name]
        told.begin(work)
        give_away(told.disk.place)
        code = told.do(work, obey_permissions)
        os.chown(told.disk.place, 0, 0)
        wrong = told.clear(told.disk.place) if code else "no error"
        wrong = wrong or told.goes_on(work)
        yield Outcome(f"another's, empty: {name}", "", wrong)
    yield from _used(told, "another's, to be read", obey_permissions)


# Each by what the names of its kinds begin with.
WAYS = {
    "full": full,
    "quota": quota,
    "rename": rename,
    "read-only": read_only,
    "vanished": vanished,
    "two at once: ": together,
    STUCK: stuck,
    "moved": moved,
    "another's": of_another,
}
