"""The most memory held since a moment: the card's, or this process's."""

from __future__ import annotations

import ctypes
import gc
import re

import torch


def reset_peak(device):
    """Begin to look for a new peak; gives whether it can be told."""
    # What is no longer used is not to count.
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):  # another C library than glibc
        pass
    try:
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
    except OSError:
        return False
    return True


def peak_memory(device):
    """Bytes held at most since `reset_peak`; None where nobody tells."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        with open("/proc/self/status") as stream:
            found = re.search(r"VmHWM:\s+(\d+) kB", stream.read())
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


class PeakMemory:
    """The peak of a part of a run, over all starts of the run."""

    def __init__(self, device, before=None):
        self.device, self.before = device, before
        self.known = reset_peak(device)

    def bytes(self):
        """The peak so far (int), or None where it cannot be told."""
        now = peak_memory(self.device) if self.known else None
        known = [one for one in (now, self.before) if one is not None]
        return max(known, default=None)
