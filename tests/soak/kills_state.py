"""What a folder holds, times apart; what in it is no whole file."""

from __future__ import annotations

import csv
import fnmatch
import hashlib
import io
import json
import pickle
import re
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load

# What no two runs have alike: times, memory, and the names made of them.
TIMES = set(
    "started finished seconds train_seconds fit_seconds decode_seconds "
    "real_time_factor "
    "peak_memory_bytes train_peak_memory_bytes unixtime".split()
)
STAMP = re.compile(r"CKPT\+[\d+-]+")
# Written line by line while something runs, for a person; locks, which the
# kernel frees.
GROWING = ("log.txt", "env.log", "train_log.txt", "*.log")
GROWING += ("lock", "lock-*", "*/graph/locks/*")
# Names that say by themselves that this is not yet a file or folder.
UNFINISHED = ("*.tmp", "*.tmp/*", "*unfinished*")


def is_one_of(name: str, patterns) -> bool:
    """Whether a path below a folder, or its last part, fits a pattern."""
    last = name.rsplit("/", 1)[-1]
    return any(
        fnmatch.fnmatch(name, p) or fnmatch.fnmatch(last, p) for p in patterns
    )


def files_of(folder: Path) -> dict[str, Path]:
    """Every file below a folder by its place there, empty folders too."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() or not any(path.iterdir()):
            name = path.relative_to(folder).as_posix()
            found[name + "/" * path.is_dir()] = path
    return found


def state_of(folder: Path) -> dict[str, object]:
    """Every file's content by its place, times left out."""
    state = {}
    for name, path in files_of(folder).items():
        content = None
        if not path.is_dir() and not is_one_of(name, GROWING):
            try:
                content = content_of(path)
            except ValueError as error:
                content = f"not whole: {error}"
        name, number = STAMP.sub("CKPT", name), 1
        while (key := f"{name} #{number}" if number > 1 else name) in state:
            number += 1
        state[key] = content
    return state


def content_of(path: Path) -> object:
    """What a file says, in plain values; ValueError where it is torn."""
    content = path.read_bytes()
    try:
        return _read(path.suffix, content, path)
    except (
        ValueError,
        KeyError,
        EOFError,
        RuntimeError,
        pickle.PickleError,
    ) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error
    except (SafetensorError, yaml.YAMLError) as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _read(suffix, content, path):
    if suffix == ".json":
        return _plain(json.loads(content))
    if suffix == ".jsonl":
        lines = content.decode().split("\n")
        if lines.pop():
            raise ValueError("its last line has no end")
        return [_plain(json.loads(line)) for line in lines]
    if path.name == "CKPT.yaml":
        return _plain(yaml.safe_load(content))
    if suffix == ".safetensors":
        # The order in its header is no two times the same.
        size = int.from_bytes(content[:8], "little")
        return _plain(load(content)), json.loads(content[8 : 8 + size])
    if suffix == ".ckpt":
        if path.name.startswith("dataloader"):
            return hashlib.sha256(content).hexdigest()
        return _plain(torch.load(io.BytesIO(content), weights_only=False))
    if suffix == ".csv":
        rows = list(csv.reader(io.StringIO(content.decode())))
        if not content.endswith(b"\n") or {len(r) for r in rows} != {
            len(rows[0])
        }:
            raise ValueError("its last row is cut")
    if not content:
        raise ValueError("it is empty")
    return hashlib.sha256(content).hexdigest()


def _plain(value):
    """The same with tensors as hashes and without times."""
    if torch.is_tensor(value):
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8)
        told = hashlib.sha256(flat.numpy().tobytes()).hexdigest()
        return str(value.dtype), tuple(value.shape), told
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items() if k not in TIMES}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value


def torn_files(folder: Path, *known: dict) -> list[str]:
    """Files that stand under their final names and are not whole.

    What nothing but a hash tells of must be as in one of the known states.
    """
    torn = []
    for name, path in files_of(folder).items():
        if path.is_dir() or is_one_of(name, (*UNFINISHED, *GROWING)):
            continue
        try:
            content = content_of(path)
        except ValueError as error:
            torn.append(f"{name} is not whole: {error}")
            continue
        there = [one[name] for one in known if name in one]
        if isinstance(content, str) and there and content not in there:
            torn.append(f"{name} is neither what it was nor what it becomes")
    return torn


def differences(expected: dict, found: dict) -> list[str]:
    """Where two states differ, a line each: lost, left over, other."""
    told = [f"{name} is missing" for name in expected if name not in found]
    for name, content in found.items():
        if name not in expected:
            told.append(f"{name} was left over")
        elif content != expected[name]:
            told.append(f"{name} differs: {_where(expected[name], content)}")
    return told


def _where(one, other, place=""):
    """Where two contents differ first."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *other]:
            if one.get(key) != other.get(key):
                return _where(one.get(key), other.get(key), f"{place}.{key}")
    if isinstance(one, list) and isinstance(other, list):
        for index, (a, b) in enumerate(zip(one, other)):
            if a != b:
                return _where(a, b, f"{place}[{index}]")
    return f"{place or 'it'} was {str(one)[:80]}, is {str(other)[:80]}"
