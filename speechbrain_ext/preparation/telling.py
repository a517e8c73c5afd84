"""The end of a prepare script: faults told at once, good splits written.

Authors
 * The speechbrain_ext authors, 2026
"""

from collections import Counter

from speechbrain_ext.preparation.manifests import (
    left_out_file,
    write_left_out,
    write_split,
)
from speechbrain_ext.preparation.utterances import PreparationError

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

    Example
    -------
    >>> from speechbrain_ext.preparation import Split
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
    >>> from speechbrain_ext.preparation import Split
    >>> import logging
    >>> report(Split("dev", [], ""), logging.getLogger("prepare"), 0)
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

    Example
    -------
    >>> import logging
    >>> from speechbrain_ext.preparation import Fingerprints, Split
    >>> done = Fingerprints(str(getfixture("tmpdir").join("done.json")))
    >>> split = Split("dev", [], "x")
    >>> to_prepare([split], done, logging.getLogger("prepare")) == [split]
    True
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

    Example
    -------
    >>> from speechbrain_ext.preparation import Fingerprints, Split, Utterance
    >>> folder = str(getfixture("tmpdir"))
    >>> done = Fingerprints(f"{folder}/done.json")
    >>> split = Split("dev", [Utterance("a", "1", {"wav": "b"}, 2.0)], "x")
    >>> for one in write_good([split], folder, ["wav"], done, False, "Mend it"):
    ...     print(one.name, done.fits(one))
    dev True
    """
    for split in splits:
        if skip_bad or not split.bad:
            write_split(split, save_folder, columns)
            done.note(split)
            yield split
    if not skip_bad:
        refuse(splits, save_folder, mend)
