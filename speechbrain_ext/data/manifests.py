"""Manifests: utterances as found, their faults told, tables written whole.

A prepare script finds the utterances of its corpus, marks those that cannot be
used (`Utterance.refuse`), and hands the splits to `Manifests`, which writes a
CSV file for each that is new or has changed. Bad utterances are told all at
once, or left out and listed in ``<split>-left-out.csv``.

Example
-------
>>> manifests = Manifests(getfixture("tmpdir"), "corpus", ["wrd"], "Mend it")
>>> found = [Utterance("a", row={"wrd": "YES"}), Utterance("b")]
>>> found[1].refuse("empty transcript")
>>> manifests.write([Split("dev", found)])
Traceback (most recent call last):
    ...
speechbrain_ext.data.manifests.PreparationError: 1 bad utterances ...
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from speechbrain.utils.logger import get_logger
from tqdm import tqdm

from speechbrain_ext.data.audio import audio_blocks, audio_info, check_format
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.sets import speaker_of
from speechbrain_ext.runs.files import write_json, write_text

logger = get_logger(__name__)
SAMPLE_RATE = 16000
SHOWN = 10  # faults named in an error; the others are counted
LETTERS = 500  # of each


class PreparationError(ValueError):
    """What is wrong with the data, all of it at once."""


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

    def refuse(self, fault: str, detail: str = "") -> None:
        """Mark it as one that cannot be used; the first fault stays."""
        if not self.fault:
            self.fault, self.detail = fault, detail

    def audio(self, root: str) -> str:
        """Its audio file, where ``$data_root`` stands for a folder."""
        return self.row["wav"].replace("$data_root", root, 1)

    def __str__(self):
        parts = (self.name, self.fault, self.detail, self.place)
        return ": ".join(part for part in parts if part)


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
    notes : str
        Anything to add to the log.
    """

    name: str
    utterances: list[Utterance] = field(default_factory=list)
    fingerprint: str = ""
    notes: str = ""

    @property
    def good(self) -> list[Utterance]:
        """Utterances that can be used."""
        return [u for u in self.utterances if not u.fault]

    @property
    def bad(self) -> list[Utterance]:
        """Utterances that cannot."""
        return [u for u in self.utterances if u.fault]


class Manifests:
    """The manifests of a folder, and what they were made from.

    Arguments
    ---------
    folder : str
        Where they stand, with ``<split>-left-out.csv`` for bad utterances.
    corpus : str
        Names the file that notes what they were made from.
    columns : list of str
        Columns after ID and duration.
    mend : str
        How to mend the data, for errors.
    skip_bad : bool
        Leave bad utterances out instead of stopping for them.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        corpus: str,
        columns: list[str],
        mend: str,
        skip_bad: bool = False,
    ):
        self.folder, self.columns = Path(folder), columns
        self.mend, self.skip_bad = mend, skip_bad
        self._notes = self.folder / f"{corpus}_prepare.json"
        try:
            done = json.loads(self._notes.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            done = {}
        self._done = done if isinstance(done, dict) else {}

    def require(self, names: list[str]) -> None:
        """Refuse to skip what was never prepared (PreparationError)."""
        lacking = [name for name in names if not self._file(name).is_file()]
        if lacking:
            files = ", ".join(self._file(name).name for name in lacking)
            raise PreparationError(
                f"skip_prep: True, but {self.folder} has no {files}: run once "
                "without skip_prep"
            )

    def outdated(self, splits: Iterable[Split]) -> list[Split]:
        """The splits whose manifests are not there, or no longer right."""
        # Before hours of reading, not after.
        self.folder.mkdir(parents=True, exist_ok=True)
        todo = []
        for split in splits:
            same = self._done.get(split.name) == split.fingerprint
            if same and self._file(split.name).is_file():
                logger.info(f"{split.name}: prepared before and unchanged")
            else:
                todo.append(split)
        return todo

    def refuse(self, splits: list[Split]) -> None:
        """Stop for bad utterances, unless they are to be left out.

        Raises
        ------
        PreparationError
            Counts them by fault, and names the files that list them all.
        """
        bad = [u for split in splits for u in split.bad]
        if self.skip_bad or not bad:
            return
        for split in splits:
            self._write_left_out(split)
        counts = Counter(u.fault for u in bad)
        kinds = ", ".join(f"{n} {fault}" for fault, n in counts.most_common())
        # All of a text of some megabytes stands in the file.
        lines = [f"\n  - {str(u)[:LETTERS]}" for u in bad[:SHOWN]]
        if len(bad) > SHOWN:
            lines.append(f"\n  - and {len(bad) - SHOWN} more")
        files = " and ".join(str(self._left_out(s)) for s in splits if s.bad)
        raise PreparationError(
            f"{len(bad)} bad utterances ({kinds}), all of them in {files}:"
            f"{''.join(lines)}\n{self.mend}, or leave them out with "
            "skip_bad: True"
        )

    def write(self, splits: list[Split]) -> None:
        """Write what can be written, then stop for what cannot.

        A long check of one split is not lost for another's faults.

        Arguments
        ---------
        splits : list of Split
            With durations known.

        Raises
        ------
        PreparationError
            If there is a bad utterance, or no good one.
        """
        for split in splits:
            for utterance in split.good:
                refuse_unwritable(utterance)
            if split.bad and not self.skip_bad:
                continue
            self._write(split)
            self._done[split.name] = split.fingerprint
            write_json(self._notes, self._done)
            hours = sum(u.duration for u in split.good) / 3600
            speakers = len({speaker_of(u.row) for u in split.good} - {None})
            left = f", {len(split.bad)} left out" if split.bad else ""
            logger.info(
                f"{split.name}: {len(split.good)} utterances, {hours:.2f} "
                f"hours, {speakers} speakers{left}{split.notes}"
            )
        self.refuse(splits)

    def _write(self, split):
        self._write_left_out(split)
        if not split.good:
            raise PreparationError(
                f"{split.name}: no utterance can be used; each one's fault is "
                f"in {self._left_out(split)}. {self.mend}"
            )
        rows = [
            [u.name, str(u.duration), *(u.row[c] for c in self.columns)]
            for u in split.good
        ]
        header = ["ID", "duration", *self.columns]
        _write_csv(self._file(split.name), header, rows)

    def _write_left_out(self, split):
        if split.bad:
            rows = [[u.name, u.fault, u.detail, u.place] for u in split.bad]
            header = ["ID", "fault", "detail", "place"]
            _write_csv(self._left_out(split), header, rows)
        else:
            # Runs that start together may each do this.
            self._left_out(split).unlink(missing_ok=True)

    def _file(self, name):
        return self.folder / f"{name}.csv"

    def _left_out(self, split):
        return self._file(f"{split.name}-left-out")


def _write_csv(path, header, rows):
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    # A name on the disk need be no UTF-8; such are refused, and told here.
    content = text.getvalue().encode("utf-8", "backslashreplace")
    write_text(path, content.decode())


def refuse_unwritable(one: Utterance) -> None:
    """Mark an utterance that no manifest could give back as it is."""
    for cell in (one.name, *map(str, one.row.values())):
        if len(cell) > csv.field_size_limit():
            one.refuse("endless text", f"{len(cell)} letters")
        if (
            not cell.isascii()
            and cell.encode("utf-8", "ignore").decode() != cell
        ):
            one.refuse("no UTF-8", f"{cell!r}: give it another name or text")


def mark_repeated(splits: list[Split], noted: bool = False) -> None:
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


def measure(
    splits: list[Split],
    seconds: Callable[[Utterance], float],
    threads: int,
    what: str,
) -> None:
    """Fill in the durations of all good utterances; mark broken audio.

    Arguments
    ---------
    splits : list of Split
        Changed in place.
    seconds : callable
        Gives an utterance's length; AudioError marks it as bad.
    threads : int
        How many at a time.
    what : str
        Shown at the progress bar.
    """

    def read(utterance):
        """Note the length of an utterance, or its fault."""
        try:
            utterance.duration = seconds(utterance)
        except AudioError as error:
            utterance.refuse("broken audio", str(error))

    good = [utterance for split in splits for utterance in split.good]
    in_parallel(read, good, threads, what)


def audio_seconds(
    audio: str | BinaryIO,
    name: str | None = None,
    full: bool = False,
    resample: bool = False,
    decode: bool = True,
) -> float | None:
    """Length of an utterance's audio, which must be right for the encoder.

    Arguments
    ---------
    audio : str or binary file
        As `audio_info` takes it.
    name : str, optional
        What errors call it.
    full : bool
        Decode all of it instead of trusting its head.
    resample : bool
        Take other rates than 16 kHz.
    decode : bool
        Decode it where its head does not state its exact length (all MP3
        files); otherwise its length is None.

    Returns
    -------
    float or None
        Seconds.

    Raises
    ------
    AudioError
        It is damaged or of another rate, or has several channels.
    """
    if full:
        # A small file can hold days of silence: never all of it at once.
        blocks = audio_blocks(audio, SAMPLE_RATE, resample=resample, name=name)
        return sum(map(len, blocks)) / SAMPLE_RATE
    info = audio_info(audio, name, decode)
    check_format(info, name or str(audio), SAMPLE_RATE, resample)
    return info.seconds


def in_parallel(
    work: Callable, items: Sequence, threads: int, what: str
) -> None:
    """Do something to every item, several at a time, with a progress bar."""
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for _ in tqdm(pool.map(work, items), total=len(items), desc=what):
            pass
    finally:
        # Not as a context: an interruption need not wait for every file.
        pool.shutdown(cancel_futures=True)


def fingerprint(settings: list, files: Iterable[str]) -> str:
    """A hash that changes with settings and any file's name, size, time."""
    state = hashlib.sha256(json.dumps(settings).encode())
    for file in files:
        try:
            stat = os.stat(file)
            size, time = stat.st_size, stat.st_mtime_ns
        # A list may name what no file can be called.
        except (OSError, ValueError):
            size, time = -1, -1
        line = f"{file}|{size}|{time}\n"
        state.update(line.encode("utf-8", "surrogatepass"))
    return state.hexdigest()


def read_text(file: str) -> str:
    """A text file's content; a pipe is not waited for (PreparationError)."""
    if not os.path.isfile(file):
        raise PreparationError(f"{file}: is no file: give a text file")
    try:
        with open(file, encoding="utf-8-sig", newline="") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise PreparationError(
            f"{file}: is no UTF-8 at byte {error.start}: save it as UTF-8"
        ) from error
    except OSError as error:
        raise PreparationError(f"{file}: {error.strerror}") from error


def choose(key: str, value: str, choices: Sequence[str]) -> None:
    """Refuse a setting that is none of some words (PreparationError)."""
    if value not in choices:
        *most, last = choices
        raise PreparationError(
            f"{key}: {value}, choose {', '.join(most)} or {last}"
        )


def holds(folder: str) -> str:
    """What is in a folder, for errors: "there is dev, test"."""
    if not os.path.isdir(folder):
        return "no such folder"
    names = sorted(os.listdir(folder))[:10]
    return f"there is {', '.join(names) or 'nothing'}"
