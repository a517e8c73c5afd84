"""The rows of a manifest, and which of them are trained on."""

from __future__ import annotations

import csv

from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.data.sets import durations

ROOT = "$data_root"


def read_manifest(file: str, root: str = "") -> dict:
    """Rows of a manifest by their ID, texts exactly as they were written.

    SpeechBrain's reader takes every ``$`` for a variable, and a sentence
    about money for a missing one: here only audio paths have one.

    Arguments
    ---------
    file : str
        A CSV with the columns ID, duration and wav.
    root : str
        Stands in for ``$data_root`` at the head of ``wav``.

    Returns
    -------
    dict
        ID to a dict of the other columns; duration is a float.

    Raises
    ------
    ValueError
        If it lacks one of these columns.
    """
    rows = {}
    with open(file, newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        there = table.fieldnames or []
        lacking = {"ID", "duration", "wav"}.difference(there)
        if lacking:
            raise ValueError(
                f"{file}: no manifest: no column {', '.join(sorted(lacking))} "
                f"(there is {', '.join(there) or 'nothing'}): prepare the data "
                "again"
            )
        for row in table:
            row["duration"] = float(row["duration"])
            if row["wav"].startswith(ROOT):
                row["wav"] = root + row["wav"][len(ROOT) :]
            rows[row.pop("ID")] = row
    return rows


def keep_lengths(dataset, shortest, longest):
    """Train on clips of some lengths alone, and say how many those are.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The training set; changed in place.
    shortest, longest : float
        Bounds in seconds, themselves included.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    seconds = dict(zip(dataset.data_ids, durations(dataset)))
    short = sum(length < shortest for length in seconds.values())
    long = sum(length > longest for length in seconds.values())
    told = (
        f"{short} shorter than train_min_seconds {shortest}, {long} longer "
        f"than train_max_seconds {longest}"
    )
    if short + long == len(seconds):
        raise ValueError(
            f"train: none of {len(seconds)} utterances is left, {told}: give "
            "other bounds"
        )
    dataset.data_ids = [
        i for i, length in seconds.items() if shortest <= length <= longest
    ]
    if if_main_process():
        print(
            f"train: {len(dataset)} of {len(seconds)} utterances are trained "
            f"on, {sum(durations(dataset)) / 3600:.2f} hours; {told}"
        )
