"""Stopping between two steps: where a signal asks for it, all together.

Slurm, and torchrun, send SIGTERM some seconds before they kill; Slurm may be
told to send SIGUSR1 earlier (``#SBATCH --signal=USR1@120``).
"""

from __future__ import annotations

import functools
import os
import signal
import threading

SIGNALS = [
    getattr(signal, name)
    for name in ("SIGTERM", "SIGUSR1")
    if hasattr(signal, name)
]


class Stopped(SystemExit):
    """A signal asked to stop, and everything is saved."""

    def __init__(self, number: int = signal.SIGTERM, step: int = 0):
        super().__init__(
            f"by {signal.Signals(number).name} after step {step}, which is "
            "saved: the same command goes on from there"
        )
        self.code = 128 + number


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
