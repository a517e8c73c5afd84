"""Data preparation: one manifest for each split of LibriSpeech.

Any folder in LibriSpeech's layout (``<split>/<speaker>/<chapter>/*.flac``
with a ``.trans.txt`` beside) will do, whatever the split is called.

Download: http://www.openslr.org/12

Authors
 * The speechbrain_ext authors, 2026
"""

import csv
import hashlib
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import soundfile
from speechbrain.utils.logger import get_logger
from tqdm import tqdm

logger = get_logger(__name__)
WHERE = "http://www.openslr.org/12"
SAMPLE_RATE = 16000
VERSION = 1
COLUMNS = ["ID", "duration", "wav", "spk_id", "wrd"]
DATA_ROOT = "$data_root"
FINGERPRINTS = "librispeech_prepare.json"
SHOWN = 10  # faults named in an error; the others are counted


class PreparationError(ValueError):
    """What is wrong with the data, all of it at once.

    Arguments
    ---------
    message : str
        The faults and their mends.
    """


@dataclass
class Utterance:
    """One utterance, as found on the disk.

    Arguments
    ---------
    name : str
        Its ID, such as ``84-121123-0000``.
    audio : str or None
        Path of its FLAC file.
    text : str or None
        Its transcript.
    reason : str
        Why it cannot be used; empty when it can.
    duration : float
        Seconds.
    """

    name: str
    audio: str = None
    text: str = None
    reason: str = ""
    duration: float = 0.0


@dataclass
class Split:
    """A split: its utterances and the state of its files.

    Arguments
    ---------
    name : str
        The folder's name.
    utterances : list
        Of ``Utterance``, in the order of their names.
    fingerprint : str
        Changes with settings and with any file's name, size or time.
    """

    name: str
    utterances: list = field(default_factory=list)
    fingerprint: str = ""

    @property
    def bad(self):
        """The utterances that cannot be used."""
        return [u for u in self.utterances if u.reason]

    @property
    def good(self):
        """The utterances that can be used."""
        return [u for u in self.utterances if not u.reason]


def prepare_librispeech(
    data_folder,
    save_folder,
    splits,
    skip_prep=False,
    skip_bad=False,
    check_audio="header",
    threads=8,
):
    """Check the data and write ``<split>.csv`` for each split.

    A manifest is kept when neither its data nor the settings have changed.
    Its paths begin with ``$data_root``: load it with
    ``DynamicItemDataset.from_csv(..., replacements={"data_root": root})``,
    ``root`` being what this function returns.

    Arguments
    ---------
    data_folder : str
        The LibriSpeech folder, or the folder that holds it.
    save_folder : str
        Where the manifests go.
    splits : list
        Names of folders, such as ``["train-clean-100", "dev-clean"]``.
    skip_prep : bool
        Take the manifests as they are.
    skip_bad : bool
        Leave bad utterances out and list them, with the reason, in
        ``<split>-left-out.csv``, instead of stopping.
    check_audio : str
        "header" reads each file's header; "full" decodes it all, which alone
        finds broken or NaN samples.
    threads : int
        How many files are read at a time.

    Returns
    -------
    str
        The folder that ``$data_root`` stands for.

    Raises
    ------
    PreparationError
        If a folder is missing or empty, or for bad utterances.

    Example
    -------
    >>> prepare_librispeech("/data", "results", ["dev-clean"])  # doctest: +SKIP
    '/data/LibriSpeech'
    """
    if check_audio not in ("header", "full"):
        raise PreparationError(
            f"check_audio: {check_audio}, choose header or full"
        )
    root = find_root(data_folder, splits)
    if skip_prep:
        require_manifests(save_folder, splits)
        return root
    settings = [VERSION, skip_bad, check_audio, os.path.realpath(root)]
    os.makedirs(save_folder, exist_ok=True)
    found = [scan(root, name, settings) for name in dict.fromkeys(splits)]
    empty = [s.name for s in found if not any(u.audio for u in s.utterances)]
    if empty:
        raise PreparationError(
            f"no .flac file in {', '.join(empty)} of {root}: unpack the "
            f"archives from {WHERE} there"
        )
    mark_repeated(found)
    done = read_fingerprints(save_folder)
    todo = [s for s in found if not is_done(s, save_folder, done)]
    for split in found:
        if split not in todo:
            logger.info(f"{split.name}: prepared before and unchanged")
    read_all(todo, threads, full=False)
    if not skip_bad:
        refuse(todo)
    if check_audio == "full":
        read_all(todo, threads, full=True)
    for split in todo:
        # A long check of one split is not lost for another's faults.
        if skip_bad or not split.bad:
            write(split, root, save_folder)
            done[split.name] = split.fingerprint
            write_fingerprints(save_folder, done)
            report(split, save_folder)
    if not skip_bad:
        refuse(todo)
    return root


def require_manifests(save_folder, splits):
    """Refuse to skip what was never prepared.

    Raises
    ------
    PreparationError
        If a manifest is missing.
    """
    names = [f"{split}.csv" for split in splits]
    lacking = [
        n for n in names if not os.path.isfile(os.path.join(save_folder, n))
    ]
    if lacking:
        raise PreparationError(
            f"skip_prep: true, but {save_folder} has no {', '.join(lacking)}: "
            "run once without skip_prep"
        )


def find_root(data_folder, splits):
    """The folder with the splits in it: the one given, or LibriSpeech/ below.

    Arguments
    ---------
    data_folder : str
        What the user gave.
    splits : list
        Names of the folders wanted.

    Returns
    -------
    str
        The folder.

    Raises
    ------
    PreparationError
        If no such folder has every split.
    """
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
        there = ", ".join(there[:SHOWN]) or "nothing"
        what = f"no folder {', '.join(missing)} in {root} (there is {there})"
    raise PreparationError(
        f"data_folder: {data_folder}, {what}: give the folder that holds "
        f"LibriSpeech, or get {', '.join(missing)} from {WHERE}"
    )


def scan(root, name, settings):
    """Find a split's audio and transcripts, and what does not match.

    Arguments
    ---------
    root : str
        The LibriSpeech folder.
    name : str
        The split.
    settings : list
        What the manifest depends on beside the files.

    Returns
    -------
    Split
        Its audio not yet read.
    """
    state = hashlib.sha256(json.dumps(settings).encode())
    utterances, faults = {}, {}
    folder = os.path.join(root, name)
    for place, below, files in os.walk(folder, followlinks=True):
        below.sort()
        for file in sorted(files):
            path = os.path.join(place, file)
            if not file.endswith((".flac", ".trans.txt")):
                continue
            state.update(file_state(path, root))
            if file.endswith(".flac"):
                add_audio(path, utterances, faults)
            else:
                add_transcripts(path, utterances, faults)
    for utterance in utterances.values():
        utterance.reason = faults.get(utterance.name) or mismatch(utterance)
    ordered = [utterances[key] for key in sorted(utterances)]
    return Split(name, ordered, state.hexdigest())


def file_state(path, root):
    """Bytes that change with a file's place, size or time."""
    try:
        stat = os.stat(path)
        size, time = stat.st_size, stat.st_mtime_ns
    except OSError:  # a link to nowhere: told when it is read
        size, time = -1, -1
    return f"{os.path.relpath(path, root)}|{size}|{time}\n".encode()


def add_audio(path, utterances, faults):
    """Note one audio file."""
    name = os.path.basename(path)[: -len(".flac")]
    utterance = utterances.setdefault(name, Utterance(name))
    if utterance.audio is not None:
        faults[name] = f"duplicate id: audio in {utterance.audio} and {path}"
    utterance.audio = path


def add_transcripts(path, utterances, faults):
    """Note the lines of one transcript file: ``ID WORDS``."""
    try:
        with open(path, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        name = os.path.basename(path)
        faults[name] = f"unreadable transcripts: {path}: {error}"
        utterances[name] = Utterance(name)
        return
    for line in lines:
        name, _, text = line.strip().partition(" ")
        if not name:
            continue
        utterance = utterances.setdefault(name, Utterance(name))
        if utterance.text is not None:
            faults[name] = f"duplicate id: a second transcript in {path}"
        utterance.text = " ".join(text.split())


def mismatch(utterance):
    """Why audio and transcript do not fit together; empty if they do."""
    if utterance.audio is None:
        return "transcript without audio: its .flac file is missing"
    if utterance.text is None:
        return f"audio without transcript: {utterance.audio}"
    if not utterance.text:
        return f"empty transcript: {utterance.audio}"
    if "$" in utterance.text:
        return f"a $, which manifests read as a variable: {utterance.text}"
    return ""


def mark_repeated(splits):
    """Mark the ids that stand in more than one split."""
    counts = Counter(u.name for split in splits for u in split.utterances)
    for split in splits:
        again = [u for u in split.utterances if counts[u.name] > 1]
        for utterance in again:
            repeated = "duplicate id: in another split too"
            utterance.reason = utterance.reason or repeated
            # The manifest depends on the other split: so must this.
            split.fingerprint += f" {utterance.name}"


def read_all(splits, threads, full):
    """Read the audio of the splits, several files at a time."""
    good = [u for split in splits for u in split.good]

    def read(utterance):
        utterance.reason, utterance.duration = read_one(utterance.audio, full)

    pool = ThreadPoolExecutor(max(1, threads))
    try:
        what = "decoding" if full else "reading headers"
        list(tqdm(pool.map(read, good), total=len(good), desc=what))
    finally:
        # Not as a context: an interruption need not wait for every file.
        pool.shutdown(cancel_futures=True)


def read_one(path, full):
    """Judge one audio file.

    Arguments
    ---------
    path : str
        The file.
    full : bool
        Whether to decode it all.

    Returns
    -------
    reason : str
        Why it cannot be used; empty when it can.
    duration : float
        Seconds.
    """
    try:
        info = soundfile.info(path)
        if info.samplerate != SAMPLE_RATE:
            return (
                f"sample rate {info.samplerate}, {SAMPLE_RATE} is needed "
                f"(resample it): {path}",
                0.0,
            )
        if info.channels != 1:
            return f"{info.channels} channels, mono is needed: {path}", 0.0
        if info.frames < 1:
            return f"empty audio: {path}", 0.0
        frames = info.frames
        if full:
            samples, _ = soundfile.read(path, dtype="float32")
            if len(samples) != frames:
                return f"cut short, {len(samples)} of {frames}: {path}", 0.0
            if not np.isfinite(samples).all():
                return f"NaN or infinite samples: {path}", 0.0
    except (OSError, RuntimeError) as error:
        return f"unreadable audio: {path}: {error}", 0.0
    return "", frames / SAMPLE_RATE


def refuse(splits):
    """Stop for bad utterances, the first of them named.

    Raises
    ------
    PreparationError
        If there is any.
    """
    bad = [(split.name, u) for split in splits for u in split.bad]
    if not bad:
        return
    lines = [f"\n  - {s}: {u.name}: {u.reason}" for s, u in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"\n  - and {len(bad) - SHOWN} more")
    raise PreparationError(
        f"{len(bad)} bad utterances:{''.join(lines)}\nMend them (the archives "
        f"are at {WHERE}), or leave them out with skip_bad: true"
    )


def write(split, root, save_folder):
    """Write a split's manifest, and the list of what was left out."""
    rows = []
    for u in split.good:
        place = os.path.relpath(u.audio, root)
        speaker = "-".join(u.name.split("-")[:2])
        wav = f"{DATA_ROOT}/{place}"
        rows.append([u.name, str(u.duration), wav, speaker, u.text])
    if not rows:
        raise PreparationError(f"{split.name}: every utterance is bad")
    left_out = os.path.join(save_folder, f"{split.name}-left-out.csv")
    if split.bad:
        reasons = [[u.name, u.reason] for u in split.bad]
        write_csv(left_out, ["ID", "reason"], reasons)
    elif os.path.exists(left_out):
        os.remove(left_out)
    manifest = os.path.join(save_folder, f"{split.name}.csv")
    write_csv(manifest, COLUMNS, rows)


def write_csv(path, header, rows):
    """Write a table whole or not at all."""
    with open(f"{path}.part", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    os.replace(f"{path}.part", path)


def report(split, save_folder):
    """Say what a split holds."""
    hours = sum(u.duration for u in split.good) / 3600
    speakers = len({u.name.split("-")[0] for u in split.good})
    left = f", {len(split.bad)} left out" if split.bad else ""
    logger.info(
        f"{split.name}: {len(split.good)} utterances, {hours:.2f} hours, "
        f"{speakers} speakers{left}: {save_folder}"
    )


def read_fingerprints(save_folder):
    """The fingerprints of the manifests there, by split."""
    try:
        with open(os.path.join(save_folder, FINGERPRINTS)) as stream:
            done = json.load(stream)
    except (OSError, ValueError):
        return {}
    return done if isinstance(done, dict) else {}


def write_fingerprints(save_folder, done):
    """Note the fingerprints; whole or not at all."""
    path = os.path.join(save_folder, FINGERPRINTS)
    with open(f"{path}.part", "w", encoding="utf-8") as stream:
        json.dump(done, stream, indent=2, sort_keys=True)
    os.replace(f"{path}.part", path)


def is_done(split, save_folder, done):
    """Whether a split's manifest is there and still right."""
    manifest = os.path.join(save_folder, f"{split.name}.csv")
    same = done.get(split.name) == split.fingerprint
    return same and os.path.isfile(manifest)
