"""Utterances and splits as found, their faults marked.

Authors
 * The speechbrain_ext authors, 2026
"""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from tqdm import tqdm


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
    speechbrain_ext.preparation.utterances.PreparationError: 2 bad utterances
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


def mark_repeated(splits, noted=False):
    """Mark every utterance whose ID stands more than once, in all splits.

    Arguments
    ---------
    splits : list of Split
        Changed in place.
    noted : bool
        Change the fingerprints of splits with such utterances too: what is
        left out of a split then depends on the others.

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
