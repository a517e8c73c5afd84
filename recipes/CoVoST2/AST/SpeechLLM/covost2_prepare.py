"""Data preparation: manifests of CoVoST 2 for any pair of languages.

What is needed, in the folders' own layout:

- the Common Voice release (version 4) of the source language: a folder with
  ``clips/*.mp3``, such as ``cv-corpus-4-2019-12-10/en``
- ``covost_v2.<source>_<target>.{train,dev,test}.tsv``, with the columns path,
  sentence, translation, client_id; CoVoST's ``get_covost_splits.py`` makes
  them from its translations and Common Voice's ``validated.tsv``

Download: https://github.com/facebookresearch/covost
"""

import csv
import io
import os
import re

import soundfile

from speechbrain_ext.data.audio import audio_blocks
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.manifests import (
    SAMPLE_RATE,
    Manifests,
    PreparationError,
    Split,
    Utterance,
    audio_seconds,
    choose,
    fingerprint,
    holds,
    mark_repeated,
    measure,
)
from speechbrain_ext.runs.files import atomic_write

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
    choose("check_audio", check_audio, ("full", "header"))
    data_folder = str(data_folder)
    root = find_clips(data_folder, source_language, target_language)
    data_root = os.path.abspath(flac_folder) if flac_folder else root
    pair = f"{source_language}_{target_language}"
    splits = list(dict.fromkeys(splits))
    manifests = Manifests(save_folder, "covost2", COLUMNS, MEND, skip_bad)
    if skip_prep:
        manifests.require([f"{pair}_{split}" for split in splits])
        return data_root
    settings = [VERSION, skip_bad, check_audio, longest_seconds, data_root]
    found = []
    for split in splits:
        table = find_table(data_folder, root, covost_folder, pair, split)
        name = f"{pair}_{split}"
        found.append(read_split(name, table, root, source_language, settings))
    mark_repeated(found, noted=True)
    todo = manifests.outdated(found)
    # What the tables alone tell comes before hours of decoding.
    manifests.refuse(todo)
    full = check_audio == "full"

    def seconds(one):
        length = read_clip(one, root, flac_folder, full)
        if longest_seconds is not None and length > longest_seconds:
            why = f"{length:.1f} s, longest_seconds is {longest_seconds}"
            one.refuse("too long", why)
        return length

    what = "converting clips" if flac_folder else "reading clips"
    measure(todo, seconds, threads, what)
    manifests.write(todo)
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
    raise PreparationError(
        f"data_folder: {data_folder} holds no clips/ and no {source}/clips/ "
        f"({holds(data_folder)}): give the folder of Common Voice's {source} "
        "release"
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
    rows, notes = read_tsv(table)
    clips = set(os.listdir(os.path.join(root, "clips")))
    utterances = [
        utterance(header, cells, place, clips, language)
        for place, header, cells in rows
    ]
    files = [table, *(one.audio(root) for one in utterances if one.row)]
    return Split(name, utterances, fingerprint(settings, files), notes)


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


def read_tsv(file):
    """Place, header and cleaned cells of each row, and what was cleaned.

    Backslashes escape tabs, quotes and themselves there, as CoVoST's own
    script writes them; nothing is quoted.
    """
    name, rows, tabs, quoted = os.path.basename(file), [], 0, 0
    blank = 0
    try:
        with open(file, newline="\n", encoding="utf-8-sig") as stream:
            lines = csv.reader(
                (_one_row(line) for line in stream),
                delimiter="\t",
                quoting=csv.QUOTE_NONE,
                escapechar="\\",
            )
            header = next(lines, [])
            lacking = [c for c in TSV_COLUMNS if c not in header]
            if lacking:
                raise PreparationError(
                    f"{file}: no column {', '.join(lacking)} (there is "
                    f"{', '.join(header) or 'nothing'}): {AGAIN}"
                )
            for cells in lines:
                if not "".join(cells).strip():
                    blank += 1
                    continue
                tabs += any("\t" in cell for cell in cells)
                quoted += any(unquoted(cell) != cell for cell in cells)
                plain = [" ".join(unquoted(cell).split()) for cell in cells]
                rows.append((f"{name}, line {lines.line_num}", header, plain))
    except (UnicodeDecodeError, csv.Error) as error:
        raise PreparationError(
            f"{file}: cannot be read as a table ({error}): fetch it again"
        ) from error
    if not rows:
        raise PreparationError(f"{file}: holds no utterance: {AGAIN}")
    notes = f", tabs inside {tabs} rows made spaces" if tabs else ""
    if quoted:
        notes += f", a CSV writer's quotes taken off in {quoted} rows"
    if blank:
        notes += f", {blank} blank lines passed over"
    return rows, notes


def _one_row(line):
    """A line whose carriage returns end no row: line feeds alone do."""
    end = "\n" if line.endswith("\n") else ""
    return line.rstrip("\r\n").replace("\r", " ") + end


def unquoted(text):
    """A cell without the quotes that a CSV writer put around it."""
    inside = text[1:-1]
    wrapped = len(text) > 1 and text[0] == text[-1] == '"'
    if wrapped and '""' in inside and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return text


def read_clip(one, root, flac_folder, full):
    """Seconds of an utterance's clip (float), made a FLAC where asked."""
    clip = one.audio(root)
    if not flac_folder:
        return audio_seconds(clip, full=full, resample=True)
    place = f"clips/{one.name}.flac"
    one.row["wav"] = f"$data_root/{place}"
    file = os.path.join(flac_folder, place)
    try:
        changed = os.path.getmtime(clip)
    except OSError as error:
        raise AudioError(f"{clip}: cannot be opened ({error})") from error
    if os.path.isfile(file) and os.path.getmtime(file) >= changed:
        return audio_seconds(file)
    content, samples = io.BytesIO(), 0
    with soundfile.SoundFile(
        content, "w", SAMPLE_RATE, 1, "PCM_16", format="FLAC"
    ) as out:
        # A small file can hold days of silence: never all of it at once.
        for wav_N in audio_blocks(clip, SAMPLE_RATE, resample=True):
            out.write(wav_N.numpy())
            samples += len(wav_N)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with atomic_write(file, "wb") as stream:
        stream.write(content.getvalue())
    return samples / SAMPLE_RATE
