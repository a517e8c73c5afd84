"""Cases in forked children, each held to seconds, memory and its own folder.

Linux only: fork, /proc, limits of a process. What a case does beyond reading
is seen by Python's audit hook: commands, connections, files written elsewhere.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from soak.campaign import Outcome
from soak.inputs_mutate import put_back, spoil

# Of processor time: the machine may be busy with other things.
SECONDS = 10
# Without a word or work, waiting for what never comes.
SILENT = 60
MEMORY = 2**30
# Beyond this, asking for memory fails; pages that nobody touched count too.
ADDRESSES = 2 * MEMORY
LONGEST = 20_000
REFUSED = (1, 2)
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty")
RUNS += ("subprocess.Popen", "socket.connect", "pickle.find_class", "pty.spawn")
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink")
CHANGES += ("os.link", "os.chmod", "os.truncate", "shutil.rmtree")
SHORT = "Unable to allocate", "not enough memory", "MemoryError", "allocate m"


@dataclass(frozen=True)
class Kind:
    """Files of one kind: how sound ones are made, and what reads them.

    ``make`` fills a folder; ``read`` gives an exit code, as a command does
    (and prints). ``files`` are the patterns of those that are spoiled, each
    name once or more often. ``sign`` makes what vouches for a spoiled file
    fit it again.
    """

    name: str
    make: Callable[[Path], None]
    read: Callable[[Path, object], int]
    files: str
    sign: Callable[[Path], None] | None = None
    spoil: Callable[[Path, object], str] = spoil
    # Whether a file whose bytes are others is never read.
    refused: bool = False
    # What else says what a refusal is of, such as an option.
    names: tuple[str, ...] = ()
    quick: int = 200
    full: int = 10_000


class Hang(BaseException):
    """More processor time than a case may take."""


class Seen:
    """What a case did that reading does not."""

    def __init__(self, folder: Path):
        self.folder, self.did = str(folder.resolve()), []
        self.listens = False
        sys.addaudithook(self.hook)

    def hook(self, event, told):
        """Note an event; never raises."""
        if not self.listens:
            return
        if event in RUNS:
            self.did.append(f"{event} {told!r:.120}")
        elif event == "open":
            path, _, flags = told
            if flags and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                self.changed(event, path)
        elif event in CHANGES:
            self.changed(event, told[0])

    def changed(self, event, path):
        """Note a change outside of the folder."""
        if isinstance(path, int) or not path:
            return
        path = os.path.abspath(os.fsdecode(path))
        there = os.path.realpath(os.path.dirname(path))
        if (
            not f"{there}/".startswith(f"{self.folder}/")
            and path != "/dev/null"
        ):
            self.did.append(f"{event} {path}")


def cases(kind: Kind, setting) -> Iterator[Outcome]:
    """Every case of a kind; a child that dies takes one of them along."""
    if not setting.wants(kind.name):
        return
    many = setting.many(kind.quick, kind.full)
    folder = setting.folder / kind.name.replace(" ", "-")
    sound = folder / "sound"
    sound.mkdir(parents=True)
    kind.make(sound)
    number = 0
    while number < many:
        for number, which, wrong in _child(kind, setting, folder, number, many):
            if wrong is not None:
                yield Outcome(kind.name, f"{number}: {which}", wrong)
        number += 1
    shutil.rmtree(folder)


def _child(kind, setting, folder, first, many):
    """Cases from one on, of a child: (number, which, wrong); None: begun."""
    ours, theirs = os.pipe()
    child = os.fork()
    if not child:
        os.close(ours)
        with os.fdopen(theirs, "w") as tell:
            _all_in_child(kind, setting, folder, range(first, many), tell)
    os.close(theirs)
    ended, last = None, (first, "before its first word", None)
    with os.fdopen(ours) as stream:
        while _speaks(stream, child):
            if not (line := stream.readline()):
                ended = "its process died"
                break
            last = json.loads(line)
            yield last
            if last[0] == many - 1 and last[2] is not None:
                ended = ""
                break
        else:
            ended = f"silent and idle for {SILENT} s"
    with contextlib.suppress(ProcessLookupError):
        if ended:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if ended:
        how = os.waitstatus_to_exitcode(status)
        yield last[0], last[1], f"{ended} ({how})"


def _speaks(stream, child):
    """Wait for a word, as long as a process works; whether one came."""
    while True:
        before = _worked(child)
        if select.select([stream], [], [], SILENT)[0]:
            return True
        if _worked(child) == before:
            return False


def _worked(process):
    """Ticks that a process has had of a processor."""
    told = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2]
    return sum(map(int, told.split()[11:13]))


def _all_in_child(kind, setting, folder, numbers, tell):
    """Run cases one by one and tell of each; never returns."""
    try:
        work = Path(tempfile.mkdtemp(dir=folder, prefix="work-"))
        place = work / "place"
        shutil.copytree(folder / "sound", place, symlinks=True)
        (place / "out").mkdir(exist_ok=True)
        os.chdir(work)
        os.environ.pop("SPEECHLLM_DEBUG", None)
        sys.dont_write_bytecode = True
        tempfile.tempdir = str(work)
        seen = Seen(work)
        # What is loaded at the first reading is not a case's own.
        kind_read(kind, place, setting.random(f"{kind.name} sound"))
        empty(place / "out")
        most = _status("VmSize") + ADDRESSES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number in numbers:
            random = setting.random(f"{kind.name} {number}")
            for told in one_case(kind, place, seen, random):
                tell.write(json.dumps([number, *told]) + "\n")
                tell.flush()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def one_case(kind: Kind, place: Path, seen, random) -> Iterator[tuple]:
    """Spoil a file, read, judge, mend it: which with None, and then wrong."""
    outside = files_in(place.parent)
    names = [p for one in kind.files.split() for p in [sorted(place.glob(one))]]
    path = random.choice(random.choice([some for some in names if some]))
    raw, signed = path.read_bytes(), {}
    how = kind.spoil(path, random)
    which = f"{path.relative_to(place)}, {how}".encode("ascii", "replace")
    which = which.decode()
    yield which, None
    if kind.sign:
        signed = kind.sign(place)
    # The alarm waits for the end of a call into C; this limit ends it.
    used = int(sum(os.times()[:2])) + 2 * SECONDS
    resource.setrlimit(resource.RLIMIT_CPU, (used, resource.RLIM_INFINITY))
    changed = not path.is_file() or path.read_bytes() != raw
    wrong = judge(kind, place, path, seen, random, kind.refused and changed)
    for one, content in [*signed.items(), (path, raw)]:
        put_back(one, content)
    empty(place / "out")
    for one in sorted(files_in(place.parent) - outside):
        if not one.startswith("outside-"):
            wrong = wrong or f"left {one}"
        (place.parent / one).unlink()
    if lacking := sorted(outside - files_in(place.parent)):
        wrong = wrong or f"removed {lacking[0]}"
    yield which, wrong


def empty(folder: Path) -> None:
    """A folder with nothing in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()


def files_in(folder: Path) -> set[str]:
    """Every file below a folder, by its path in it."""
    return {
        os.path.relpath(os.path.join(here, name), folder)
        for here, _, names in os.walk(folder)
        for name in names
    }


def judge(
    kind: Kind, place: Path, path: Path, seen: Seen, random, refuse=False
) -> str:
    """What was wrong with how a file was read; empty: nothing."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    signal.signal(signal.SIGPROF, _too_long)
    seen.did, seen.listens = [], True
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    code, said = None, ""
    try:
        code, said = kind_read(kind, place, random)
    except Hang:
        return f"over {SECONDS} s"
    except BaseException as error:
        said = "".join(traceback.format_exception(error)[-4:])
        return f"a traceback: {said[-1500:]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        seen.listens = False
    if seen.did:
        return f"did {seen.did[:3]}"
    if _status("VmHWM") - before > MEMORY:
        return f"took {(_status('VmHWM') - before) >> 20} MiB"
    if refuse and code == 0:
        return "was read, although its content was changed"
    named = str(place), path.name, *kind.names
    return _said_well(code, said, named)


def _said_well(code, said, named):
    """Whether a refusal says what file it is of."""
    if code == 0:
        return ""
    if code not in REFUSED:
        return f"exit {code}: {said[-1000:]}"
    if "Traceback" in said or any(one in said for one in SHORT):
        return f"said {said[-1000:]}"
    if not any(one in said for one in named):
        return f"names no file: {said[-1000:] or 'not a word'}"
    if len(said) > LONGEST:
        return f"a message of {len(said)} letters: {said[:300]}"
    return ""


def kind_read(kind: Kind, place: Path, random) -> tuple[int, str]:
    """Read as a command does; its exit code and what it said on stderr."""
    out, said = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(said):
        try:
            code = kind.read(place, random) or 0
        except SystemExit as error:
            code = error.code or 0
            if isinstance(code, str):
                code, told = 1, code
                said.write(told)
    return code, said.getvalue()


def _too_long(*_):
    raise Hang


def _status(key):
    """Bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return 0
