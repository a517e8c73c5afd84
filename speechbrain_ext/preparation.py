"""What prepare scripts share: bad utterances told at once, files kept whole.

Authors
 * The speechbrain_ext authors, 2026
"""

import csv
import json
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm

from speechbrain_ext.results import write_json

SHOWN = 10  # faults named in an error; the others are counted


class PreparationError(ValueError):
    """What is wrong with the data, all of it at once.

    Arguments
    ---------
    message : str
        The faults and their mends.

    Example
    -------
    >>> raise PreparationError("2 bad utterances")
    Traceback (most recent call last):
    ...
    speechbrain_ext.preparation.PreparationError: 2 bad utterances
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

    Example
    -------
    >>> utterance = Utterance("a-1", "line 3", {})
    >>> utterance.refuse("absent clip", "a-1.mp3")
    >>> utterance.fault
    'absent clip'
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

    Example
    -------
    >>> split = Split("dev", [Utterance("a-1", "line 3", {})], "")
    >>> len(split.good)
    1
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


def mark_repeated(splits):
    """Mark every utterance whose ID stands more than once, in all splits.

    Arguments
    ---------
    splits : list of Split
        Changed in place.

    Example
    -------
    >>> split = Split("dev", [Utterance("a", "1", {}) for _ in range(2)], "")
    >>> mark_repeated([split])
    >>> split.bad[0].fault
    'duplicate id'
    """
    counts = Counter(u.name for split in splits for u in split.utterances)
    for split in splits:
        for utterance in split.utterances:
            if counts[utterance.name] > 1:
                times = f"{counts[utterance.name]} times"
                utterance.refuse("duplicate id", times)


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

    Example
    -------
    >>> done = []
    >>> in_parallel(done.append, [1, 2], 1, "counting")
    >>> done
    [1, 2]
    """
    pool = ThreadPoolExecutor(max(1, threads))
    try:
        for _ in tqdm(pool.map(work, items), total=len(items), desc=what):
            pass
    finally:
        # Not as a context: an interruption need not wait for every file.
        pool.shutdown(cancel_futures=True)


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

    Example
    -------
    >>> refuse([Split("dev", [], "")], ".", "Mend them")
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


def left_out_file(split, save_folder):
    """Where the bad utterances of a split are listed (str)."""
    return os.path.join(save_folder, f"{split.name}-left-out.csv")


def write_left_out(split, save_folder):
    """List a split's bad utterances; no file where there are none."""
    file = left_out_file(split, save_folder)
    if split.bad:
        rows = [[u.name, u.fault, u.detail, u.place] for u in split.bad]
        write_csv(file, ["ID", "fault", "detail", "place"], rows)
    elif os.path.exists(file):
        os.remove(file)


def write_split(split, save_folder, columns):
    """Write a split's manifest, and the list of what was left out.

    Arguments
    ---------
    split : Split
        With durations known.
    save_folder : str
        Where to.
    columns : list of str
        Columns of the manifest after ID and duration.

    Raises
    ------
    PreparationError
        If no utterance is good.

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> split = Split("dev", [Utterance("a", "1", {"wav": "b"}, 2.0)], "")
    >>> write_split(split, str(folder), ["wav"])
    >>> folder.join("dev.csv").read().split()
    ['ID,duration,wav', 'a,2.0,b']
    """
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


def write_csv(path, header, rows):
    """Write a table whole or not at all."""
    with open(f"{path}.part", "w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([header, *rows])
    os.replace(f"{path}.part", path)


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

    Example
    -------
    >>> require_manifests("nowhere", [])
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

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> done = Fingerprints(str(folder.join("done.json")))
    >>> done.fits(Split("dev", [], "x"))
    False
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

    Example
    -------
    >>> file_state("nowhere")
    b'nowhere|-1|-1\\n'
    """
    try:
        stat = os.stat(path)
        size, time = stat.st_size, stat.st_mtime_ns
    except OSError:
        size, time = -1, -1
    return f"{path}|{size}|{time}\n".encode()


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

    Example
    -------
    >>> import logging
    >>> report(Split("dev", [], ""), logging.getLogger("prepare"), 0)
    """
    hours = sum(u.duration for u in split.good) / 3600
    left = f", {len(split.bad)} left out" if split.bad else ""
    logger.info(
        f"{split.name}: {len(split.good)} utterances, {hours:.2f} hours, "
        f"{speakers} speakers{left}{notes}"
    )
