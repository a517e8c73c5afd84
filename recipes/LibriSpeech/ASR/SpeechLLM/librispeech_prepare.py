"""Data preparation: one manifest for each split of LibriSpeech.

Any folder in LibriSpeech's layout (``<split>/<speaker>/<chapter>/*.flac``
with a ``.trans.txt`` beside) will do, whatever the split is called.

Download: http://www.openslr.org/12
"""

import os

from speechbrain_ext.data.manifests import (
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
    read_text,
)

WHERE = "http://www.openslr.org/12"
VERSION = 4
COLUMNS = ["wav", "spk_id", "wrd"]
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
    choose("check_audio", check_audio, ("header", "full"))
    root = find_root(data_folder, splits)
    splits = list(dict.fromkeys(splits))
    manifests = Manifests(save_folder, "librispeech", COLUMNS, MEND, skip_bad)
    if skip_prep:
        manifests.require(splits)
        return root
    settings = [VERSION, skip_bad, check_audio, os.path.realpath(root)]
    found = [scan(root, name, settings) for name in splits]
    mark_repeated(found, noted=True)
    todo = manifests.outdated(found)

    def seconds(one, full=False):
        return audio_seconds(one.audio(root), full=full)

    measure(todo, seconds, threads, "reading headers")
    manifests.refuse(todo)
    if check_audio == "full":
        measure(todo, lambda one: seconds(one, True), threads, "decoding")
    manifests.write(todo)
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
    missing = ", ".join(lacking(root))
    if missing:
        raise PreparationError(
            f"data_folder: {root} has no folder {missing} ({holds(root)}): "
            f"give the folder that holds LibriSpeech, or get {missing} from "
            f"{WHERE}"
        )
    return root


def scan(root, name, settings):
    """Find a split's audio and transcripts, and what does not match."""
    found, files = {}, []
    seen = set()
    for place, below, names in os.walk(
        os.path.join(root, name), followlinks=True
    ):
        below.sort()
        # Links may go in circles.
        if os.path.realpath(place) in seen:
            below.clear()
            continue
        seen.add(os.path.realpath(place))
        files += [os.path.join(place, file) for file in sorted(names)]
    files = [f for f in files if f.endswith((".flac", ".trans.txt"))]
    for file in files:
        if file.endswith(".flac"):
            add_audio(file, root, found)
        else:
            add_transcripts(file, found)
    if not any("wav" in one.row for one in found.values()):
        raise PreparationError(
            f"no .flac file in {name} of {root}: unpack the archives from "
            f"{WHERE} there"
        )
    for one in found.values():
        refuse_mismatch(one)
    utterances = [found[key] for key in sorted(found)]
    return Split(name, utterances, fingerprint(settings, files))


def found_one(name, found):
    """The utterance of a name, made where it is new (Utterance)."""
    # READER-CHAPTER-NUMBER: the reader alone, of whom chapters are not apart.
    reader = name.split("-")[0]
    return found.setdefault(name, Utterance(name, row={"spk_id": reader}))


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
        lines = read_text(path).split("\n")
    except PreparationError as error:
        name = os.path.basename(path)
        found[name] = Utterance(name)
        found[name].refuse("unreadable transcripts", str(error))
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
