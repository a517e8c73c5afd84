"""Manifests, and what they were made from: written whole or not at all."""

import csv
import io
import json
import os
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
from tqdm import tqdm

from speechbrain_ext.data.audio import audio_info, check_format, read_utterance
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.runs.files import write_json, write_text

# ----------------------------------------------------------------------------
# Utterances and splits as found, their faults marked.


class PreparationError(ValueError):
    """What is wrong with the data, all of it at once.

    Arguments
    ---------
    message : str
        The faults and their mends.
    """


@dataclass
class Utterance:
    """One utterance, as found.

    Arguments
    ---------
    name : str
        Its ID.
    place : str
        Where it was found, such as "dev.tsv, line 3".
    row : dict
        Manifest columns beside ID and duration.
    duration : float
        Seconds.
    fault : str
        Why it cannot be used, in few words that others share ("absent
        clip"); empty when it can.
    detail : str
        What the fault is in this utterance.
    """

    name: str
    place: str = ""
    row: dict = field(default_factory=dict)
    duration: float = 0.0
    fault: str = ""
    detail: str = ""

    def refuse(self, fault, detail=""):
        """Mark it as one that cannot be used; the first fault stays."""
        if not self.fault:
            self.fault, self.detail = fault, detail


@dataclass
class Split:
    """A split: its utterances and the state of its files.

    Arguments
    ---------
    name : str
        The manifest's name, without ``.csv``.
    utterances : list of Utterance
        In order.
    fingerprint : str
        Changes with the settings and with the files.
    """

    name: str
    utterances: list
    fingerprint: str = ""

    @property
    def good(self):
        """Utterances that can be used."""
        return [u for u in self.utterances if not u.fault]

    @property
    def bad(self):
        """Utterances that cannot."""
        return [u for u in self.utterances if u.fault]


def mark_repeated(splits, noted=False):
    """Mark every utterance whose ID stands more than once, in all splits.

    Arguments
    ---------
    splits : list of Split
        Changed in place.
    noted : bool
        Change the fingerprints of splits with such utterances too: what is
        left out of a split then depends on the others.
    """
    counts = Counter(u.name for split in splits for u in split.utterances)
    for split in splits:
        for utterance in split.utterances:
            if counts[utterance.name] > 1:
                times = f"{counts[utterance.name]} times"
                utterance.refuse("duplicate id", times)
                split.fingerprint += f" {utterance.name}" * noted


def in_parallel(work, items, threads, what):
    """Do something to every item, several at a time, with a progress bar.

    Arguments
    ---------
    work : callable
        Takes an item.
    items : list
        Of anything.
    threads : int
        How many at a time.
    what : str
        Shown at the bar.
    """
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for _ in tqdm(pool.map(work, items), total=len(items), desc=what):
            pass
    finally:
        # Not as a context: an interruption need not wait for every file.
        pool.shutdown(cancel_futures=True)


def write_split(split, save_folder, columns):
    """Write a split's manifest, and the list of what was left out."""
    write_left_out(split, save_folder)
    if not split.good:
        raise PreparationError(
            f"{split.name}: no utterance can be used; each one's fault is in "
            f"{left_out_file(split, save_folder)}"
        )
    rows = [
        [u.name, str(u.duration), *(u.row[column] for column in columns)]
        for u in split.good
    ]
    file = os.path.join(save_folder, f"{split.name}.csv")
    write_csv(file, ["ID", "duration", *columns], rows)


def write_left_out(split, save_folder):
    """List a split's bad utterances; no file where there are none."""
    file = left_out_file(split, save_folder)
    if split.bad:
        rows = [[u.name, u.fault, u.detail, u.place] for u in split.bad]
        write_csv(file, ["ID", "fault", "detail", "place"], rows)
    else:
        # Runs that start together may each do this.
        Path(file).unlink(missing_ok=True)


def left_out_file(split, save_folder):
    """Where the bad utterances of a split are listed."""
    return os.path.join(save_folder, f"{split.name}-left-out.csv")


def write_csv(path, header, rows):
    """Write a table whole or not at all, though others write it too."""
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_text(path, text.getvalue())


def require_manifests(save_folder, names):
    """Refuse to skip what was never prepared.

    Arguments
    ---------
    save_folder : str
        Where they stand.
    names : list of str
        The manifests, without ``.csv``.

    Raises
    ------
    PreparationError
        If a manifest is missing.
    """
    files = [f"{name}.csv" for name in names]
    lacking = [
        f for f in files if not os.path.isfile(os.path.join(save_folder, f))
    ]
    if lacking:
        raise PreparationError(
            f"skip_prep: True, but {save_folder} has no {', '.join(lacking)}: "
            "run once without skip_prep"
        )


class Fingerprints:
    """What the manifests of a folder were made from.

    Arguments
    ---------
    file : str
        Where that is noted.
    """

    def __init__(self, file):
        self.file = file
        try:
            with open(file, encoding="utf-8") as stream:
                done = json.load(stream)
        except (OSError, ValueError):
            done = {}
        self.done = done if isinstance(done, dict) else {}

    def fits(self, split):
        """Whether a split's manifest is there and still right."""
        folder = os.path.dirname(self.file)
        manifest = os.path.join(folder, f"{split.name}.csv")
        same = self.done.get(split.name) == split.fingerprint
        return same and os.path.isfile(manifest)

    def note(self, split):
        """Note that a split's manifest was written."""
        self.done[split.name] = split.fingerprint
        write_json(self.file, self.done)


def file_state(path):
    """Bytes that change with a file's name, size or time.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    bytes
    """
    try:
        stat = os.stat(path)
        size, time = stat.st_size, stat.st_mtime_ns
    except OSError:
        size, time = -1, -1
    return f"{path}|{size}|{time}\n".encode()


# ----------------------------------------------------------------------------
# The end of a prepare script: faults told at once, good splits written.

SHOWN = 10  # faults named in an error; the others are counted


def refuse(splits, save_folder, mend):
    """Stop for bad utterances: counted by fault, named in a file each.

    Arguments
    ---------
    splits : list of Split
        To look through.
    save_folder : str
        Where ``<split>-left-out.csv`` goes, with every one of them.
    mend : str
        How to mend the data.

    Raises
    ------
    PreparationError
        If there is a bad utterance.
    """
    bad = [(split, u) for split in splits for u in split.bad]
    if not bad:
        return
    for split in splits:
        write_left_out(split, save_folder)
    counts = Counter(u.fault for _, u in bad)
    kinds = ", ".join(f"{n} {fault}" for fault, n in counts.most_common())
    lines = [f"\n  - {told(u)}" for _, u in bad[:SHOWN]]
    if len(bad) > SHOWN:
        lines.append(f"\n  - and {len(bad) - SHOWN} more")
    files = " and ".join(left_out_file(s, save_folder) for s in splits if s.bad)
    raise PreparationError(
        f"{len(bad)} bad utterances ({kinds}), all of them in {files}:"
        f"{''.join(lines)}\n{mend}, or leave them out with skip_bad: True"
    )


def told(utterance):
    """One bad utterance in one line (str)."""
    parts = (utterance.name, utterance.fault, utterance.detail, utterance.place)
    return ": ".join(part for part in parts if part)


def report(split, logger, speakers, notes=""):
    """Log what a split holds.

    Arguments
    ---------
    split : Split
        Written.
    logger : logging.Logger
        The prepare script's.
    speakers : int
        How many speakers it has.
    notes : str
        Anything to add.
    """
    hours = sum(u.duration for u in split.good) / 3600
    left = f", {len(split.bad)} left out" if split.bad else ""
    logger.info(
        f"{split.name}: {len(split.good)} utterances, {hours:.2f} hours, "
        f"{speakers} speakers{left}{notes}"
    )


def to_prepare(splits, done, logger):
    """The splits whose manifests are not there, or no longer right.

    Arguments
    ---------
    splits : list of Split
        As found.
    done : Fingerprints
        Of the manifests that are there.
    logger : logging.Logger
        The prepare script's; told of the others.

    Returns
    -------
    list of Split
    """
    for split in splits:
        if done.fits(split):
            logger.info(f"{split.name}: prepared before and unchanged")
    return [split for split in splits if not done.fits(split)]


def write_good(splits, save_folder, columns, done, skip_bad, mend):
    """Write what can be written, then stop for what cannot.

    A long check of one split is not lost for another's faults.

    Arguments
    ---------
    splits : list of Split
        With durations known.
    save_folder : str
        Where manifests and lists of bad utterances go.
    columns : list of str
        Columns of the manifests after ID and duration.
    done : Fingerprints
        Gets the splits that are written.
    skip_bad : bool
        Leave bad utterances out instead of stopping.
    mend : str
        How to mend the data.

    Yields
    ------
    Split
        Each one that was written.

    Raises
    ------
    PreparationError
        If there is a bad utterance, at the end.
    """
    for split in splits:
        if skip_bad or not split.bad:
            write_split(split, save_folder, columns)
            done.note(split)
            yield split
    if not skip_bad:
        refuse(splits, save_folder, mend)


# ----------------------------------------------------------------------------
# Tables of tab-separated values, as corpora of sentences come.


def read_tsv(file, columns, mend):
    """Rows of a table, their cells cleaned.

    Backslashes escape tabs, quotes and themselves there, as CoVoST's own
    script writes them; nothing is quoted.

    Arguments
    ---------
    file : str
        The table.
    columns : list of str
        What it must have.
    mend : str
        How to get a right one.

    Returns
    -------
    rows : list of tuple
        Place ("a.tsv, line 2"), header and cells of each.
    notes : str
        What was cleaned, for the log.

    Raises
    ------
    PreparationError
        If it is not such a table at all.
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
            lacking = [c for c in columns if c not in header]
            if lacking:
                raise PreparationError(
                    f"{file}: no column {', '.join(lacking)} (there is "
                    f"{', '.join(header) or 'nothing'}): {mend}"
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
        raise PreparationError(f"{file}: holds no utterance: {mend}")
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


# ----------------------------------------------------------------------------
# Clips of any format: their lengths, and their conversion.

SAMPLE_RATE = 16000


def clip_of(one, root):
    """Where an utterance's clip is.

    Arguments
    ---------
    one : Utterance
        With a row.
    root : str
        What ``$data_root`` stands for.

    Returns
    -------
    str
    """
    return one.row["wav"].replace("$data_root", root, 1)


def read_clips(splits, root, flac_folder, longest, check_audio, threads):
    """Read or convert the clips of the splits: durations, broken ones.

    Arguments
    ---------
    splits : list of Split
        Changed in place.
    root : str
        What ``$data_root`` stands for.
    flac_folder : str or None
        Convert to FLAC at 16 kHz there.
    longest : float or None
        Most seconds of an utterance.
    check_audio : str
        "full" decodes each clip, "header" those whose head does not state
        their exact length (all MP3 files).
    threads : int
        How many at a time.
    """

    def read(one):
        try:
            one.duration = _seconds(one, root, flac_folder, check_audio)
        except AudioError as error:
            one.refuse("broken clip", str(error))
            return
        if longest is not None and one.duration > longest:
            why = f"{one.duration:.1f} s, longest_seconds is {longest}"
            one.refuse("too long", why)

    what = "converting clips" if flac_folder else "reading clips"
    good = [one for split in splits for one in split.good]
    in_parallel(read, good, threads, what)


def _changed(clip):
    """When a clip was last written (float)."""
    try:
        return os.path.getmtime(clip)
    except OSError as error:
        raise AudioError(f"{clip}: cannot be opened ({error})") from error


def _seconds(one, root, flac_folder, check_audio):
    """The length of an utterance's clip (float), converted where asked."""
    clip = clip_of(one, root)
    if flac_folder:
        return _convert(clip, one, flac_folder)
    if check_audio == "full":
        samples = read_utterance(clip, SAMPLE_RATE, resample=True)
        return len(samples) / SAMPLE_RATE
    info = audio_info(clip)
    check_format(info, clip, SAMPLE_RATE, resample=True)
    return info.seconds


def _convert(clip, one, flac_folder):
    """Make one clip a FLAC file at 16 kHz, unless it is there already."""
    place = f"clips/{one.name}.flac"
    one.row["wav"] = f"$data_root/{place}"
    file = os.path.join(flac_folder, place)
    fresh = os.path.isfile(file)
    if fresh and os.path.getmtime(file) >= _changed(clip):
        return audio_info(file).seconds
    samples = read_utterance(clip, SAMPLE_RATE, resample=True)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    # Another run may be at the same clip.
    part = f"{file}.{uuid.uuid4().hex}.part"
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
