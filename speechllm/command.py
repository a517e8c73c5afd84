"""How a recipe's script ends: done, refused (2), or stopped (130)."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import Any

from speechbrain_ext.runs.disks import MENDS, WriteError
from speechbrain_ext.training.faults import ConfigError
from speechbrain_ext.training.processes import ended_by
from speechbrain_ext.training.watch import named
from speechllm.pipes import printable

REFUSED, STOPPED = 2, 130
# Packages that refuse in words of their own.
OURS = ("speechbrain_ext.", "speechllm.")


def run_command(main: Callable[[], Any]) -> None:
    """Call a script's main; a refusal and Ctrl-C end it without a traceback.

    What is raised elsewhere, deep in a library, is a fault to be looked into
    and keeps its traceback, as everything does with ``SPEECHLLM_DEBUG=1``.
    """
    debug = os.environ.get("SPEECHLLM_DEBUG")
    try:
        main()
    except KeyboardInterrupt:
        if debug:
            raise
        print("\nStopped: the same command goes on from here.", file=sys.stderr)
        raise SystemExit(STOPPED) from None
    except Exception as error:
        is_new = ended_by(error)
        if debug:
            raise
        # A disk's faults are the user's to mend, whoever meets them.
        told = disk_words(error) if isinstance(error, OSError) else ""
        if not (told or _is_refusal(error)):
            raise
        if is_new:  # and no other process has said it
            why = told or printable(error)
            print(f"Error{named()}: {why}", file=sys.stderr)
        raise SystemExit(REFUSED) from None


def disk_words(error: OSError) -> str:
    """What a person is told of a disk's error; empty where it is none."""
    mend = MENDS.get(error.errno or 0, "")
    what = f"{error.filename2 or error.filename}: {error.strerror}"
    if isinstance(error, FileNotFoundError):
        mend = "Put it back or make it again"
        # safetensors says all in its words.
        what = what if error.filename else str(error)
    if isinstance(error, WriteError) or not mend or what.startswith("None"):
        return ""
    return f"{what}. {mend}, then start the same command again"


def _is_refusal(error):
    """Whether one of us said no, rather than a library."""
    if isinstance(error, ConfigError):
        return True
    if not isinstance(error, (ValueError, OSError)):
        return False
    *_, (frame, _) = traceback.walk_tb(error.__traceback__)
    folder = os.path.dirname(os.path.abspath(frame.f_code.co_filename))
    # A recipe's own files lie beside its script, which is first on the path.
    beside = os.path.abspath(sys.path[0] or ".")
    return folder == beside or frame.f_globals["__name__"].startswith(OURS)
