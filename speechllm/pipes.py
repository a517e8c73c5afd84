"""Terminals and pipes: what is typed, what may be written there, who reads it.

A reader that goes, such as `head`, is nothing to complain of.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import unicodedata
from collections.abc import Iterator

# Of one message; some megabytes of a file may stand in it.
LETTERS = 8000


def module_parser(module: str, doc: str | None) -> argparse.ArgumentParser:
    """The command line of ``python -m``; its help begins as the docstring."""
    return argparse.ArgumentParser(
        prog=f"python -m {module}", description=(doc or "").split("\n")[0]
    )


def printable(told: object) -> str:
    """A message for a terminal: files may hold what would steer it."""
    text = str(told)
    if len(text) > LETTERS:
        text = f"{text[:LETTERS]} ... ({len(text) - LETTERS} letters more)"
    return "".join(
        ascii(letter)[1:-1]
        if unicodedata.category(letter) in ("Cc", "Cs") and letter not in "\n\t"
        else letter
        for letter in text
    )


@contextlib.contextmanager
def reader_may_go() -> Iterator[None]:
    """Printing inside ends quietly where nobody reads on."""
    try:
        yield
    except BrokenPipeError:
        # What is still in the buffer goes nowhere when Python ends.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
