"""Data preparation: manifests of CoVoST 2 for any pair of languages.

What is needed, in the folders' own layout:

- the Common Voice release (version 4) of the source language: a folder with
  ``clips/*.mp3``, such as ``cv-corpus-4-2019-12-10/en``
- ``covost_v2.<source>_<target>.{train,dev,test}.tsv``, with the columns path,
  sentence, translation, client_id; CoVoST's ``get_covost_splits.py`` makes
  them from its translations and Common Voice's ``validated.tsv``

Download: https://github.com/facebookresearch/covost

Authors
 * The speechbrain_ext authors, 2026
"""

import csv
import hashlib
import json
import os
import re

import soundfile
from speechbrain.utils.logger import get_logger

from speechbrain_ext.audio import (
    AudioError,
    audio_info,
    check_format,
    read_utterance,
)
from speechbrain_ext.preparation import (
    Fingerprints,
    PreparationError,
    Split,
    Utterance,
    file_state,
    in_parallel,
    mark_repeated,
    refuse,
    report,
    require_manifests,
    write_split,
)

logger = get_logger(__name__)
WHERE = "https://github.com/facebookresearch/covost"
SAMPLE_RATE = 16000
VERSION = 1
TSV_COLUMNS = ["path", "sentence", "translation", "client_id"]
COLUMNS = ["wav", "spk_id", "sentence", "translation"]
LANGUAGE = re.compile(r"[a-z]{2,3}(-[A-Z]{2})?")
CLIP = re.compile(r"common_voice_(?P<language>[A-Za-z-]+)_\d+\.mp3")
TABLE = re.compile(r"covost_v2\.(.+_.+)\.(train|dev|test)\.tsv")
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
    """Check the data and write ``<source>_<target>_<split>.csv``.

    A manifest is kept when neither its data nor the settings have changed.
    Its paths begin with ``$data_root``, which stands for what this returns.

    Arguments
    ---------
    data_folder : str
        The release's folder of the source language, or the one above it.
    save_folder : str
        Where the manifests go.
    source_language, target_language : str
        Codes, such as "en", "de", "zh-CN".
    splits : iterable of str
        Of train, dev and test.
    covost_folder : str or None
        Where the ``covost_v2.*.tsv`` are; None: beside or above the clips.
    flac_folder : str or None
        Convert each clip once into a FLAC file at 16 kHz there. What is
        there already and not older than its clip is kept.
    longest_seconds : float or None
        A longer utterance counts as bad.
    skip_prep : bool
        Take the manifests as they are.
    skip_bad : bool
        Leave bad utterances out, listed in ``<manifest>-left-out.csv``,
        instead of stopping.
    check_audio : str
        "full" decodes each clip, which alone finds broken ones; "header"
        reads its head.
    threads : int
        Clips read at a time.

    Returns
    -------
    str
        The folder that ``$data_root`` stands for.

    Raises
    ------
    PreparationError
        If something is missing, or for bad utterances.

    Example
    -------
    >>> prepare_covost2("/data/en", "out", "en", "de")  # doctest: +SKIP
    '/data/en'
    """
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
        utterances, notes[name] = read_table(table, root, source_language)
        found.append(Split(name, utterances))
        found[-1].fingerprint = fingerprint(found[-1], table, root, settings)
    mark_repeated(found)
    done = Fingerprints(os.path.join(save_folder, "covost2_prepare.json"))
    todo = [split for split in found if not done.fits(split)]
    for split in found:
        if split not in todo:
            logger.info(f"{split.name}: prepared before and unchanged")
    # What the tables alone tell comes before hours of decoding.
    if not skip_bad:
        refuse(todo, save_folder, MEND)
    read_clips(todo, root, flac_folder, longest_seconds, check_audio, threads)
    for split in todo:
        # A long check of one split is not lost for another's faults.
        if skip_bad or not split.bad:
            write_split(split, save_folder, COLUMNS)
            done.note(split)
            speakers = len({u.row["spk_id"] for u in split.good})
            report(split, logger, speakers, notes[split.name])
    if not skip_bad:
        refuse(todo, save_folder, MEND)
    return data_root


def find_clips(data_folder, source, target):
    """The folder with ``clips/`` in it, for a pair of languages.

    Arguments
    ---------
    data_folder : str
        What the user gave.
    source, target : str
        Language codes.

    Returns
    -------
    str

    Raises
    ------
    PreparationError
        If a code is none, or no such folder is there.
    """
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
    """The TSV of a pair and split.

    Arguments
    ---------
    data_folder, root : str
        What the user gave, and the folder with the clips.
    covost_folder : str or None
        Where to look; None: in those two.
    pair : str
        Such as "en_de".
    split : str
        train, dev or test.

    Returns
    -------
    str

    Raises
    ------
    PreparationError
        If it is not there; says which are.
    """
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


def read_table(table, root, language):
    """Utterances of one TSV, and what was cleaned in it.

    Backslashes escape tabs, quotes and themselves there, as CoVoST's own
    script writes them; nothing is quoted.

    Arguments
    ---------
    table : str
        The file.
    root : str
        The folder with ``clips/``.
    language : str
        The source's code.

    Returns
    -------
    utterances : list of Utterance
        Faults that show without opening a clip are marked.
    notes : str
        For the log.

    Raises
    ------
    PreparationError
        If it is not such a table at all.
    """
    name = os.path.basename(table)
    clips = set(os.listdir(os.path.join(root, "clips")))
    utterances, tabs, quoted = [], 0, 0
    try:
        with open(table, newline="", encoding="utf-8") as stream:
            lines = csv.reader(
                stream, delimiter="\t", quoting=csv.QUOTE_NONE, escapechar="\\"
            )
            header = next(lines, [])
            lacking = [c for c in TSV_COLUMNS if c not in header]
            if lacking:
                raise PreparationError(
                    f"{table}: no column {', '.join(lacking)} (there is "
                    f"{', '.join(header) or 'nothing'}): make it again with "
                    "get_covost_splits.py"
                )
            for cells in lines:
                place = f"{name}, line {lines.line_num}"
                tabs += any("\t" in cell for cell in cells)
                plain = [one_line(unquoted(cell)) for cell in cells]
                quoted += any(unquoted(cell) != cell for cell in cells)
                utterances.append(
                    utterance(header, plain, place, clips, language)
                )
    except (UnicodeDecodeError, csv.Error) as error:
        raise PreparationError(
            f"{table}: cannot be read as a table ({error}): fetch it again"
        ) from error
    if not utterances:
        raise PreparationError(f"{table}: holds no utterance: make it again")
    notes = f", tabs inside {tabs} rows made spaces" if tabs else ""
    if quoted:
        notes += f", a CSV writer's quotes taken off in {quoted} rows"
    return utterances, notes


def unquoted(text):
    """A cell without the quotes that a CSV writer put around it.

    Some of Common Voice's sentences were quoted once on their way. Quotes
    that the sentence itself begins and ends with stay: their inner ones, if
    there are any, are not doubled.

    Example
    -------
    >>> unquoted('"Ein ""Ja"" reicht."'), unquoted('"Ja."')
    ('Ein "Ja" reicht.', '"Ja."')
    """
    inside = text[1:-1]
    wrapped = len(text) > 1 and text[0] == text[-1] == '"'
    if wrapped and '""' in inside and '"' not in inside.replace('""', ""):
        return inside.replace('""', '"')
    return text


def one_line(text):
    """Text with its tabs, line ends and runs of spaces made one space."""
    return " ".join(text.split())


def utterance(header, cells, place, clips, language):
    """One row of a table as an Utterance, its faults marked.

    Arguments
    ---------
    header, cells : list of str
        The columns' names and the row.
    place : str
        Where the row stands.
    clips : set of str
        The files that are there.
    language : str
        The source's code.

    Returns
    -------
    Utterance
    """
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


def fingerprint(split, table, root, settings):
    """A hash that changes with table, clips or settings (str)."""
    state = hashlib.sha256(json.dumps(settings).encode())
    state.update(file_state(table))
    for one in split.utterances:
        if one.row:
            state.update(file_state(clip_of(one, root)))
    return state.hexdigest()


def clip_of(one, root):
    """The path of an utterance's clip (str)."""
    return one.row["wav"].replace("$data_root", root, 1)


def read_clips(splits, root, flac_folder, longest, check_audio, threads):
    """Read or convert the clips of the splits: durations, broken ones.

    Arguments
    ---------
    splits : list of Split
        Changed in place.
    root : str
        The folder with ``clips/``.
    flac_folder : str or None
        Where to convert to.
    longest : float or None
        Most seconds of an utterance.
    check_audio : str
        "full" or "header".
    threads : int
        How many at a time.
    """

    def read(one):
        clip = clip_of(one, root)
        try:
            if flac_folder:
                one.duration = convert(clip, one, flac_folder)
            elif check_audio == "full":
                samples = read_utterance(clip, SAMPLE_RATE, resample=True)
                one.duration = len(samples) / SAMPLE_RATE
            else:
                info = audio_info(clip)
                check_format(info, clip, SAMPLE_RATE, resample=True)
                one.duration = info.seconds
        except AudioError as error:
            one.refuse("broken clip", str(error))
            return
        if longest is not None and one.duration > longest:
            why = f"{one.duration:.1f} s, longest_seconds is {longest}"
            one.refuse("too long", why)

    what = "converting clips" if flac_folder else "reading clips"
    good = [one for split in splits for one in split.good]
    in_parallel(read, good, threads, what)


def convert(clip, one, flac_folder):
    """Make one clip a FLAC file at 16 kHz, unless it is there already.

    Arguments
    ---------
    clip : str
        The MP3.
    one : Utterance
        Its ``wav`` is changed to the new file.
    flac_folder : str
        Where to.

    Returns
    -------
    float
        Seconds.

    Raises
    ------
    speechbrain_ext.audio.AudioError
        If the clip is broken.
    """
    place = f"clips/{one.name}.flac"
    one.row["wav"] = f"$data_root/{place}"
    file = os.path.join(flac_folder, place)
    fresh = os.path.isfile(file)
    if fresh and os.path.getmtime(file) >= os.path.getmtime(clip):
        return audio_info(file).seconds
    samples = read_utterance(clip, SAMPLE_RATE, resample=True)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    part = f"{file}.part"
    try:
        soundfile.write(
            part, samples.numpy(), SAMPLE_RATE, format="FLAC", subtype="PCM_16"
        )
    except (soundfile.LibsndfileError, OSError) as error:
        raise PreparationError(
            f"flac_folder: {file} cannot be written ({error}): free space or "
            "give another folder; what is converted is kept"
        ) from error
    # Under its own name only when it is whole.
    os.replace(part, file)
    return len(samples) / SAMPLE_RATE
