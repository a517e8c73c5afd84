"""Recordings and the lists of them, as strangers send them.

Linux only: forked children, pipes, /proc. What is wrong is made again by
`recordings_child.again` from its kind, its number and the seed.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable

from soak.recordings_audio import FORMATS, audio_case, make_seeds
from soak.recordings_cells import sound
from soak.recordings_child import tried
from soak.recordings_grammars import GRAMMARS
from soak.recordings_guided import guided
from soak.recordings_lists import list_case
from soak.recordings_odd import naming_case, odd_case, silence_case

# The slow ones are fewer.
QUICK, FULL = 200, 10_000
SILENCES = 2, 20


def kinds() -> dict[str, Callable]:
    """Every kind of case, by the name under which it is counted."""
    lists = {f"a list: {form}": list_case(form) for form in GRAMMARS}
    sounds = {f"a recording: {form}": audio_case(form) for form in FORMATS}
    return {
        **lists,
        **sounds,
        "a playlist": naming_case,
        "no recording": odd_case,
    }


def faults(setting):
    """Lists by their grammar, recordings by their format, and odd files."""
    logging.getLogger("speechbrain_ext").setLevel(logging.WARNING)
    # Made once, before any child is forked.
    make_seeds()
    # Which pyarrow loads at the first cast.
    importlib.import_module("pyarrow.compute")
    for form in ("WAV", "FLAC", "mp3"):
        sound(form)
    many = setting.many(QUICK, FULL)
    for kind, act in kinds().items():
        yield from tried(kind, many, act, setting)
    kind = "hours of silence in some kilobytes"
    yield from tried(kind, setting.many(*SILENCES), silence_case, setting)
    if not setting.quick:
        for reader in ("tsv", "transcripts"):
            yield from guided(reader, setting)
