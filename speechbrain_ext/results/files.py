"""What results are written with: files that are whole or not there.

Authors
 * The speechbrain_ext authors, 2026
"""

import errno
import json
import math
import os
import uuid
from pathlib import Path

MENDS = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota there",
    errno.ENOENT: "Make its folder",
    errno.EACCES: "Get the right to write there or choose another folder",
}


def plain(value, where=""):
    """Turn a value into what JSON holds.

    NaN and infinities become None (JSON has neither), NumPy's numbers and
    arrays plain ones, paths strings, tuples lists.

    Arguments
    ---------
    value : object
        Nested dicts, lists and tuples of numbers, strings, None.
    where : str
        The key under which it stands, for the error.

    Returns
    -------
    object
        The same in plain values.

    Raises
    ------
    TypeError
        If something is none of these: names its key.

    Example
    -------
    >>> plain({"loss": float("nan"), "kept": (0, 1)})
    {'loss': None, 'kept': [0, 1]}
    """
    if isinstance(value, dict):
        return {str(k): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):
        return plain(value.tolist(), where)
    raise TypeError(
        f"{where.lstrip('.') or 'the value'}: a {type(value).__name__} cannot "
        "be written as JSON; store a number, a string, a list or a dict"
    )


def write_json(path, obj):
    """Write JSON so that the file is the old one or the new one, never less.

    Arguments
    ---------
    path : str or Path
        The file; its folder must exist.
    obj : object
        What `plain` takes.

    Raises
    ------
    OSError
        If it cannot be written (no space left, no permission): names the
        file. A file that stood there before is untouched.

    Example
    -------
    >>> file = getfixture("tmpdir").join("a.json")
    >>> write_json(str(file), {"b": 1})
    >>> json.loads(file.read())
    {'b': 1}
    """
    text = json.dumps(plain(obj), indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def write_text(path, text):
    """Write a text file by way of a temporary one in the same folder.

    Arguments
    ---------
    path : str or Path
        The file; its folder must exist.
    text : str
        Its content.

    Raises
    ------
    OSError
        If it cannot be written: names the file and what to do.

    Example
    -------
    >>> file = getfixture("tmpdir").join("a.txt")
    >>> write_text(str(file), "b")
    >>> file.read()
    'b'
    """
    write_atomically(path, lambda stream: stream.write(text.encode("utf-8")))


def write_atomically(path, write):
    """Let a function write a temporary file, then put it in its place.

    Arguments
    ---------
    path : str or Path
        The file; its folder must exist.
    write : callable
        Takes the open binary stream.

    Raises
    ------
    OSError
        If it cannot be written: names the file and what to do.
    """
    path = Path(path)
    # In the same folder, as a rename is atomic within a file system only.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with open(temporary, "wb") as stream:
            write(stream)
            stream.flush()
            # Or a power cut could leave the new name with no content.
            os.fsync(stream.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        mend = MENDS.get(error.errno, "Choose another folder")
        raise OSError(
            error.errno,
            f"could not be written ({error.strerror}); what stood there "
            f"before is untouched. {mend}, then start the same command again",
            str(path),
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder):
    """Make the rename itself last through a power cut, where that is known."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
