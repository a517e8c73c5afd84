"""The processes of one run watch each other, and stop together.

A collective operation waits for hours for a process that is gone or stands
still, and then names an address. Here a thread of each process tells every
second, in the store by which the group was made, that it lives and how far it
is. Where another has failed, was killed, stands still or does not come, it
ends its own process, wherever that waits, with a line that names the other.
Seconds are counted in one's own looks: a job that is suspended as a whole
finds all as it was.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable

import torch
from speechbrain.utils import distributed

from speechbrain_ext.training import processes
from speechbrain_ext.training.stops import Stopped

# Seconds between two looks.
LOOK = 1.0
# Looks: for others to begin, without any sign, without the store, and for a
# process to end by itself, with the words of its own error.
BEGIN, FROZEN, NO_STORE, GRACE = 600, 30, 5, 2
# Seconds for which one may keep the others waiting while it computes nothing,
# unless this variable says otherwise: a network disk may stand still for
# minutes, and NCCL waits as long.
PATIENCE, VARIABLE = 600, "SPEECHLLM_PATIENCE"
# Seconds of its main thread that are no work.
IDLE = 0.2
OWN = (__file__, processes.__file__)
AGAIN = "the same command goes on from the last checkpoint"


class Watch(threading.Thread):
    """Looks after the other processes of a group."""

    def __init__(self, store, rank: int, world_size: int):
        super().__init__(name="watch", daemon=True)
        self.store, self.rank, self.world_size = store, rank, world_size
        self.meetings = self.calls = 0
        # Notes in the run's result what ended it.
        self.record: Callable[[str], None] = lambda told: None
        self.patience = _patience()
        self._beats, self._where = 0, _where()
        self._end: str | None = None
        self._is_first = True
        self._lock, self._closed = threading.Lock(), threading.Event()
        # Of each other process: its last word, and looks without a sign of
        # life, and without work while it is waited for.
        self._seen: dict[int, dict] = {}
        self._silent = dict.fromkeys(range(world_size), 0)
        self._idle = dict.fromkeys(range(world_size), (0, 0.0, 0))
        self._no_store, self._deserted, self._grace = 0, False, GRACE
        self._beat()

    def run(self):
        """Look until this process ends, or another has."""
        while not self._closed.wait(LOOK):
            fault = self._fault()
            if fault and not self._closed.wait(self._grace * LOOK):
                self._leave(*fault)

    def close(self, error: BaseException | None = None) -> bool:
        """Tell the others how this process ends; twice is as good as once.

        Gives whether no other has told the same error.
        """
        if self._end is None:
            self._closed.set()
            together = error is None or isinstance(error, Stopped)
            told = "" if together else f"{type(error).__name__}: {error}"
            self._end = told
            with contextlib.suppress(RuntimeError):
                first = not told or self.store.add(f"error {told}", 1) == 1
                self._is_first = first
            self._beat()
        return self._is_first

    def ended_by(self, error: BaseException) -> bool:
        """Tell the others what ends this process; whether it is new to them.

        Where a collective operation failed, and so what ended another process
        ends this one, it tells of that one instead, and does not return.
        """
        if _is_collective(error):
            self.settle()
        return self.close(error)

    def settle(self):
        """After a failed collective: wait for what has happened to another.

        Ends this process where that comes to light.
        """
        self._deserted, self._grace = True, 0
        self.join((FROZEN + 2 * GRACE) * LOOK)

    def die(self, number, frame):
        """SIGTERM: torchrun's too where another failed, which is told first."""
        del frame
        self._grace = 0
        self.join(4 * LOOK)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def call(self, function, args):
        """Call a function on the main process; the others wait, for ever."""
        self.calls += 1
        key, pause = f"call {self.calls}", 0.01

        def called():
            """The function; then the others may come to the operation."""
            result = function(*args)
            self.store.set(key, "")
            return result

        while self.rank and not self.store.check([key]):
            time.sleep(pause)
            pause = min(2 * pause, LOOK)
        return distributed.run_on_main(called)

    def _beat(self):
        self._beats += 1
        told = {"beat": self._beats, "end": self._end, "pid": os.getpid()}
        told |= {"where": self._where, "meetings": self.meetings}
        told |= {"work": _work(), "line": _line()}
        with contextlib.suppress(RuntimeError), self._lock:
            self.store.set(f"process {self.rank}", json.dumps(told))

    def _fault(self):
        """The rank, what happened to it, and whether a new start may help."""
        try:
            self._beat()
            told = self._read()
            self._no_store = 0
        except RuntimeError:
            self._no_store += 1
            if self._no_store < NO_STORE:
                return None
            # Whoever holds the store: torchrun, or the first process.
            return 0, "or its torchrun does not answer", True
        for rank in range(self.world_size):
            if rank != self.rank:
                fault = self._judge(rank, told.get(rank))
                if fault:
                    return rank, *fault
        return None

    def _read(self):
        """The last word of each other process that has begun."""
        others = [r for r in range(self.world_size) if r != self.rank]
        keys = {rank: f"process {rank}" for rank in others}
        begun = [
            rank
            for rank in others
            if rank in self._seen or self.store.check([keys[rank]])
        ]
        words = self.store.multi_get([keys[r] for r in begun]) if begun else []
        return {rank: json.loads(word) for rank, word in zip(begun, words)}

    def _judge(self, rank, told):
        """What is wrong with another process, by its last word, or None."""
        if told is None:
            self._silent[rank] += 1
            too_long = self._silent[rank] > BEGIN
            return ("has not begun", True) if too_long else None
        before, self._seen[rank] = self._seen.get(rank), told
        if told["end"]:
            return f"ended: {told['end']}", False
        is_missed = told["meetings"] < self.meetings
        if told["end"] is not None:
            is_missed = is_missed or self._deserted
            return ("ended before this one", True) if is_missed else None
        is_new = before is None or told["beat"] != before["beat"]
        self._silent[rank] = 0 if is_new else self._silent[rank] + 1
        if not is_new and _is_gone(told, self._where):
            # Its last word may have come since.
            if self._read()[rank]["beat"] == told["beat"]:
                return "was killed, by hand or for want of memory", True
        if self._silent[rank] > FROZEN:
            return f"has given no sign for {FROZEN * LOOK:.0f} s", True
        return self._judge_idle(rank, told, is_missed)

    def _judge_idle(self, rank, told, is_missed):
        """Whether it keeps this one waiting, and computes nothing."""
        looks, work, met = self._idle[rank]
        is_on = told["work"] - work > IDLE or told["meetings"] > met
        if is_on or not is_missed:
            self._idle[rank] = 0, told["work"], told["meetings"]
            return None
        self._idle[rank] = looks + 1, work, met
        if looks * LOOK < self.patience:
            return None
        return (
            f"has not come for {self.patience:.0f} s, and stands in "
            f"{told['line']} (where that may take longer: "
            f"{VARIABLE}={10 * self.patience:.0f})"
        ), True

    def _leave(self, rank, what, is_lost):
        """End this process; the first to do so says why."""
        told = f"process {rank} of {self.world_size} {what}"
        kind = "ProcessLost" if is_lost else "ProcessFailed"
        with contextlib.suppress(Exception):
            self.record(f"{kind}: {told}")
        try:
            is_first = self.store.add("told", 1) == 1
        except RuntimeError:
            is_first = True
        if is_first:
            told = told[0].upper() + told[1:]
            then = AGAIN if is_lost else f"that mended, {AGAIN}"
            print(f"Error: {told}. The others stop; {then}.", file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)


def begin() -> Watch:
    """Start a watch, at the store of torchrun or of the first process."""
    group = torch.distributed
    store = group.TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=False,
    )
    store.set_timeout(datetime.timedelta(seconds=5 * LOOK))
    # Of a torchrun that starts again, an earlier start's are there.
    prefix = f"watch {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    one = Watch(
        group.PrefixStore(prefix, store),
        group.get_rank(),
        group.get_world_size(),
    )
    one.start()
    atexit.register(one.close)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, one.die)
    return one


def named() -> str:
    """Which process this is, for an error; empty where it is alone."""
    one = processes._watch
    return f" in process {one.rank} of {one.world_size}" if one else ""


def _is_collective(error):
    """Whether a collective operation failed, or the store."""
    if isinstance(error, torch.distributed.DistError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    trace = error.__traceback__
    while trace.tb_next:
        trace = trace.tb_next
    return trace.tb_frame.f_globals["__name__"].startswith("torch.distributed")


def _patience():
    """Seconds for which a process may keep others waiting (float)."""
    told = os.environ.get(VARIABLE, PATIENCE)
    try:
        return float(told)
    except ValueError:
        raise ValueError(f"{VARIABLE}={told}: give seconds: 600") from None


def _where():
    """The machine, and what processes can be seen there; None: not known."""
    try:
        return f"{socket.gethostname()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _is_gone(told, where):
    """Whether a process of this machine is no longer there."""
    if where is None or told["where"] != where:
        return False
    try:
        with open(f"/proc/{told['pid']}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def _work():
    """Seconds of the processor that the main thread has had."""
    thread = threading.main_thread().ident
    if hasattr(time, "pthread_getcpuclockid") and thread:
        return time.clock_gettime(time.pthread_getcpuclockid(thread))
    return time.process_time()


def _line():
    """Where the main thread is, those who wait apart."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    while frame and frame.f_code.co_filename in OWN:
        frame = frame.f_back
    code = frame.f_code if frame else None
    return (
        f"{code.co_filename}:{frame.f_lineno}, {code.co_name}" if code else ""
    )
