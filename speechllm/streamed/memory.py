"""How much memory is free, and whether a model's weights fit into it."""

from __future__ import annotations

from pathlib import Path

import torch

# A container's limit, its use, and what of that is but files read before.
GROUP = Path("/sys/fs/cgroup")
MEMORY = Path("/proc/meminfo")
# Weights that take more of it leave no room for the states.
SHARE = 0.8


def free_memory(device: str = "cpu") -> int:
    """Bytes that a new model may take on a device."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        lines = MEMORY.read_text().splitlines()
        told = dict(line.split(":") for line in lines)
        free = int(told["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        # No Linux: nothing is known, and nothing is in the way.
        return 1 << 62
    try:
        most = int((GROUP / "memory.max").read_text())
        used = int((GROUP / "memory.current").read_text())
        stat = (GROUP / "memory.stat").read_text().splitlines()
        files = int(dict(line.split() for line in stat)["file"])
        free = min(free, most - used + files)
    except (OSError, KeyError, ValueError):
        pass  # no container, or none with a limit
    return max(free, 0)


def fits(size: int, device: str = "cpu") -> bool:
    """Whether weights of some bytes fit into a device's memory."""
    return size <= SHARE * free_memory(device)
