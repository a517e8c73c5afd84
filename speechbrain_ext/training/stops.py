"""Stopping between two steps: where a signal asks for it, all together.

Slurm, and torchrun, send SIGTERM some seconds before they kill; Slurm may be
told to send SIGUSR1 earlier (``#SBATCH --signal=USR1@120``).
"""

from __future__ import annotations

import functools
import os
import signal
import threading

import torch

from speechbrain_ext.training.processes import meet

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1")
    if hasattr(signal, name)
]


def hears_signals(fit):
    """Have signals noted in a Brain's `asked` while it trains."""

    @functools.wraps(fit)
    def hearing(brain, *args, **options):
        """The same."""
        if threading.current_thread() is not threading.main_thread():
            return fit(brain, *args, **options)
        asked: list[int] = []
        before = {
            number: signal.signal(number, lambda n, _: asked.append(n))
            for number in SIGNALS
        }
        brain.asked = asked
        try:
            done = fit(brain, *args, **options)
        finally:
            brain.asked = ()
            for number, handler in before.items():
                signal.signal(number, handler)
        # Too late for a step to hear it; the last one is saved.
        for number in asked[:1]:
            os.kill(os.getpid(), number)
        return done

    return hearing


def hear_nothing(worker=0):
    """In a process that reads data: to stop is the business of its parent."""
    del worker
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


class JoinedSteps:
    """What the processes tell each other in a step, in one all-reduce."""

    def __init__(self):
        # Of the last two steps, as losses are read a step later: whether one
        # was asked to stop, and this process's own loss.
        self.asked, self.own = [], []

    def join(self, loss, gradients, weight, asked):
        """Loss and gradients become their mean over all processes."""
        flag = torch.full_like(loss, float(asked))
        norms = torch._foreach_norm(gradients)
        self.own = [*self.own[-1:], loss + 0 * sum(norms)]
        self.asked = [*self.asked[-1:], flag]
        meet()
        mean_over_ranks([loss, flag, *gradients], weight)

    def is_stop(self) -> bool:
        """Whether all stop now: one was asked to, by the step before."""
        return len(self.asked) > 1 and self.asked[0].item() > 0

    def is_finite(self) -> bool:
        """Whether this process's own losses and gradients are numbers."""
        return all(one.isfinite().item() for one in self.own)


def mean_over_ranks(tensors, weight):
    """Each tensor's mean over all processes, in its place, by one all-reduce.

    Arguments
    ---------
    tensors : list of torch.Tensor
        Of any shapes, on one device.
    weight : float
        How much this process's count.
    """
    ones = torch.ones_like(tensors[-1]).reshape(-1)[:1]
    flat = torch.cat([*(one.reshape(-1) for one in tensors), ones])
    torch.distributed.all_reduce(flat.mul_(weight))
    flat.div_(flat[-1].clone())
    parts = flat[:-1].split([one.numel() for one in tensors])
    for one, part in zip(tensors, parts):
        one.copy_(part.view_as(one))
