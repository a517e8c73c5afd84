"""A cache's index on the disk, written so that a kill at any moment harms none."""

import json
import os


class CorruptCacheError(RuntimeError):
    """An entry whose bytes are not those that were written."""


def start_empty(folder, header):
    """An empty cache, in place of what may be there."""
    # The old index goes first: without it, old features mean nothing. They
    # are removed, not cut, for whoever still has them mapped.
    (folder / "index.jsonl").unlink(missing_ok=True)
    (folder / "features.bin").unlink(missing_ok=True)
    (folder / "features.bin").touch()
    write_index(folder, header, {})


def as_line(values):
    """A line of the index."""
    return json.dumps(values).encode() + b"\n"


def write_all(file, content):
    """Write and reach the disk; a raw write may stop half-way in silence."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def write_index(folder, header, entries):
    """The whole index anew, replaced at one stroke."""
    fresh = folder / "index.jsonl.new"
    with open(fresh, "wb", buffering=0) as index:
        lines = [header, *entries.values()]
        write_all(index, b"".join(as_line(values) for values in lines))
    os.replace(fresh, folder / "index.jsonl")


def read_index(folder):
    """A cache's index, up to a line that was cut short by a kill.

    Arguments
    ---------
    folder : pathlib.Path
        Where the cache lies.

    Returns
    -------
    header : dict or None
        None where there is no cache.
    entries : dict
        By id.
    whole : bool
        Whether it ends with a whole line.

    Raises
    ------
    CorruptCacheError
        Its first line cannot be read.
    """
    path = folder / "index.jsonl"
    if not path.exists():
        return None, {}, True
    lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            # A cut line may be valid JSON but for its end.
            lines.append(json.loads(line) if line.endswith(b"\n") else None)
        except ValueError:
            lines.append(None)
        if lines[-1] is None:
            break
    if not lines or lines[0] is None:
        raise CorruptCacheError(
            f"feature cache {folder}: index.jsonl has no readable head: "
            "remove the folder and build again"
        )
    whole = lines[-1] is not None
    header, *entries = lines if whole else lines[:-1]
    # Later lines replace earlier ones of the same utterance.
    return header, {entry["id"]: entry for entry in entries}, whole
