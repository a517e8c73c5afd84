"""Audio that stays in Parquet files: an utterance is a file, group and row.

The Hugging Face hub stores speech corpora so: a column of audio files, in
groups of some hundred rows that are read as one. Nothing is unpacked onto the
disk; the groups last used stay in memory, and training draws its utterances
from a few groups at a time (`speechbrain_ext.data.batches.StepBatchSampler`).
"""

from __future__ import annotations

import io
import os
from collections import OrderedDict
from typing import TYPE_CHECKING

import torch

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.audio_file import naming

if TYPE_CHECKING:
    import pyarrow.parquet


def place_of(file: str, group: int, row: int) -> str:
    """Where an utterance is, as manifests write it: file, row group, row."""
    return f"{file}#{group}:{row}"


def split_place(place: str) -> tuple[str, int, int]:
    """The file, group and row that `place_of` joined."""
    file, _, where = place.rpartition("#")
    group, _, row = where.partition(":")
    return file, int(group), int(row)


def open_parquet(path: str) -> pyarrow.parquet.ParquetFile:
    """Open a Parquet file, or say in plain words why not.

    Raises
    ------
    AudioError
        If it is not there or damaged.
    ImportError
        If pyarrow is not installed.
    """
    try:
        # Wanted only by corpora that come so.
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "Parquet files need pyarrow: pip install pyarrow"
        ) from error
    if not os.path.isfile(path):
        raise AudioError(f"{path}: no such file: fetch it again")
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowInvalid, OSError, UnicodeDecodeError) as error:
        raise AudioError(
            f"{path}: cannot be read as Parquet ({error}): fetch it again"
        ) from error


class ParquetAudio:
    """Reads utterances by their place, the last row groups kept in memory.

    It may be sent to data-loading processes: each opens the files for itself.

    Arguments
    ---------
    column : str
        Name of the column with the audio files (a struct with ``bytes``).
    cache_bytes : float
        Most memory for row groups, in each process; one is always kept.
    """

    def __init__(self, column: str = "wav", cache_bytes: float = 2e9):
        self.column = column
        self.cache_bytes = cache_bytes
        self._forget()

    def _forget(self):
        self._process = os.getpid()
        self._groups = OrderedDict()
        self.groups_read = 0

    def __getstate__(self):
        return {"column": self.column, "cache_bytes": self.cache_bytes}

    def __setstate__(self, state):
        self.__init__(**state)

    def content(self, place: str) -> bytes:
        """The audio file at a place, as it was put in."""
        file, group, row = split_place(place)
        with naming(place):
            content = self._group(file, group)[row]["bytes"].as_py()
        if not content:
            raise AudioError(f"{place}: holds no audio: leave it out")
        return content

    def read(
        self, place: str, name: str | None = None, **options
    ) -> torch.Tensor:
        """The samples at a place.

        Arguments
        ---------
        place : str
            From `place_of`, with the file's whole path.
        name : str or None
            What errors call the utterance; None: its place.
        **options : dict
            As `speechbrain_ext.data.audio.read_utterance` takes them.

        Returns
        -------
        torch.Tensor
            float32 ``[N]``.
        """
        content = io.BytesIO(self.content(place))
        return read_utterance(content, name=name or place, **options)

    def _group(self, file, group):
        """The audio column of one row group."""
        if self._process != os.getpid():
            # A forked process may not use what its parent opened.
            self._forget()
        key = file, group
        if key not in self._groups:
            source = open_parquet(file)
            # Arrow's own threads do not outlive a fork.
            table = source.read_row_group(
                group, columns=[self.column], use_threads=False
            )
            source.close()
            self._groups[key] = table.column(self.column)
            self.groups_read += 1
        self._groups.move_to_end(key)
        self._trim()
        return self._groups[key]

    def _trim(self):
        """Let go of the groups that were not used for longest."""
        held = sum(group.nbytes for group in self._groups.values())
        while held > self.cache_bytes and len(self._groups) > 1:
            _, oldest = self._groups.popitem(last=False)
            held -= oldest.nbytes
