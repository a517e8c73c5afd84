"""Data preparation: one manifest for each split of LibriSpeech.

Any folder in LibriSpeech's layout (``<split>/<speaker>/<chapter>/*.flac``
with a ``.trans.txt`` beside) will do, whatever the split is called.

Download: http://www.openslr.org/12
"""

import hashlib
import json
import os

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
    refuse,
    report,
    require_manifests,
    to_prepare,
    write_good,
)

logger = get_logger(__name__)
WHERE = "http://www.openslr.org/12"
VERSION = 3
COLUMNS = ["wav", "spk_id", "wrd"]
SAMPLE_RATE = 16000
MEND = f"Mend them (the archives are at {WHERE})"


def prepare_librispeech(
    data_folder,
    save_folder,
    splits,
    skip_prep=False,
    skip_bad=False,
    check_audio="header",
    threads=8,
):
    """Check the data and write ``<split>.csv`` for each split."""
    if check_audio not in ("header", "full"):
        raise PreparationError(
            f"check_audio: {check_audio}, choose header or full"
        )
    root = find_root(data_folder, splits)
    splits = list(dict.fromkeys(splits))
    if skip_prep:
        require_manifests(save_folder, splits)
        return root
    os.makedirs(save_folder, exist_ok=True)
    settings = [VERSION, skip_bad, check_audio, os.path.realpath(root)]
    found = [scan(root, name, settings) for name in splits]
    mark_repeated(found, noted=True)
    done = Fingerprints(os.path.join(save_folder, "librispeech_prepare.json"))
    todo = to_prepare(found, done, logger)
    read_all(todo, root, threads, read_head, "reading headers")
    if not skip_bad:
        refuse(todo, save_folder, MEND)
    if check_audio == "full":
        read_all(todo, root, threads, decode, "decoding")
    for split in write_good(todo, save_folder, COLUMNS, done, skip_bad, MEND):
        speakers = len({u.name.split("-")[0] for u in split.good})
        report(split, logger, speakers)
    return root


def find_root(data_folder, splits):
    """The folder with the splits in it: the one given, or LibriSpeech/ below."""
    if not splits:
        raise PreparationError("splits: [], name one split at least")
    below = os.path.join(data_folder, "LibriSpeech")
    places = [data_folder, below] if os.path.isdir(below) else [data_folder]

    def lacking(place):
        names = dict.fromkeys(splits)
        return [s for s in names if not os.path.isdir(os.path.join(place, s))]

    root = min(places, key=lambda place: len(lacking(place)))
    missing = lacking(root)
    if not missing:
        return root
    if not os.path.isdir(data_folder):
        what = "no such folder"
    else:
        there = sorted(entry.name for entry in os.scandir(root))
        there = ", ".join(there[:10]) or "nothing"
        what = f"no folder {', '.join(missing)} in {root} (there is {there})"
    raise PreparationError(
        f"data_folder: {data_folder}, {what}: give the folder that holds "
        f"LibriSpeech, or get {', '.join(missing)} from {WHERE}"
    )


def scan(root, name, settings):
    """Find a split's audio and transcripts, and what does not match."""
    state = hashlib.sha256(json.dumps(settings).encode())
    found = {}
    folder = os.path.join(root, name)
    for place, below, files in os.walk(folder, followlinks=True):
        below.sort()
        for file in sorted(files):
            path = os.path.join(place, file)
            if file.endswith(".flac"):
                add_audio(path, root, found)
            elif file.endswith(".trans.txt"):
                add_transcripts(path, found)
            else:
                continue
            state.update(file_state(path))
    if not any("wav" in one.row for one in found.values()):
        raise PreparationError(
            f"no .flac file in {name} of {root}: unpack the archives from "
            f"{WHERE} there"
        )
    for one in found.values():
        refuse_mismatch(one)
    return Split(name, [found[key] for key in sorted(found)], state.hexdigest())


def found_one(name, found):
    """The utterance of a name, made where it is new (Utterance)."""
    speaker = "-".join(name.split("-")[:2])
    return found.setdefault(name, Utterance(name, row={"spk_id": speaker}))


def add_audio(path, root, found):
    """Note one audio file."""
    one = found_one(os.path.basename(path)[: -len(".flac")], found)
    wav = f"$data_root/{os.path.relpath(path, root)}"
    if "wav" in one.row:
        one.refuse("duplicate id", f"audio in {one.row['wav']} and {wav}")
    one.row["wav"] = wav


def add_transcripts(path, found):
    """Note the lines of one transcript file: ``ID WORDS``."""
    try:
        # A text may hold what str.splitlines takes for the end of a line.
        with open(path, encoding="utf-8-sig", newline="\n") as stream:
            lines = stream.read().split("\n")
    except (OSError, UnicodeDecodeError) as error:
        name = os.path.basename(path)
        found[name] = Utterance(name)
        found[name].refuse("unreadable transcripts", f"{path}: {error}")
        return
    for line in lines:
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        one = found_one(name, found)
        if "wrd" in one.row:
            one.refuse("duplicate id", f"a second transcript in {path}")
        one.row["wrd"] = " ".join(text.split())


def refuse_mismatch(one):
    """Mark an utterance whose audio and transcript do not fit together."""
    text = one.row.get("wrd")
    if "wav" not in one.row:
        one.refuse("transcript without audio", "its .flac file is missing")
    elif text is None:
        one.refuse("audio without transcript", one.row["wav"])
    elif not text:
        one.refuse("empty transcript", one.row["wav"])
    elif "$" in text:
        one.refuse("a $, which manifests read as a variable", text)


def read_all(splits, root, threads, read, what):
    """Read the audio of the splits' good utterances, several at a time."""

    def read_one(one):
        try:
            one.duration = read(one.row["wav"].replace("$data_root", root, 1))
        except AudioError as error:
            one.refuse("broken audio", str(error))

    good = [one for split in splits for one in split.good]
    in_parallel(read_one, good, threads, what)


def read_head(path):
    """Seconds of a file, as its head states them (float)."""
    info = audio_info(path)
    check_format(info, path, SAMPLE_RATE)
    return info.seconds


def decode(path):
    """Seconds of a file, all of it decoded (float)."""
    return len(read_utterance(path, SAMPLE_RATE)) / SAMPLE_RATE
