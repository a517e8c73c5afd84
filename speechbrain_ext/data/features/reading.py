"""Features read in place, each checked the first time it is wanted."""

import zlib
from pathlib import Path

import numpy as np
import torch

from speechbrain_ext.data.features.entries import HALF
from speechbrain_ext.data.features.index import CorruptCacheError


class MappedFeatures:
    """A cache's file of features, mapped into memory when first read."""

    def __init__(self, folder, header, entries):
        self.folder = Path(folder)
        self.header = header
        self.width = header["width"]
        self.skipped = {}
        self._entries = entries
        self._checked = set()
        self._map = None

    def __len__(self):
        return len(self._entries)

    def __contains__(self, utterance):
        return utterance in self._entries

    def keys(self):
        """Ids, in the order of the file."""
        return self._entries.keys()

    def tokens(self, utterance):
        """Speech tokens of an utterance, without touching its features."""
        return self._entries[utterance]["tokens"]

    def __getitem__(self, utterance):
        """Features of an utterance."""
        try:
            entry = self._entries[utterance]
        except KeyError:
            raise KeyError(
                f"{utterance}: not in the feature cache {self.folder}: build "
                "it with this utterance"
            ) from None
        values = self._values(entry)
        if utterance not in self._checked:
            if values is None or zlib.crc32(values) != entry["crc"]:
                raise CorruptCacheError(
                    f"feature cache {self.folder}: the features of "
                    f"{utterance} are damaged: build it with verify=True, "
                    "which computes them again"
                )
            self._checked.add(utterance)
        # A tensor of its own over the slice: one view of the whole map would
        # drag the whole file along when a loading process sends it on.
        return torch.from_numpy(values).view(-1, self.width)

    def damaged(self):
        """Ids of all entries whose bytes are not those that were written."""
        bad = []
        for utterance, entry in self._entries.items():
            values = self._values(entry)
            if values is None or zlib.crc32(values) != entry["crc"]:
                bad.append(utterance)
        return bad

    def _values(self, entry):
        if self._map is None:
            path = self.folder / "features.bin"
            if not path.exists() or path.stat().st_size < HALF.itemsize:
                return None
            # "c", copy on write: torch has no read-only tensors.
            self._map = np.memmap(path, dtype=HALF, mode="c")
        first = entry["offset"] // HALF.itemsize
        values = self._map[first : first + entry["tokens"] * self.width]
        if len(values) < entry["tokens"] * self.width:
            return None
        return values

    def __getstate__(self):
        return {**self.__dict__, "_map": None}
