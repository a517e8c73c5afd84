"""Data preparation: manifests of CoVoST 2 for any pair of languages.

What is needed, in the folders' own layout:

- the Common Voice release (version 4) of the source language: a folder with
  ``clips/*.mp3``, such as ``cv-corpus-4-2019-12-10/en``
- ``covost_v2.<source>_<target>.{train,dev,test}.tsv``, with the columns path,
  sentence, translation, client_id; CoVoST's ``get_covost_splits.py`` makes
  them from its translations and Common Voice's ``validated.tsv``

Download: https://github.com/facebookresearch/covost
"""

import hashlib
import json
import os
import re

from speechbrain.utils.logger import get_logger

from speechbrain_ext.data.manifests import (
    Fingerprints,
    PreparationError,
    Split,
    Utterance,
    clip_of,
    file_state,
    mark_repeated,
    read_clips,
    read_tsv,
    refuse,
    report,
    require_manifests,
    to_prepare,
    write_good,
)

logger = get_logger(__name__)
WHERE = "https://github.com/facebookresearch/covost"
VERSION = 3
TSV_COLUMNS = ["path", "sentence", "translation", "client_id"]
COLUMNS = ["wav", "spk_id", "sentence", "translation"]
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z]{2})?")
CLIP = re.compile(r"common_voice_(?P<language>[A-Za-z-]+)_\d+\.mp3")
TABLE = re.compile(r"covost_v2\.(.+_.+)\.(train|dev|test)\.tsv")
AGAIN = "make it again with get_covost_splits.py"
MEND = f"Mend them (where to get the data: {WHERE})"


def prepare_covost2(
    data_folder,
    save_folder,
    source_language,
    target_language,
    splits=("train", "dev", "test"),
    covost_folder=None,
    flac_folder=None,
    longest_seconds=None,
    skip_prep=False,
    skip_bad=False,
    check_audio="full",
    threads=8,
):
    """Check the data and write ``<source>_<target>_<split>.csv``."""
    if check_audio not in ("full", "header"):
        raise PreparationError(
            f"check_audio: {check_audio}, choose full or header"
        )
    data_folder = str(data_folder)
    root = find_clips(data_folder, source_language, target_language)
    data_root = os.path.abspath(flac_folder) if flac_folder else root
    pair = f"{source_language}_{target_language}"
    names = [f"{pair}_{split}" for split in dict.fromkeys(splits)]
    if skip_prep:
        require_manifests(save_folder, names)
        return data_root
    os.makedirs(save_folder, exist_ok=True)
    settings = [VERSION, skip_bad, check_audio, longest_seconds, data_root]
    found, notes = [], {}
    for split, name in zip(dict.fromkeys(splits), names):
        table = find_table(data_folder, root, covost_folder, pair, split)
        one, notes[name] = read_split(
            name, table, root, source_language, settings
        )
        found.append(one)
    mark_repeated(found, noted=True)
    done = Fingerprints(os.path.join(save_folder, "covost2_prepare.json"))
    todo = to_prepare(found, done, logger)
    # What the tables alone tell comes before hours of decoding.
    if not skip_bad:
        refuse(todo, save_folder, MEND)
    read_clips(todo, root, flac_folder, longest_seconds, check_audio, threads)
    for split in write_good(todo, save_folder, COLUMNS, done, skip_bad, MEND):
        speakers = len({u.row["spk_id"] for u in split.good})
        report(split, logger, speakers, notes[split.name])
    return data_root


def find_clips(data_folder, source, target):
    """The folder with ``clips/`` in it, for a pair of languages."""
    for key, code in (("source_language", source), ("target_language", target)):
        if not LANGUAGE.fullmatch(code):
            raise PreparationError(
                f"{key}: {code!r} is no language code: write it as Common "
                "Voice does, such as en, fr, zh-CN or sv-SE"
            )
    if source == target:
        raise PreparationError(
            f"target_language: {target} is the source language too: choose "
            "another"
        )
    places = [os.path.join(data_folder, source), data_folder]
    for place in places:
        if os.path.isdir(os.path.join(place, "clips")):
            return place
    there = "no such folder"
    if os.path.isdir(data_folder):
        there = ", ".join(sorted(os.listdir(data_folder))[:10]) or "nothing"
        there = f"there is {there}"
    raise PreparationError(
        f"data_folder: {data_folder} holds no clips/ and no {source}/clips/ "
        f"({there}): give the folder of Common Voice's {source} release"
    )


def find_table(data_folder, root, covost_folder, pair, split):
    """The TSV of a pair and split."""
    places = [covost_folder] if covost_folder else [root, data_folder]
    wanted = f"covost_v2.{pair}.{split}.tsv"
    others = []
    for place in dict.fromkeys(places):
        if os.path.isfile(os.path.join(place, wanted)):
            return os.path.join(place, wanted)
        if os.path.isdir(place):
            names = sorted(os.listdir(place))
            others += [name for name in names if TABLE.fullmatch(name)]
    pairs = sorted({TABLE.fullmatch(name)[1] for name in others} - {pair})
    source, target = pair.split("_")
    hint = f" There are tables of {', '.join(pairs)}." if pairs else ""
    raise PreparationError(
        f"{wanted} is not in {' or '.join(dict.fromkeys(places))}.{hint} Make "
        f"it with get_covost_splits.py --version 2 --src-lang {source} "
        f"--tgt-lang {target} --root FOLDER --cv-tsv {root}/validated.tsv "
        f"(from {WHERE}) and give --covost_folder FOLDER, or set "
        "source_language and target_language to a pair that is there."
    )


def read_split(name, table, root, language, settings):
    """A split from its table, before any clip is opened."""
    rows, notes = read_tsv(table, TSV_COLUMNS, AGAIN)
    clips = set(os.listdir(os.path.join(root, "clips")))
    utterances = [
        utterance(header, cells, place, clips, language)
        for place, header, cells in rows
    ]
    state = hashlib.sha256(json.dumps(settings).encode())
    state.update(file_state(table))
    for one in utterances:
        if one.row:
            state.update(file_state(clip_of(one, root)))
    return Split(name, utterances, state.hexdigest()), notes


def utterance(header, cells, place, clips, language):
    """One row of a table as an Utterance, its faults marked."""
    row = dict(zip(header, cells))
    path = row.get("path", "")
    path = path if os.path.splitext(path)[1] else f"{path}.mp3"
    one = Utterance(os.path.splitext(os.path.basename(path))[0], place)
    if len(cells) != len(header):
        why = f"{len(cells)}, the head has {len(header)}"
        one.refuse("unequal columns", f"{why} (an unescaped tab in a text?)")
        return one
    one.row = {
        "wav": f"$data_root/clips/{path}",
        "spk_id": row["client_id"],
        "sentence": row["sentence"],
        "translation": row["translation"],
    }
    named = CLIP.fullmatch(os.path.basename(path))
    if named and named["language"] != language:
        one.refuse(
            "other language", f"{path} is not source_language {language}"
        )
    if not row["translation"].strip(' "'):
        one.refuse("empty translation")
    if path not in clips:
        one.refuse("absent clip", f"clips/{path}")
    return one
