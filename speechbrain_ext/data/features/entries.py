"""What a cache's lines say: of what made it, and of each utterance."""

import os

import numpy as np

FORMAT = 1
HALF = np.dtype("<f2")


class StaleCacheError(RuntimeError):
    """A cache made by another encoder, another k, or from other audio."""


def new_header(encoder, k, key):
    """The index's first line: what makes the features."""
    return {
        "format": FORMAT,
        "key": key,
        "encoder": encoder.source,
        "revision": encoder.revision,
        "identity": encoder.identity(),
        "k": k,
        "width": k * encoder.width,
    }


def fits(header, key):
    """Whether a cache was made by what is asked for."""
    return header["format"] == FORMAT and header["key"] == key


def check_key(folder, header, key):
    """Refuse a cache that was not made by what is asked for.

    Arguments
    ---------
    folder : pathlib.Path
        Where it lies.
    header : dict
        First line of its index.
    key : str
        From `cache_key`.

    Raises
    ------
    StaleCacheError
        Another encoder, k or format.
    """
    if fits(header, key):
        return
    raise StaleCacheError(
        f"feature cache {folder}: made by {header['encoder']} with k = "
        f"{header['k']}, or other options of it, not by what is asked for: "
        "choose another folder, or rebuild it (rebuild=True)"
    )


def is_same(entry, planned):
    """Whether an entry is of the same part of the same file.

    Arguments
    ---------
    entry : dict
        A line of the index.
    planned : dict
        Path, start and stop of an utterance.

    Returns
    -------
    bool
    """
    return all(entry[key] == planned[key] for key in ("path", "start", "stop"))


def is_current(entry, root):
    """Whether an entry's audio file has the size and time it had.

    Arguments
    ---------
    entry : dict
        A line of the index.
    root : str or pathlib.Path or None
        Folder of the corpus.

    Returns
    -------
    bool
    """
    try:
        stat = os.stat(os.path.join(root or "", entry["path"]))
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (
        entry["size"],
        entry["mtime_ns"],
    )


def end_of(entry, header):
    """Where an entry's features end in the file, in bytes."""
    return entry["offset"] + entry["tokens"] * header["width"] * HALF.itemsize


def beyond_end(folder, header, entries):
    """Ids of entries that the feature file does not hold.

    Arguments
    ---------
    folder : pathlib.Path
        Where the cache lies.
    header : dict
        First line of its index.
    entries : dict
        Its other lines by id.

    Returns
    -------
    list of str
    """
    path = folder / "features.bin"
    size = path.stat().st_size if path.exists() else 0
    return [i for i, entry in entries.items() if end_of(entry, header) > size]


def some(names):
    """A few of many names, and how many more there are.

    Arguments
    ---------
    names : iterable of str
        All of them.

    Returns
    -------
    str
    """
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
