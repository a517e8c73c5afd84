"""What results are written with: files that are whole or not there."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import platform
import sys
import uuid
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from speechbrain_ext.later import later


@contextlib.contextmanager
def _nothing(*paths):
    """In the place of what is not there."""
    yield


# A disk's error with the file's name and the mend, and unfinished files that
# are known from those of killed processes: of a later slice.
_disks = later("runs.disks")
writing = _disks.writing if _disks else _nothing
held = _disks.held if _disks else _nothing
tidy = _disks.tidy if _disks else lambda path: None


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
    # In the same folder, as a rename is atomic within a file system only.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    tidy(path)
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


def sync(folder: str | os.PathLike) -> None:
    """Bring all files below a folder, and their names, to the disk."""
    for top, _, names in os.walk(os.fspath(folder)):
        for name in names:
            with open(os.path.join(top, name), "rb") as stream:
                os.fsync(stream.fileno())
        sync_folder(top)


# ----------------------------------------------------------------------------
# What a run says of each utterance, in files beside its result.

LOSSES_FILE = "losses-valid.jsonl"


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
