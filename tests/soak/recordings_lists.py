"""Lists of recordings, and what the recipes make of them.

Each case is a folder as a stranger may send it, prepared by a recipe's own
script as typed; then the manifests are read as training reads them.
"""

from __future__ import annotations

import logging
import os
import traceback
from pathlib import Path

from soak.recordings_cells import RATE, odd_files
from soak.recordings_child import typed, unclear
from soak.recordings_grammars import GRAMMARS, OWN, RECIPE
from speechbrain_ext.data.audio import read_place
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.rows import read_manifest


class Warnings(logging.Handler):
    """What a user is told beside."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.said = ""

    def emit(self, record):
        """Keep a line."""
        self.said += record.getMessage() + "\n"


def list_case(form):
    """A case of a grammar, as `recordings_child.tried` takes it."""

    def act(random, folder):
        (folder / "data").mkdir()
        odd_files(folder / "data")
        main = GRAMMARS[form](random, folder)
        return prepared(random, folder, form, main)

    return act


def prepared(random, folder, form, main) -> str:
    """Prepare a folder; what is wrong with how that ends (str)."""
    told, logger = Warnings(), logging.getLogger("speechbrain_ext")
    checks = (
        ("header", "full", "none")
        if form == "parquet"
        else (
            "header",
            "full",
        )
    )
    options = {
        "skip_bad": random.random() < 0.85,
        "check_audio": random.choice(checks),
        "threads": random.choice((1, 1, 1, 3)),
    }
    before, here = files_of(folder), os.getcwd()
    logger.addHandler(told)
    try:
        # A command in a list would be run from here.
        os.chdir(folder)
        said = typed(lambda: main(**options), RECIPE.get(form, OWN))
    finally:
        os.chdir(here)
        logger.removeHandler(told)
    new = files_of(folder) - before
    stray = [name for name in new if not name.startswith("out")]
    if stray:
        return f"wrote {', '.join(sorted(stray))}"
    if half := [name for name in new if name.endswith(".tmp")]:
        return f"left {half}"
    if said is not None:
        return unclear(said, str(folder), "data_folder", "train:", "split.")
    return use(folder, told.said)


def files_of(folder: Path) -> set[str]:
    """All below a folder."""
    return {
        os.path.relpath(os.path.join(here, name), folder)
        for here, below, names in os.walk(folder)
        for name in (*names, *below)
    }


def use(folder, warned) -> str:
    """Read the manifests and what they name, as training does."""
    root = str(folder / "data")
    manifests = [
        file
        for file in (folder / "out").glob("*.csv")
        if not file.stem.endswith("-left-out")
    ]
    if not manifests:
        return "neither a manifest nor a word why"
    for file in manifests:
        try:
            found = read_manifest(str(file), root)
        except Exception:
            return f"read_manifest: {traceback.format_exc()}"
        if not found:
            return "an empty manifest"
        for row in found.values():
            if wrong := use_row(row, folder, root, warned):
                return wrong
    return ""


def use_row(row, folder, root, warned) -> str:
    """Read the recording of a manifest's row."""
    place = row["wav"]
    if not 0 < row["duration"] < float("inf"):
        return f"a duration of {row['duration']}"
    if ".parquet#" in place:
        return ""
    inside = place.startswith(root) or place.startswith(str(folder / "out"))
    if (not inside or ".." in place) and "outside" not in warned:
        return f"{place} came in without a word"
    try:
        wav_N = read_place(place, resample=True, mix_channels=True)
    except AudioError as error:
        return unclear(str(error), str(folder))
    except Exception:
        return f"read_place: {traceback.format_exc()}"
    if abs(len(wav_N) / RATE - row["duration"]) > 0.01:
        return f"{place}: {row['duration']} s told, {len(wav_N)} samples read"
    return ""
