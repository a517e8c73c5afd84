"""Cases run in forked children: a hang, a crash or too much memory is seen.

Linux only (fork, /proc). A case is its number: ``act(random, folder)`` makes
it from numbers of its own, so that each can be run again alone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from soak.campaign import Outcome, Setting
from speechllm.command import run_command

Act = Callable[[random.Random, Path], str]
SECONDS, MEGABYTES = 10, 1000
# What may be asked of the system beyond what is used: threads' stacks too.
ADDRESSES = 4 << 30
BATCH = 100
TOLD = 1500
MEND = re.compile(
    r"\b(fetch|convert|give|write|check|leave|correct|set|call|choose|mend|"
    r"save|take|make|name|unpack|prepare|get|cut|quote|install|ffmpeg)\b",
    re.IGNORECASE,
)
NO_MEMORY = re.compile("cannot allocate|bad_alloc|unable to allocate", re.I)


def tried(kind: str, many: int, act: Act, setting: Setting) -> Iterator:
    """An outcome for each of many cases, a child for each batch of them."""
    if not setting.wants(kind):
        return
    folder = setting.folder / kind.replace(" ", "_")
    for first in range(0, many, BATCH):
        numbers = list(range(first, min(many, first + BATCH)))
        while numbers:
            done = batch(numbers, kind, act, setting, folder)
            for number, wrong in done:
                yield Outcome(kind, f"case {number}", wrong)
            numbers = numbers[len(done) :]
            if not numbers:
                break
            # A busy machine may be slow once: what ended a child is tried
            # again alone before it is called a hang or a crash.
            ((number, wrong),) = batch(
                numbers[:1], kind, act, setting, folder
            ) or [(numbers[0], ended(kind, numbers[0]))]
            yield Outcome(kind, f"case {number}", wrong)
            numbers = numbers[1:]
    shutil.rmtree(folder, ignore_errors=True)


_LAST: dict = {}


def ended(kind, number):
    """What became of the child whose case gave no answer (str)."""
    return _LAST.get((kind, number), "the child ended without a word")


def again(kind: str, number: int, act: Act, seed: int, folder: Path) -> str:
    """One case once more, in this process, its files left there."""
    folder.mkdir(parents=True, exist_ok=True)
    return act(random.Random(f"{seed} {kind} {number}"), folder)


def batch(numbers, kind, act, setting, folder):
    """Number and verdict of each case that a child got through (list)."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    from_child, to_parent = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(from_child)
        try:
            serve(numbers, kind, act, setting.seed, folder, to_parent)
        finally:
            os._exit(0)
    os.close(to_parent)
    try:
        return listen(child, from_child, numbers, kind)
    finally:
        os.close(from_child)


def listen(child, pipe, numbers, kind):
    """Take the child's answers; a silent one is killed."""
    done, held, watch = [], b"", Watch(child)
    while len(done) < len(numbers) and not watch.hangs:
        if not select.select([pipe], [], [], 1)[0]:
            watch.look()
            continue
        piece = os.read(pipe, 1 << 16)
        if not piece:
            break
        *lines, held = (held + piece).split(b"\n")
        done += [
            (n, json.loads(w)) for n, w in zip(numbers[len(done) :], lines)
        ]
        watch = Watch(child)
    if watch.hangs:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if len(done) < len(numbers):
        why = "the child ended"
        if watch.hangs:
            why = f"a hang of over {SECONDS} s"
        elif os.WIFSIGNALED(status):
            why = f"a crash: {signal.Signals(os.WTERMSIG(status)).name}"
        _LAST[kind, numbers[len(done)]] = why
    return done


class Watch:
    """Whether a child hangs: its own time, not that of a busy machine."""

    def __init__(self, child):
        self.stat = Path(f"/proc/{child}/stat")
        self.began, _ = self.now()
        self.seen, self.idle, self.hangs = self.began, 0, False

    def now(self):
        """Seconds of the processor that it had, and its state."""
        state, *rest = self.stat.read_text().rpartition(")")[2].split()
        return sum(map(int, rest[10:12])) / os.sysconf("SC_CLK_TCK"), state

    def look(self):
        """Once a second."""
        used, state = self.now()
        # It waits for what never comes, as for a pipe that nobody fills.
        waits = state == "S" and used == self.seen
        self.idle, self.seen = (self.idle + 1) * waits, used
        self.hangs = self.idle >= SECONDS or used - self.began >= SECONDS


def serve(numbers, kind, act, seed, folder, pipe):
    """The child: a verdict a line."""
    used = int(Path("/proc/self/statm").read_text().split()[0])
    most = used * resource.getpagesize() + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # What libraries write by themselves is nobody's.
    faulthandler.disable()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (1, 2):
        os.dup2(null, stream)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    for number in numbers:
        case = folder / str(number)
        case.mkdir()
        before = memory(anew=True)
        try:
            wrong = act(random.Random(f"{seed} {kind} {number}"), case)
        except BaseException:
            wrong = traceback.format_exc()
        grown = memory() - before
        if grown > MEGABYTES and not wrong:
            wrong = f"{grown} MB of memory"
        os.write(pipe, json.dumps(wrong[-TOLD:]).encode() + b"\n")
        shutil.rmtree(case, ignore_errors=True)


def memory(anew=False):
    """Megabytes in use now, or the most since it was last asked anew."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    what = "VmRSS" if anew else "VmHWM"
    return int(re.search(rf"{what}:\s+(\d+)", status)[1]) // 1024


# ----------------------------------------------------------------------------
# What is clear.


def unclear(message: str, *names: str) -> str:
    """What a refusal lacks: the file's name, the mend, one page's length."""
    if "Traceback" in message:
        return f"a traceback: {message}"
    lacks = []
    if not any(name in message for name in names):
        lacks.append("names no file")
    if not MEND.search(message):
        lacks.append("tells no mend")
    if re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", message):
        lacks.append("has control characters")
    if len(message) > 8000:
        lacks.append(f"has {len(message)} letters")
    if NO_MEMORY.search(message):
        lacks.append("wanted more memory than there may be")
    return f"{', '.join(lacks)}: {message[:800]!r}" if lacks else ""


def typed(main: Callable, recipe: str) -> str | None:
    """What a recipe's command says as its last word; None: it went well."""
    said, path = io.StringIO(), list(sys.path)
    # A script's own folder is first there.
    sys.path.insert(0, recipe)
    try:
        with contextlib.redirect_stderr(said):
            run_command(main)
    except SystemExit as end:
        words = said.getvalue()
        return words[words.find("Error: ") :] if end.code == 2 else str(end)
    except BaseException:
        return traceback.format_exc()
    finally:
        sys.path[:] = path
    return None
