"""What a cache's lines say: of what made it, and of each utterance.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

import numpy as np

FORMAT = 1
HALF = np.dtype("<f2")


class StaleCacheError(RuntimeError):
    """A cache made by another encoder, another k, or from other audio.

    Example
    -------
    >>> issubclass(StaleCacheError, RuntimeError)
    True
    """


def new_header(encoder, k, key):
    """The index's first line: what makes the features.

    Arguments
    ---------
    encoder : SpeechEncoder
        Frozen encoder.
    k : int
        Frames a speech token.
    key : str
        From `cache_key`.

    Returns
    -------
    dict

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> new_header(tiny_speech_llm().encoder, 3, "key")["width"]
    48
    """
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
    """Whether a cache was made by what is asked for.

    Arguments
    ---------
    header : dict
        First line of its index.
    key : str
        From `cache_key`.

    Returns
    -------
    bool

    Example
    -------
    >>> fits({"format": FORMAT, "key": "a"}, "b")
    False
    """
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

    Example
    -------
    >>> check_key("cache", {"format": FORMAT, "key": "a"}, "a")
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

    Example
    -------
    >>> part = {"path": "a.wav", "start": None, "stop": None}
    >>> is_same(part, {**part, "stop": 5})
    False
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

    Example
    -------
    >>> is_current({"path": "nowhere.wav"}, None)
    False
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
    """Where an entry's features end in the file, in bytes.

    Arguments
    ---------
    entry : dict
        A line of the index.
    header : dict
        Its first line.

    Returns
    -------
    int

    Example
    -------
    >>> end_of({"offset": 10, "tokens": 2}, {"width": 3})
    22
    """
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

    Example
    -------
    >>> from pathlib import Path
    >>> folder = Path(getfixture("tmpdir"))
    >>> beyond_end(folder, {"width": 3}, {"a": {"offset": 0, "tokens": 2}})
    ['a']
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

    Example
    -------
    >>> some("abcde")
    'a, b, c and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
