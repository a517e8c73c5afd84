"""What results are written with: files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import json
import math
import os
import platform
import re
import shutil
import sys
import time
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

if os.name == "posix":
    import fcntl

# What a person can mend about a disk, and how.
MENDS = {
    errno.ENOSPC: "Free some space there",
    errno.EDQUOT: "Free some of your quota there",
    errno.EFBIG: "Choose another disk, or raise your limit (ulimit -f)",
    errno.ENOENT: "Make its folder",
    errno.EACCES: "Get the right to write there or choose another folder",
    errno.EPERM: "Get the right to write there or choose another folder",
    errno.EROFS: "Choose a folder that is not read-only",
    errno.EIO: "Look after the disk",
}
# What torch's writer says of a disk that took no more, at once or at the end.
TORCH_WRITER = re.compile("inline_container|iostream error")
# Seconds in which an unfinished file is not taken for a killed process's.
JUST_MADE = 5


class WriteError(OSError):
    """Something could not be written: names the file and the mend."""


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


@contextlib.contextmanager
def atomic_write(path: str | os.PathLike, mode: str = "w") -> Iterator[IO]:
    """Open a file that appears under its name when it is whole, or never.

    Arguments
    ---------
    path : str or Path
        The file; its folder must exist.
    mode : str
        "w" for text in UTF-8, with the newlines as they are given, or "wb".

    Yields
    ------
    stream : file object
        A file beside the path. At the end of the block it is brought to the
        disk and renamed; an error in the block removes it.

    Raises
    ------
    OSError
        If it cannot be written (no space left, no permission): names the
        file and what to do. A file that stood there before is untouched.

    Example
    -------
    >>> import tempfile, os
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "scores.txt")
    ...     with atomic_write(path) as stream:
    ...         _ = stream.write("WER 1.58")
    ...     open(path).read(), os.listdir(folder)
    ('WER 1.58', ['scores.txt'])
    """
    path = Path(path)
    temporary = _unfinished(path)
    how: dict[str, Any] = {"encoding": "utf-8", "newline": ""}
    if "b" in mode:
        how = {}
    try:
        with writing(path, temporary), contextlib.ExitStack() as until_named:
            with open(temporary, mode, **how) as stream:
                until_named.enter_context(held(temporary))
                yield stream
                stream.flush()
                # Or a power cut could leave the new name with no content.
                os.fsync(stream.fileno())
            os.replace(temporary, path)
            sync_folder(path.parent)
    finally:
        # An error of the block is told, whatever comes now.
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def writing(
    path: str | os.PathLike, temporary: str | os.PathLike | None = None
) -> Iterator[None]:
    """Say of an error in writing which file it was, and what helps.

    Arguments
    ---------
    path : str or Path
        The file or folder that is written in the block.
    temporary : str or Path or None
        Under which name, until it is whole.

    Raises
    ------
    WriteError
        Where the disk failed, whoever noticed: libraries tell a full one
        without a file's name, or by errors of their own. All else is raised
        as it is, such as an error over a file elsewhere.
    """
    try:
        yield
    except WriteError:
        raise
    except Exception as error:
        number, why = _disk_error(error)
        # Of a copy or a rename, what comes, not what it comes from.
        about = getattr(error, "filename2", None)
        about = about or getattr(error, "filename", None)
        if number is None or not _is_ours(about, path, temporary):
            raise
        mend = MENDS.get(number, "Choose another folder")
        raise WriteError(
            number,
            f"could not be written ({why}); what stood there before is "
            f"untouched. {mend}, then start the same command again",
            os.fspath(path),
        ) from error


def _is_ours(about, path, temporary):
    """Whether an error is over what is written: it, in it, or no name."""
    if about is None or not isinstance(about, (str, os.PathLike)):
        return about is None
    about, path = os.path.abspath(about), os.path.abspath(path)
    names = {path, os.path.abspath(temporary or path), os.path.dirname(path)}
    unfinished = (f"{path}{os.sep}", f"{path}.")
    return about in names or about.startswith(unfinished)


def _disk_error(error):
    """The number and words of what a disk said, or None."""
    if isinstance(error, OSError):
        return error.errno, error.strerror
    # What is written in Rust says so, torch's writer no more than that.
    found = re.search(r"\(os error (\d+)\)", str(error))
    if found:
        return int(found[1]), os.strerror(int(found[1]))
    if isinstance(error, RuntimeError) and TORCH_WRITER.search(str(error)):
        return errno.ENOSPC, "torch could not write all of it"
    return None, ""


# ----------------------------------------------------------------------------
# What is not whole yet is held, so that what a killed process left is known.


def _unfinished(path):
    """A name beside a path; what killed writers of it left is removed."""
    for left in abandoned(path.parent, f".{glob.escape(path.name)}.*.tmp"):
        remove(left)
    # In the same folder, as a rename is atomic within a file system only.
    return path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")


@contextlib.contextmanager
def held(path: str | os.PathLike) -> Iterator[None]:
    """Hold an unfinished file or folder; the kernel frees a killed one's."""
    with contextlib.ExitStack() as stack:
        # Some network disks have no locks: what is left there stays.
        with contextlib.suppress(OSError):
            stack.callback(os.close, _locked(path))
        yield


def _locked(path):
    """A handle of a file or folder, locked (OSError where it cannot be)."""
    if os.name != "posix":
        raise OSError("no locks here")
    is_dir = os.path.isdir(path)
    handle = os.open(path, os.O_RDONLY if is_dir else os.O_RDWR)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle


def abandoned(folder: Path, pattern: str) -> list[Path]:
    """Unfinished files and folders of a name that nobody holds any more."""
    found = []
    for path in folder.glob(pattern):
        with contextlib.suppress(OSError):
            # It may be about to be held.
            if time.time() - path.stat().st_mtime > JUST_MADE:
                os.close(_locked(path))
                found.append(path)
    return found


def remove(path: Path) -> None:
    """Remove a file, or a folder with all in it."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


# What Python says of a content that is not of the form that was expected.
ODD_FORM = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@contextlib.contextmanager
def of_form(path: str | os.PathLike, fault: str, mend: str) -> Iterator[None]:
    """Whatever a file's odd content brings up becomes one error of the file.

    Arguments
    ---------
    path : str or Path
        The file, which comes first in the message.
    fault : str
        What is wrong with it, such as ": not whole JSON".
    mend : str
        What to do about it, a sentence or more.

    Raises
    ------
    ValueError
        In the place of what the block raises of `ODD_FORM`, unless that
        names the file already.

    Example
    -------
    >>> with of_form("a.json", " is no table", "Measure again"):
    ...     {}["distances"]
    Traceback (most recent call last):
    ValueError: a.json is no table (it lacks 'distances'). Measure again
    """
    try:
        yield
    except ODD_FORM as error:
        if str(error).startswith(str(path)):
            raise
        lacks = "it lacks " if isinstance(error, KeyError) else ""
        why = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise ValueError(f"{path}{fault} ({lacks}{why}). {mend}") from error


def usual_rights(folder: str | os.PathLike) -> None:
    """Give files below a folder the rights that any new file has here.

    safetensors leaves files that only their owner may read.
    """
    # For the moment in which it has to be set to be read, nobody else's.
    mask = os.umask(0o077)
    os.umask(mask)
    for top, _, names in os.walk(os.fspath(folder)):
        for name in names:
            os.chmod(os.path.join(top, name), 0o666 & ~mask)


def format_of(path: str) -> str:
    """What a JSON file says that it holds; empty where it says nothing."""
    try:
        with open(path, encoding="utf-8") as stream:
            content = json.load(stream)
    except (OSError, ValueError, RecursionError):
        return ""
    known = content.get("format") if isinstance(content, dict) else None
    return known if isinstance(known, str) else ""


def write_json(path: str | os.PathLike, obj: object) -> None:
    """Write what `plain` takes as JSON, by way of `atomic_write`."""
    text = json.dumps(plain(obj), indent=2, ensure_ascii=False)
    write_text(path, text + "\n")


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a text file by way of `atomic_write`."""
    with atomic_write(path) as stream:
        stream.write(text)


def sync_folder(folder: str | os.PathLike) -> None:
    """Make the rename itself last through a power cut, where that is known."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# ----------------------------------------------------------------------------
# What a run says of each utterance, in files beside its result.

LOSSES_FILE = "losses-valid.jsonl"
TEXTS = "reference", "hypothesis"


def write_hypotheses(folder, set_name, rows):
    """Write ``hypotheses-<set>.jsonl`` beside a run's result.

    Arguments
    ---------
    folder : str or Path
        The run's folder.
    set_name : str
        The evaluation set, such as "test-clean".
    rows : iterable of dict
        A row per utterance: id, reference, hypothesis, speaker, errors.

    Returns
    -------
    Path
        The file.
    """
    if not set_name or "/" in set_name or "\\" in set_name:
        raise ValueError(
            f"{set_name!r} cannot be part of a file's name: name the set "
            "without slashes"
        )
    return _write(Path(folder) / f"hypotheses-{set_name}.jsonl", rows)


def write_losses(folder, rows):
    """Write ``losses-valid.jsonl`` beside a run's result."""
    return _write(Path(folder) / LOSSES_FILE, rows)


def _write(path, rows):
    """Write a row a line, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(plain(row), ensure_ascii=False) for row in rows]
    write_text(path, "".join(line + "\n" for line in lines))
    return path


def read_utterances(path):
    """Read the rows that `write_hypotheses` or `write_losses` wrote.

    Arguments
    ---------
    path : str or Path
        A ``hypotheses-<set>.jsonl`` or ``losses-valid.jsonl``.

    Returns
    -------
    list of dict
        A row per utterance.

    Raises
    ------
    ValueError
        If a line is not JSON, or lacks a text: names file and line.
    """
    rows = []
    path = Path(path)
    mend = "Evaluate the run again to write it anew"
    with of_form(path, ": not text in UTF-8", mend):
        # Split at newlines only: a text may hold other line separators.
        lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if line:
            with of_form(path, f", line {number}: not JSON of ours", mend):
                rows.append(_row(json.loads(line), path.name))
    return rows


def _row(row, name):
    """A row with what it must have: an id, and texts or a loss."""
    if not isinstance(row, dict):
        raise ValueError(f"it is {row!r:.40}")
    texts, numbers = ("id", *TEXTS), ()
    if name == LOSSES_FILE:
        texts, numbers = ("id",), ("loss", "tokens")
    if row.get("speaker") is not None:
        texts = (*texts, "speaker")
    for key in texts:
        if not isinstance(row[key], str):
            raise ValueError(f"its {key} is {row[key]!r:.40}, not a text")
    for key in numbers:
        # None: what JSON has for NaN.
        if type(row[key]) not in (int, float, type(None)):
            raise ValueError(f"its {key} is {row[key]!r:.40}, not a number")
    return row


# ----------------------------------------------------------------------------
# What a result was made with: fingerprints of settings and packages.

PACKAGES = (
    "torch",
    "torchaudio",
    "av",
    "transformers",
    "peft",
    "speechbrain",
    "sacrebleu",
    "numpy",
)


def configuration_hash(configuration):
    """A fingerprint of a configuration: equal settings, equal hash.

    Arguments
    ---------
    configuration : dict
        Plain values; the order of the keys does not matter.

    Returns
    -------
    str
        The first 16 hexadecimal digits of a SHA-256.
    """
    text = json.dumps(plain(configuration), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def versions():
    """Versions of Python and of the packages that a score depends on."""
    # This package, whatever it is part of.
    own = __name__.split(".")[0]
    found = {
        "python": platform.python_version(),
        own: sys.modules[own].__version__,
    }
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found
