"""Ranks of a run as forked processes, one of which meets with a fault.

A process that has everything imported is copied for each rank (Linux). As
under torchrun the store by which they find each other is another process's.
"""

from __future__ import annotations

import datetime
import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from conftest import RECIPE
from speechbrain import Stage

sys.path.insert(0, str(RECIPE))
import train  # noqa: E402

sys.path.remove(str(RECIPE))

from soak.forks import fork  # noqa: E402
from speechllm.command import run_command  # noqa: E402

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Fault:
    """What happens to one rank: at which step, in training or validation."""

    what: str
    rank: int = 1
    step: int = 3
    stage: str = "TRAIN"


def strike(what, brain):
    """The fault itself, within a step."""
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if what == "sleep":
        time.sleep(3600)
    if what == "leave":
        sys.exit(0)
    if what == "memory":
        raise MemoryError("nothing left of the host's memory")
    if what == "card":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
    if what == "allocate":
        torch.empty(2**52)
    if what in ("SIGTERM", "SIGUSR1"):
        os.kill(os.getpid(), getattr(signal, what))
    if what == "torchrun told":
        os.kill(os.getppid(), signal.SIGTERM)


def inject(fault: Fault, mark: Path):
    """Have this process meet with a fault; its moment is written down."""
    real = train.ASR.compute_forward

    def forward(brain, batch, stage):
        """The recipe's, or what the fault makes of it."""
        due = brain.optimizer_step >= fault.step
        if stage == Stage[fault.stage] and due and fault.what != "nan":
            if not mark.exists():
                mark.write_text(str(time.monotonic()))
                strike(fault.what, brain)
        logits_NV, *rest = real(brain, batch, stage)
        if stage == Stage.TRAIN and due and fault.what == "nan":
            mark.write_text(
                mark.read_text() if mark.exists() else str(time.monotonic())
            )
            logits_NV = logits_NV * float("nan")
        return logits_NV, *rest

    train.ASR.compute_forward = forward


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind((HOST, 0))
        return one.getsockname()[1]


def be_store(port):
    """Hold the store until ended, as torchrun does."""
    timeout = datetime.timedelta(seconds=60)
    store = torch.distributed.TCPStore(
        HOST, port, is_master=True, wait_for_workers=False, timeout=timeout
    )
    while store:
        time.sleep(60)


def be_rank(rank, of, port, words):
    """Run the recipe's script as one rank of so many."""
    os.chdir(RECIPE)
    if of > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(of),
            MASTER_ADDR=HOST,
            MASTER_PORT=str(port),
            TORCHELASTIC_USE_AGENT_STORE="True",
            GLOO_SOCKET_IFNAME="lo",
            SPEECHLLM_PATIENCE="40",
        )
        words = [*words, "--distributed_backend", "gloo"]
    run_command(lambda: train.prepare_experiment(words).run())


def be_torchrun(of, words, fault, mark):
    """Become torchrun, whose ranks are started as users start them."""
    os.chdir(RECIPE)
    tests = Path(__file__).parents[1]
    # Not the campaign's own folder: it has names of the standard library's.
    path = [str(tests), str(tests / "core"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    told = [fault.what, fault.rank, fault.step, fault.stage, mark]
    starter = ["-m", "torch.distributed.run", "--standalone"]
    script = [f"--nproc_per_node={of}", "-m", "soak.processes_ranks"]
    words = [*starter, *script, *told, *words]
    os.execv(sys.executable, [sys.executable, *map(str, words)])


def start(log: Path, work, *given) -> int:
    """A group of its own that does some work, its words in a file."""

    def begun():
        os.setpgid(0, 0)
        work(*given)

    return fork(begun, log, at_exit=True)


@dataclass
class Group:
    """The ranks of one start: how and when each of them ended."""

    folder: Path
    words: list[str]
    size: int
    fault: Fault | None = None
    pids: dict[int, int] = field(default_factory=dict)
    codes: dict[int, int] = field(default_factory=dict)
    ended: dict[int, float] = field(default_factory=dict)
    store: int = 0
    torchrun: bool = False

    def start(self):
        """Fork the ranks, and what holds their store."""
        self.folder.mkdir(parents=True)
        port, self.began = free_port(), time.monotonic()
        if self.torchrun:
            mark = self.folder / "fault-0"
            told = self.size, self.words, self.fault, mark
            self.pids[0] = start(self.log(0), be_torchrun, *told)
            return self
        if self.size > 1:
            self.store = start(self.folder / "store.log", be_store, port)
        for rank in range(self.size):
            given = rank, self.size, port, self.words
            self.pids[rank] = start(self.log(rank), self._be, *given)
        return self

    def _be(self, rank, *given):
        if self.fault and self.fault.rank in (rank, -1):
            inject(self.fault, self.folder / f"fault-{rank}")
        be_rank(rank, *given)

    def log(self, rank) -> Path:
        """What a rank said."""
        return self.folder / f"rank-{rank}.log"

    def struck(self) -> float | None:
        """When the fault came, on the monotonic clock."""
        marks = [p.read_text() for p in self.folder.glob("fault-*")]
        return min(map(float, filter(None, marks)), default=None)

    def reap(self):
        """Look who ended, and when."""
        for rank in sorted(set(self.pids) - set(self.codes)):
            done, status = os.waitpid(self.pids[rank], os.WNOHANG)
            if done:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
                self.ended[rank] = time.monotonic()

    def is_over(self, longest: float, after: float) -> bool:
        """Whether all have ended who are to, or time is up."""
        self.reap()
        left = set(self.pids) - set(self.codes)
        if self.fault and self.fault.what == "stop":
            left.discard(self.fault.rank)
        now, struck = time.monotonic(), self.struck()
        late = now - self.began > longest
        late = late or (struck is not None and now - struck > after)
        if left and not late:
            return False
        self.end()
        return True

    def end(self):
        """End what is left, these processes alone."""
        left = [self.pids[r] for r in set(self.pids) - set(self.codes)]
        for one in [*left, *([self.store] if self.store else [])]:
            os.kill(one, signal.SIGKILL)
            os.waitpid(one, 0)
        self.store = 0

    def said(self, rank=None) -> str:
        """What one or all said."""
        ranks = self.pids if rank is None else [rank]
        logs = [self.log(r) for r in ranks if self.log(r).exists()]
        return "".join(one.read_text("utf-8", "replace") for one in logs)


def result(results) -> dict:
    """A run's ``result.json``."""
    return json.loads((Path(results) / "base/result.json").read_text())


def main(what, rank, step, stage, mark, *words):
    """Be a rank that torchrun has started."""
    if os.environ["RANK"] == rank:
        inject(Fault(what, int(rank), int(step), stage), Path(mark))
    words = [*words, "--distributed_backend", "gloo"]
    run_command(lambda: train.prepare_experiment(words).run())


if __name__ == "__main__":
    main(*sys.argv[1:])
