"""What is on a faulty disk in the end, and whether any of it is torn."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import soundfile
import torch
from safetensors import safe_open

from speechbrain_ext.runs.folders import BEFORE

# Times, speeds and memory: never alike in two runs.
VOLATILE = re.compile(
    r"started|finished|seconds|speed|unixtime|.*(_seconds|memory_bytes|factor)"
)
# Diaries, which may differ; none is read again.
DIARIES = re.compile(r"(log|env|train_log)\.(txt|log)|lock.*|.*\.pyc")


def end_of(folder: Path, *also: Path) -> dict[str, str]:
    """What a folder holds: a hash by name, without what is never alike.

    Its own name is not told apart, nor are some others.
    """
    found = {}
    for path in sorted(folder.rglob("*")):
        name = re.sub(r"CKPT\+[^/]*", "CKPT", str(path.relative_to(folder)))
        if path.is_dir() or DIARIES.fullmatch(path.name):
            continue
        found[name] = _hash(path)
        for one in (folder, *also):
            found[name] = found[name].replace(str(one), "HERE")
    return found


def _hash(path):
    if path.suffix == ".yaml" and path.name != "CKPT.yaml":
        return path.read_text(encoding="utf-8")
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text(encoding="utf-8")
        whole = path.suffix == ".json"
        texts = [lines] if whole else lines.splitlines()
        content = [_steady(json.loads(text)) for text in texts]
        return json.dumps(content, sort_keys=True)
    if path.suffix == ".safetensors":
        # Rust writes what is told about the tensors in any order.
        with safe_open(path, "pt") as file:
            about = file.metadata() or {}
            parts = [(n, file.get_tensor(n)) for n in sorted(file.keys())]
        hashed = hashlib.sha256(repr(sorted(about.items())).encode())
        for name, value in parts:
            hashed.update(f"{name} {value.dtype} {value.shape}".encode())
            hashed.update(value.contiguous().view(-1).view(torch.uint8).numpy())
        return hashed.hexdigest()
    if path.name.endswith(".ckpt"):
        state = torch.load(path, weights_only=False)
        return f"{sorted(map(str, state))}"
    if path.name in ("CKPT.yaml", "report.html", "report.md"):
        return "there"
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _steady(value):
    if isinstance(value, dict):
        return {
            k: _steady(v) for k, v in value.items() if not VOLATILE.fullmatch(k)
        }
    return [_steady(v) for v in value] if isinstance(value, list) else value


def unlike(end: dict, wanted: dict) -> str:
    """In what two ends differ, in words."""
    lacking, more = wanted.keys() - end.keys(), end.keys() - wanted.keys()
    other = [k for k in wanted.keys() & end.keys() if wanted[k] != end[k]]
    told = {"lacking": lacking, "too many": more, "different": other}
    return "; ".join(f"{k}: {sorted(v)[:4]}" for k, v in told.items() if v)


LEFT = re.compile(r"(.*\.tmp|.*unfinished.*|.*\.new)")


def torn(folder: Path, *, set_aside: bool = False) -> str:
    """The first half file under a final name, or leftover; empty: none.

    ``set_aside``: nothing can be renamed, so what was to be replaced may not
    have been put back yet.
    """
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        left = any(LEFT.fullmatch(part) for part in Path(name).parts)
        if left and not (set_aside and BEFORE in name):
            return f"{name} is left over"
        if path.is_dir() or DIARIES.fullmatch(path.name):
            continue
        try:
            _look(path)
        except Exception as error:
            return f"{name} is torn ({error})"
    return ""


def _look(path):
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            [file.get_tensor(name) for name in file.keys()]
    elif path.suffix == ".flac":
        soundfile.read(path)
    elif not path.stat().st_size:
        raise ValueError("empty")
    else:
        _hash(path)
