"""Hashes of what audio files hold, each made once and kept.

A corpus that was copied, moved or fetched again is the same corpus: what was
computed of it is found by its content. A file is read whole for it, as its
middle alone may differ from another's, and again only when its size or time
changes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from speechbrain_ext.runs.files import write_json

# Files that are read at a time, and bytes of each.
READERS, PIECE = 8, 1 << 20


class AudioHashes:
    """Hashes of files' contents, kept in a JSON file with size and time."""

    def __init__(self, memory: Path):
        self.memory = memory
        self.known = self._read()

    def __getitem__(self, file: str) -> str:
        return self.known[file][1]

    def unknown(self, files: Iterable[str]) -> list[str]:
        """Those that were never read, or have changed since (OSError)."""
        never = (None, None)
        return [f for f in files if self.known.get(f, never)[0] != _state(f)]

    def learn(self, files: Iterable[str]) -> dict[str, str]:
        """Read what is unknown; gives the hashes of content that is gone."""
        self.known = self._read()
        files = self.unknown(files)
        states = [_state(file) for file in files]
        with ThreadPoolExecutor(READERS) as readers:
            bar = tqdm(
                readers.map(_hash_of, files),
                desc="reading audio",
                unit="file",
                total=len(files),
                delay=5,
            )
            new = dict(zip(files, map(list, zip(states, bar))))
        before = {f: self.known[f][1] for f in files if f in self.known}
        self.known.update(new)
        write_json(self.memory, self.known)
        held = {content for _, content in self.known.values()}
        return {
            f: content for f, content in before.items() if content not in held
        }

    def _read(self):
        try:
            return json.loads(self.memory.read_text("utf-8"))
        except (OSError, ValueError):
            return {}


def _state(file):
    stat = os.stat(file)
    return f"{stat.st_size} {stat.st_mtime_ns}"


def _hash_of(file):
    digest = hashlib.blake2b(digest_size=12)
    with open(file, "rb", buffering=0) as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()
