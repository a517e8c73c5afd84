"""Data preparation: an index of the Loquacious set's Parquet files.

The audio stays where it is: a manifest's ``wav`` names the file, the row
group and the row. Either give the hub's name of the set, and the files of the
wanted subsets are fetched into the hub's own cache, or a folder with a copy of
them: ``<subset>/*.parquet``, the subsets being small (250 h), medium
(2,500 h), clean (13,000 h), large (25,000 h), dev and test.

Download: https://huggingface.co/datasets/speechbrain/LoquaciousSet
"""

import glob
import io
import math
import os
import re

from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.manifests import (
    Manifests,
    PreparationError,
    Split,
    Utterance,
    audio_seconds,
    choose,
    fingerprint,
    holds,
    in_parallel,
    mark_repeated,
)
from speechbrain_ext.data.parquet import open_parquet, place_of

WHERE = "https://huggingface.co/datasets/speechbrain/LoquaciousSet"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
VERSION = 2
NEEDED = ["ID", "duration", "wav", "spk_id", "text"]
COLUMNS = ["wav", "spk_id", "wrd"]
CHECKS = ("none", "header", "full")
AUDIO = re.compile(r"struct<.*\bbytes: (large_)?binary")
MEND = f"Fetch the files again ({WHERE})"


def prepare_loquacious(
    data_folder,
    save_folder,
    splits,
    skip_prep=False,
    skip_bad=False,
    check_audio="header",
    threads=4,
):
    """Index the Parquet files and write ``<subset>.csv`` for each subset."""
    choose("check_audio", check_audio, CHECKS)
    splits = list(dict.fromkeys(splits))
    root = find_root(data_folder, splits)
    manifests = Manifests(save_folder, "loquacious", COLUMNS, MEND, skip_bad)
    if skip_prep:
        manifests.require(splits)
        return root
    settings = [VERSION, skip_bad, check_audio, os.path.realpath(root)]
    todo = manifests.outdated(
        Split(
            name, fingerprint=fingerprint(settings, parquet_files(root, name))
        )
        for name in splits
    )
    for split in todo:
        read_split(split, parquet_files(root, split.name), check_audio, threads)
    mark_repeated(todo)
    manifests.write(todo)
    return root


def find_root(data_folder, splits):
    """The folder with the subsets in it, fetched if it is on the hub."""
    if not os.path.isdir(data_folder) and HUB_ID.fullmatch(data_folder):
        return fetch(data_folder, splits)
    lacking = [s for s in splits if not parquet_files(data_folder, s)]
    if lacking:
        raise PreparationError(
            f"data_folder: {data_folder} has no {lacking[0]}/*.parquet "
            f"({holds(data_folder)}): give a folder with {', '.join(splits)}, "
            "or speechbrain/LoquaciousSet to fetch them"
        )
    return data_folder


def fetch(name, splits):
    """Fetch the subsets from the hub into its cache; gives the folder."""
    from huggingface_hub import snapshot_download

    try:
        name, _, revision = name.partition("@")
        return snapshot_download(
            name,
            repo_type="dataset",
            revision=revision or None,
            allow_patterns=[f"{split}/*.parquet" for split in splits],
        )
    except Exception as error:  # the hub's are of many kinds
        raise PreparationError(
            f"data_folder: {name} is no folder and cannot be fetched from "
            f"the hub ({error}): go online once, or give a local copy"
        ) from error


def parquet_files(root, split):
    """The Parquet files of a subset, in order (list of str)."""
    folder = os.path.join(glob.escape(root), split)
    return sorted(glob.glob(os.path.join(folder, "*.parquet")))


def read_split(split, files, check_audio, threads):
    """Index a subset's files, several at a time."""
    found = {}

    def read(file):
        place = f"$data_root/{split.name}/{os.path.basename(file)}"
        found[file] = read_file(file, place, check_audio)

    in_parallel(read, files, threads, f"indexing {split.name}")
    for file in files:
        split.utterances += found[file]


def read_file(file, name, check_audio):
    """Index one Parquet file."""
    try:
        source = open_parquet(file)
    except AudioError as error:
        return [_unreadable(name, "damaged file", error)]
    there = source.schema_arrow.names
    lacking = [column for column in NEEDED if column not in there]
    if lacking:
        raise PreparationError(
            f"{file}: no column {', '.join(lacking)} (there is "
            f"{', '.join(there)}): {MEND[0].lower()}{MEND[1:]}"
        )
    kind = str(source.schema_arrow.field("wav").type)
    if not AUDIO.match(kind):
        raise PreparationError(
            f"{file}: the column wav holds {kind[:80]}, not the bytes of "
            f"audio files: {MEND[0].lower()}{MEND[1:]}"
        )
    # The audio is most of the file: left alone where nobody looks at it.
    columns = [c for c in NEEDED if c != "wav" or check_audio != "none"]
    utterances = []
    for group in range(source.num_row_groups):
        try:
            table = source.read_row_group(group, columns=columns)
            rows = table.to_pylist()
        # pyarrow raises errors of its own, OSError and UnicodeDecodeError.
        except Exception as error:
            why = f"{file}, row group {group}: {error}: fetch the file again"
            fault = "damaged rows"
            utterances.append(_unreadable(f"{name}#{group}", fault, why))
            continue
        for row, cells in enumerate(rows):
            place = place_of(name, group, row)
            utterances.append(utterance(cells, place, check_audio))
    return utterances


def _unreadable(place, fault, error):
    """What stands for utterances that nobody can tell apart."""
    one = Utterance(place, place)
    one.refuse(fault, str(error))
    return one


def utterance(cells, place, check_audio):
    """One row as an Utterance, its faults marked."""
    name = str(cells["ID"] or place)
    one = Utterance(name, place)
    try:
        one.duration = float(cells["duration"] or 0)
    except (TypeError, ValueError):
        one.refuse("no duration", str(cells["duration"]))
    text = cells["text"] or ""
    if not isinstance(text, str):
        one.refuse("no text", f"a {type(text).__name__} in the column text")
        text = ""
    text = " ".join(text.split())
    speaker = cells["spk_id"] or "unknown"
    one.row = {"wav": place, "spk_id": speaker, "wrd": text}
    if not cells["ID"]:
        one.refuse("no ID")
    if not text:
        one.refuse("empty transcript")
    if check_audio != "none":
        check(one, cells["wav"], check_audio == "full")
    if not (math.isfinite(one.duration) and one.duration > 0):
        one.refuse("no duration", str(one.duration))
    return one


def check(one, wav, full):
    """Open or decode one utterance's audio, and take its length from it."""
    content = (wav or {}).get("bytes")
    if not content:
        one.refuse("no audio")
        return
    try:
        # An estimate of the length is worse than what the table says.
        seconds = audio_seconds(
            io.BytesIO(content), one.name, full, decode=False
        )
    except AudioError as error:
        one.refuse("broken audio", str(error))
        return
    if seconds is not None:
        one.duration = seconds
