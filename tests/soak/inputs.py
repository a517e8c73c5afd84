"""Inputs: every kind of file of our own, spoiled by a grammar and read.

Each case spoils one file of a sound folder in one way (`inputs_mutate`) and
reads it as a command does, in a forked child that is watched
(`inputs_watch`). It is survived where it is read all the same, or refused by
a line that names the file; in seconds, in a gigabyte, nothing written
elsewhere, nothing run. Linux only.
"""

from __future__ import annotations

from soak.inputs_guided import guided
from soak.inputs_kinds import KINDS
from soak.inputs_watch import cases


def faults(setting):
    """Some cases of each kind."""
    for kind in KINDS:
        yield from cases(kind, setting)
    yield from guided(setting)
