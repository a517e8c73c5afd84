"""Where models run: the best device that is there, or the one asked for."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

NAMES = ("cpu", "cuda", "mps", "xpu")
# What people call a GPU elsewhere.
ALIASES = {"gpu": "cuda", "nvidia": "cuda", "metal": "mps"}


def check_device_name(device: str) -> str:
    """Refuse a word that names no kind of device (ValueError)."""
    kind, _, number = str(device).partition(":")
    if kind in NAMES and re.fullmatch(r"\d*", number):
        return str(device)
    near = difflib.get_close_matches(kind.lower(), NAMES, 1)
    meant = ALIASES.get(kind.lower(), near[0] if near else "")
    hint = f"; did you mean {meant}?" if meant else ""
    raise ValueError(
        f"device: {device!r} is none of {', '.join(NAMES)}, or one with a "
        f"number, such as cuda:1{hint}"
    )


def pick_device(device: object = None) -> str:
    """The device asked for, such as ``cuda:1``, if it is there (ValueError).

    None: a CUDA GPU, an Apple GPU, another accelerator, or the CPU.
    """
    import torch

    there: dict[str, Callable[[], bool]] = {
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
        "xpu": torch.xpu.is_available,
    }
    if device is None:
        found = (name for name, is_there in there.items() if is_there())
        return next(found, "cpu")
    device = check_device_name(str(device))
    kind, _, number = device.partition(":")
    if kind == "cpu":
        return device
    if not there[kind]():
        raise ValueError(
            f"device: {device} is not there: torch {torch.__version__} finds "
            f"no {kind} device on this machine: use {pick_device()}"
        )
    count = getattr(torch, kind).device_count()
    if number and int(number) >= count:
        raise ValueError(
            f"device: {device} is not there, only {kind}:0"
            + (f" to {kind}:{count - 1}" if count > 1 else "")
        )
    return device
