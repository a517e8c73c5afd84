"""A reader that goes, such as `head`, is nothing to complain of."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def reader_may_go() -> Iterator[None]:
    """Printing inside ends quietly where nobody reads on."""
    try:
        yield
    except BrokenPipeError:
        # What is still in the buffer goes nowhere when Python ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
