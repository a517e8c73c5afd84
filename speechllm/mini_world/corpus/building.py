"""How every corpus of the mini world is built: whole, once, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import asdict

from speechbrain_ext.runs.files import sync, sync_folder
from speechllm.mini_world.corpus.speech import Utterance

# Utterances that one process speaks.
SHARD = 120
MARK = "mini_world.json"


def build(root: str, settings: dict, write: Callable) -> str:
    """Write a corpus, unless the same one is there already."""
    if _finished(root) == settings:
        return root
    folder = os.path.dirname(os.path.abspath(root))
    os.makedirs(folder, exist_ok=True)
    # A folder of its own: two builds at a time must not spoil each other.
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
        new = os.path.join(work, os.path.basename(root))
        os.makedirs(new)
        write(new, os.path.join(work, "scratch"))
        with open(os.path.join(new, MARK), "w", encoding="utf-8") as file:
            json.dump(settings, file)
        if _finished(root) != settings:
            shutil.rmtree(root, ignore_errors=True)
            sync(new)
            os.rename(new, root)
            sync_folder(folder)
    return root


def _finished(root):
    """The settings of the corpus that stands there, if it is one of ours."""
    if not os.path.exists(root):
        return None
    mark = os.path.join(root, MARK)
    if not os.path.exists(mark):
        raise ValueError(
            f"folder: {root} exists and was not made by the mini world: "
            f"choose another folder"
        )
    with open(mark, encoding="utf-8") as file:
        return json.load(file)


def check_sizes(sizes: dict | None, usual: dict) -> dict:
    """The utterances of each split that are wanted."""
    sizes = dict(sizes or usual)
    unknown = sorted(set(sizes) - set(usual))
    if unknown:
        raise ValueError(f"sizes: unknown {unknown}: choose from {list(usual)}")
    return sizes


def in_shards(utterances: list, size: int = SHARD) -> list[list]:
    """Utterances in lists that one process speaks each."""
    starts = range(0, len(utterances), size)
    return [utterances[i : i + size] for i in starts]


def fingerprint(utterances: list[Utterance], rows: list | None = None) -> str:
    """SHA-256 of what is said and how, and of rows told about it.

    Names of files have no part in it: it is the same on every machine.
    """
    plan = [{**asdict(one), "path": None} for one in utterances]
    text = json.dumps([plan, rows or []], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
