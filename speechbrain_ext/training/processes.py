"""What the processes of one run do together: wait, and end.

Who looks after the others, and who hears signals, is of a later slice.
"""

from __future__ import annotations

import os
from typing import Any

from speechbrain.utils import distributed

from speechbrain_ext.later import later

_watch: Any = None
_stops = later("training.stops")
# Of a Brain's `fit`, and of processes that read data.
hears_signals = _stops.hears_signals if _stops else lambda fit: fit
hear_nothing = _stops.hear_nothing if _stops else None


def watch() -> Any:
    """The watch of this process, from now on; None where it runs alone."""
    global _watch
    is_group = distributed.is_distributed_initialized()
    if _watch is None and is_group and "MASTER_ADDR" in os.environ:
        watching = later("training.watch")
        _watch = watching and watching.begin()
    return _watch


def run_on_main(function, args=()):
    """SpeechBrain's, but the others wait for as long as it takes.

    In a collective operation they would be given up after two hours.
    """
    one = watch()
    if one is None:
        return distributed.run_on_main(function, args)
    return one.call(function, args)


def meet() -> None:
    """Say that this process waits for the others from here on."""
    if _watch is not None:
        _watch.meetings += 1


def ended_by(error: BaseException) -> bool:
    """Tell the other processes what ends this one; whether that is new."""
    return _watch is None or _watch.ended_by(error)
