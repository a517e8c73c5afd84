"""The machine that something is timed on: its name, and others' work on it."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path


def machine_name() -> str:
    """Cores and processor in words, without anything that names the host."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{os.cpu_count()}-core {platform.machine()} machine"
    split = (line.partition(":") for line in lines)
    facts = {key.strip(): value.strip() for key, _, value in split}
    model = facts.get("model name", platform.machine())
    virtual = "hypervisor" in facts.get("flags", "").split()
    kind = "virtual machine" if virtual else "machine"
    return f"{os.cpu_count()}-core {model} {kind}"


class OthersWork:
    """How many cores other processes keep busy from now on."""

    def __init__(self):
        self.began = _work()

    def cores(self) -> float | None:
        """Their mean number until now; None where the system does not tell."""
        ended = _work()
        if self.began is None or ended is None:
            return None
        all_of_it, own, seconds = (
            end - begin for begin, end in zip(self.began, ended)
        )
        return max(0.0, all_of_it - own) / seconds if seconds else None


def _work():
    """Seconds of work of all cores and of this process, and the time."""
    try:
        with open("/proc/stat", encoding="ascii") as stream:
            ticks = list(map(int, stream.readline().split()[1:9]))
    except (OSError, ValueError):
        return None
    # user nice system idle iowait irq softirq steal
    busy = sum(ticks) - ticks[3] - ticks[4]
    own = sum(os.times()[:2])
    return busy / os.sysconf("SC_CLK_TCK"), own, time.perf_counter()
