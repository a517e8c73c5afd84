"""Work in a copy of this process, with all that is imported. Linux only."""

from __future__ import annotations

import atexit
import os
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm


def fork(work: Callable, said: Path | None = None, **how) -> int:
    """Have a copy of this process do some work; the copy's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    return child or leave(work, said, **how)


def leave(
    work: Callable, said: Path | None = None, at_exit: bool = False
) -> NoReturn:
    """Do some work and end this process with its status.

    What it says goes to a file, if one is given; ``at_exit`` also does what
    was to be done when the process ends.
    """
    code = 1
    # A killed copy may have held what all copies share.
    tqdm.set_lock(threading.RLock())
    # Before there are threads, of which two would make torch's pool anew.
    torch.set_num_threads(1)
    try:
        if said is not None:
            flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC
            stream = os.open(said, flags, 0o644)
            for number in (1, 2):
                os.dup2(stream, number)
        given = work()
        code = given if isinstance(given, int) else 0
    except SystemExit as end:
        code = end.code
        if code and not isinstance(code, int):
            print(code, file=sys.stderr)
        code = code if isinstance(code, int) else int(bool(code))
    except BaseException:
        traceback.print_exc()
    finally:
        if at_exit:
            atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
