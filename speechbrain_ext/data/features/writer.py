"""From planned utterances to features on the disk, batch by batch."""

import errno
import shutil
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from tqdm import tqdm

from speechbrain_ext.data.audio import read_utterance
from speechbrain_ext.data.features.entries import HALF, end_of
from speechbrain_ext.data.features.index import as_line, write_all
from speechbrain_ext.data.features.todo import in_batches
from speechbrain_ext.model.encoder import concatenate_frames


class Writer:
    """Computes planned utterances and appends them."""

    def __init__(self, folder, encoder, k, header, entries):
        self.folder, self.encoder, self.k = folder, encoder, k
        self.entries = entries
        # What stands past the last entry was never spoken of: overwrite it.
        self.end = max((end_of(e, header) for e in entries.values()), default=0)

    def run(self, todo, batch_seconds, progress, workers, reading, skipped):
        """Batches of like length, longest first, read one batch ahead.

        Arguments
        ---------
        todo : list of dict
            From `find_todo`.
        batch_seconds, progress, workers, reading
            As `FeatureCache.build` takes them.
        skipped : dict or None
            Gets what cannot be read, id to fault; None: that is raised.
        """
        width = self.k * self.encoder.width
        need = sum(p["tokens"] for p in todo) * width * HALF.itemsize
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise self._no_space(len(todo), need, free)
        batches = in_batches(todo, batch_seconds * self.encoder.sample_rate)
        bar = tqdm(
            total=len(todo), desc="features", unit="utt", disable=not progress
        )
        left = len(todo)
        pool = ThreadPoolExecutor(workers)
        data = open(self.folder / "features.bin", "r+b", buffering=0)
        index = open(self.folder / "index.jsonl", "ab", buffering=0)
        with bar, pool, data, index:
            read = [
                _submit(pool, self.encoder, b, reading) for b in batches[:1]
            ]
            for number, batch in enumerate(batches):
                ahead = batches[number + 1 : number + 2]
                read += [_submit(pool, self.encoder, b, reading) for b in ahead]
                good, wavs = _collect(batch, read.pop(0), skipped)
                try:
                    self._write(data, index, good, wavs)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    raise self._no_space(left, need) from error
                left -= len(batch)
                bar.update(len(batch))

    def _write(self, data, index, batch, wavs):
        """Encode a batch and append its features, then its lines."""
        if not batch:
            return
        lengths = [len(wav_N) for wav_N in wavs]
        wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        names = [planned["id"] for planned in batch]
        x_BTE, frames_B = self.encoder(wav_BN, lengths, names)
        x_BSE, tokens_B = concatenate_frames(x_BTE, frames_B, self.k)
        tokens = tokens_B.tolist()
        # One transfer a batch, and only of what fits.
        half_BSE = x_BSE.to(torch.float16).cpu()
        lines, contents, end = [], [], self.end
        for planned, x_SE, count in zip(batch, half_BSE, tokens, strict=True):
            values = x_SE[:count].contiguous().numpy().astype(HALF)
            _check_finite(planned["id"], values)
            content = values.tobytes()
            contents.append(content)
            entry = {k: planned[k] for k in ("id", "path", "start", "stop")}
            entry.update(size=planned["size"], mtime_ns=planned["mtime_ns"])
            entry.update(tokens=count, offset=end, crc=zlib.crc32(content))
            lines.append(entry)
            end += len(content)
        # Features first, then the lines that speak of them.
        data.seek(self.end)
        write_all(data, b"".join(contents))
        write_all(index, b"".join(as_line(entry) for entry in lines))
        self.entries.update({entry["id"]: entry for entry in lines})
        self.end = end

    def _no_space(self, left, need, free=None):
        """The error of a full disk."""
        have = "" if free is None else f", {free / 1e6:.1f} MB are free"
        return OSError(
            errno.ENOSPC,
            f"feature cache {self.folder}: no space left for {left} more "
            f"utterances ({need / 1e6:.1f} MB for the whole run{have}): what "
            "is there is kept; free space, or choose another folder, and "
            "start again",
        )


def _check_finite(utterance, values):
    """Refuse what 16 bits cannot hold."""
    if np.isfinite(values).all():
        return
    raise OverflowError(
        f"{utterance}: its features go beyond the range of 16 bits (65504) or "
        "are NaN: give --speech_encoder.output_norm True, or do "
        "without the cache"
    )


def _submit(pool, encoder, batch, reading):
    """Begin to read a batch's audio; gives what will hold the waveforms."""

    def read(planned):
        return read_utterance(
            planned["file"],
            encoder.sample_rate,
            planned["start"],
            planned["stop"],
            name=f"{planned['id']} ({planned['file']})",
            **reading,
        )

    return [pool.submit(read, planned) for planned in batch]


def _collect(batch, futures, skipped):
    """Waveforms of a batch; bad ones are raised, or listed in ``skipped``."""
    good, wavs = [], []
    for planned, future in zip(batch, futures, strict=True):
        try:
            wavs.append(future.result())
            good.append(planned)
        except ValueError as error:
            if skipped is None:
                raise
            skipped[planned["id"]] = str(error)
    return good, wavs
