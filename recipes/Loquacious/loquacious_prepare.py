"""Data preparation: an index of the Loquacious set's Parquet files.

The audio stays where it is: a manifest's ``wav`` names the file, the row
group and the row. Either give the hub's name of the set, and the files of the
wanted subsets are fetched into the hub's own cache, or a folder with a copy of
them: ``<subset>/*.parquet``, the subsets being small (250 h), medium
(2,500 h), clean (13,000 h), large (25,000 h), dev and test.

Download: https://huggingface.co/datasets/speechbrain/LoquaciousSet
"""

import glob
import hashlib
import io
import json
import math
import os
import re

from speechbrain.utils.logger import get_logger

from speechbrain_ext.data.audio import audio_info, check_format, read_utterance
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.manifests import (
    Fingerprints,
    PreparationError,
    Split,
    Utterance,
    file_state,
    in_parallel,
    mark_repeated,
    report,
    require_manifests,
    write_good,
)
from speechbrain_ext.data.parquet import open_parquet, place_of

logger = get_logger(__name__)
WHERE = "https://huggingface.co/datasets/speechbrain/LoquaciousSet"
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
VERSION = 2
NEEDED = ["ID", "duration", "wav", "spk_id", "text"]
COLUMNS = ["wav", "spk_id", "wrd"]
CHECKS = ("none", "header", "full")
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
    if check_audio not in CHECKS:
        raise PreparationError(
            f"check_audio: {check_audio}, choose none, header or full"
        )
    splits = list(dict.fromkeys(splits))
    root = find_root(data_folder, splits)
    if skip_prep:
        require_manifests(save_folder, splits)
        return root
    os.makedirs(save_folder, exist_ok=True)
    settings = [VERSION, skip_bad, check_audio, os.path.realpath(root)]
    done = Fingerprints(os.path.join(save_folder, "loquacious_prepare.json"))
    todo = []
    for name in splits:
        files = parquet_files(root, name)
        split = Split(name, [], fingerprint(files, settings))
        if done.fits(split):
            logger.info(f"{name}: prepared before and unchanged")
            continue
        read_split(split, files, check_audio, threads)
        todo.append(split)
    mark_repeated(todo)
    for split in write_good(todo, save_folder, COLUMNS, done, skip_bad, MEND):
        speakers = len({u.row["spk_id"] for u in split.good})
        report(split, logger, speakers)
    return root


def find_root(data_folder, splits):
    """The folder with the subsets in it, fetched if it is on the hub."""
    if not os.path.isdir(data_folder) and HUB_ID.fullmatch(data_folder):
        return fetch(data_folder, splits)
    lacking = [s for s in splits if not parquet_files(data_folder, s)]
    if not lacking:
        return data_folder
    there = "no such folder"
    if os.path.isdir(data_folder):
        there = ", ".join(sorted(os.listdir(data_folder))[:10]) or "nothing"
        there = f"there is {there}"
    raise PreparationError(
        f"data_folder: {data_folder} has no {lacking[0]}/*.parquet ({there}): "
        f"give a folder with {', '.join(splits)}, or speechbrain/LoquaciousSet "
        "to fetch them"
    )


def fetch(name, splits):
    """Fetch the subsets from the hub into its cache; gives the folder."""
    from huggingface_hub import snapshot_download

    try:
        return snapshot_download(
            name,
            repo_type="dataset",
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


def fingerprint(files, settings):
    """A hash that changes with any file or setting (str)."""
    state = hashlib.sha256(json.dumps(settings).encode())
    for file in files:
        state.update(file_state(file))
    return state.hexdigest()


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
    text = " ".join((cells["text"] or "").split())
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
        if full:
            samples = read_utterance(io.BytesIO(content), name=one.name)
            one.duration = len(samples) / 16000
        else:
            info = audio_info(io.BytesIO(content), one.name, decode=False)
            check_format(info, one.name)
            # An estimate is worse than what the table says.
            if info.frames is not None:
                one.duration = info.seconds
    except AudioError as error:
        one.refuse("broken audio", str(error))
