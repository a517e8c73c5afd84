"""A cache of speech features, computed once and mapped into memory.

The encoder is frozen, so what it makes of an utterance never changes: keep it
after `concatenate_frames`, in 16 bits. One folder per split of a data set:

    features.bin   float16, the utterances one after another, uncompressed
    index.jsonl    first line: what made it; then one line per utterance

An utterance's line is written after its features are on the disk, so a run
killed anywhere leaves whole entries and perhaps a tail that no line speaks of,
which the next run overwrites. A cache is used only if encoder and k are the
same, and an entry only if its audio file has the size and time it had.

Example
-------
>>> cache = FeatureCache.build(folder, encoder, 5, items)  # doctest: +SKIP
>>> cache["84-121123-0000"].shape  # doctest: +SKIP
torch.Size([152, 5120])

Authors
-------
 * The speechbrain_ext authors, 2026
"""

import errno
import fcntl
import hashlib
import json
import logging
import os
import shutil
import socket
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from speechbrain_ext.audio import audio_info, check_format, read_utterance
from speechbrain_ext.encoder import concatenate_frames

logger = logging.getLogger(__name__)

FORMAT = 1
HALF = np.dtype("<f2")


class StaleCacheError(RuntimeError):
    """A cache made by another encoder, another k, or from other audio."""


class CorruptCacheError(RuntimeError):
    """An entry whose bytes are not those that were written."""


def cache_key(encoder, k):
    """Hash of everything but the audio that decides cached features.

    Arguments
    ---------
    encoder : SpeechEncoder
        Its weights, configuration, type and options count; its place does not.
    k : int
        Frames a speech token.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    made_by = json.dumps({**encoder.identity(), "k": k}, sort_keys=True)
    return hashlib.blake2b(made_by.encode(), digest_size=16).hexdigest()


class FeatureCache:
    """Features by utterance id, read in place.

    Built with `build`, opened with `open`. It may be sent to data-loading
    processes: each maps the file for itself.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where it lies.
    header : dict
        First line of the index.
    entries : dict
        Lines of the index by id.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> folder = getfixture("tmpdir")
    >>> file = str(folder.join("a.wav"))
    >>> soundfile.write(file, [0.1] * 8000, 16000)
    >>> encoder = tiny_speech_llm().encoder
    >>> cache = FeatureCache.build(
    ...     str(folder.join("cache")), encoder, 3, [("a", file)], progress=False
    ... )
    >>> cache["a"].shape
    torch.Size([8, 48])
    """

    def __init__(self, folder, header, entries):
        self.folder = Path(folder)
        self.header = header
        self.width = header["width"]
        self.skipped = {}
        self._entries = entries
        self._checked = set()
        self._map = None

    @classmethod
    def open(cls, folder, key, root=None):
        """Open a cache for reading.

        Arguments
        ---------
        folder : str or pathlib.Path
            Where it lies.
        key : str
            From `cache_key`.
        root : str or pathlib.Path, optional
            As given to `build`: where the audio is now.

        Returns
        -------
        FeatureCache

        Raises
        ------
        FileNotFoundError
            There is none.
        StaleCacheError
            Another encoder or k, or audio files that changed since.
        CorruptCacheError
            Features are missing from the file.
        """
        folder = Path(folder)
        header, entries, _ = _read_index(folder)
        if header is None:
            raise FileNotFoundError(
                f"feature cache {folder}: not there: build it first"
            )
        _check_key(folder, header, key)
        cache = cls(folder, header, entries)
        lost = _beyond_end(folder, header, entries)
        if lost:
            raise CorruptCacheError(
                f"feature cache {folder}: {_some(lost)} are missing from "
                "features.bin: build it again, which computes only these"
            )
        stale = [i for i, e in entries.items() if not _is_current(e, root)]
        if stale:
            raise StaleCacheError(
                f"feature cache {folder}: the audio of {_some(stale)} was "
                "changed or removed since: build it again, which computes "
                "only these"
            )
        return cache

    @classmethod
    def build(
        cls,
        folder,
        encoder,
        k,
        items,
        batch_seconds=120.0,
        progress=True,
        rebuild=False,
        verify=False,
        skip_bad=False,
        workers=1,
        root=None,
        **reading,
    ):
        """Compute what is missing and open the cache.

        Stopped anywhere and called again, it goes on. Two processes building
        in one folder take turns.

        Arguments
        ---------
        folder : str or pathlib.Path
            Where it lies; made if absent.
        encoder : SpeechEncoder
            Frozen encoder.
        k : int
            Frames a speech token.
        items : list of tuple
            ``(id, path)`` or ``(id, path, start, stop)``, in samples.
        batch_seconds : float
            Audio a batch, padding included.
        progress : bool
            Show a bar.
        rebuild : bool
            Throw a cache of another encoder or k away instead of refusing it.
        verify : bool
            Read all that is there, and compute damaged entries again.
        skip_bad : bool
            List unusable utterances in ``.skipped`` instead of refusing them.
        workers : int
            Threads that read audio ahead of the encoder.
        root : str or pathlib.Path, optional
            Folder of the corpus: paths are kept relative to it, so that
            corpus and cache may move. By default paths are kept whole.
        **reading
            ``resample`` and ``mix_channels`` of `read_utterance`.

        Returns
        -------
        FeatureCache

        Raises
        ------
        ValueError
            Unusable utterances (all those that show from the files' heads,
            at once), or one id given twice.
        StaleCacheError
            A cache of another encoder or k lies there.
        OverflowError
            Features beyond the range of 16 bits.
        OSError
            No space left: before the start where it can be known.
        """
        folder = Path(folder)
        _make_folder(folder)
        key = cache_key(encoder, k)
        with _locked(folder):
            header, entries, whole = _read_index(folder)
            if header is None or (rebuild and not _fits(header, key)):
                header, entries = _new_header(encoder, k, key), {}
                _start(folder, header)
            _check_key(folder, header, key)
            cache = cls(folder, header, entries)
            wanted = {item[0] for item in items}
            cache._mend(wanted, whole, verify, root)
            plan, cache.skipped = _plan(encoder, items, entries, reading, root)
            _refuse_bad(cache.skipped, skip_bad)
            if plan:
                writer = _Writer(folder, encoder, k, header, entries)
                skipped = cache.skipped if skip_bad else None
                writer.run(
                    plan, batch_seconds, progress, workers, reading, skipped
                )
        wanted -= cache.skipped.keys()
        cache._entries = {i: entries[i] for i in entries if i in wanted}
        return cache

    def _mend(self, wanted, whole, verify, root):
        """Forget entries without features, or of audio no longer there."""
        entries = self._entries
        (self.folder / "features.bin").touch()
        drop = set(_beyond_end(self.folder, self.header, entries))
        drop |= {
            i
            for i, entry in entries.items()
            if i not in wanted and not _is_current(entry, root)
        }
        if verify:
            drop |= set(self.damaged())
        if drop:
            logger.warning(
                "feature cache %s: forgetting %s", self.folder, _some(drop)
            )
            for utterance in drop:
                del entries[utterance]
        if drop or not whole:
            _write_index(self.folder, self.header, entries)
        # A map made now would end before what is about to be written.
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
        """Features of an utterance.

        Arguments
        ---------
        utterance : str
            Its id.

        Returns
        -------
        x_SE : torch.Tensor
            float16, S tokens of width k times E: a view of the mapped file.
            Writing to it does not reach the file.
        """
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


class _Writer:
    """Computes planned utterances and appends them."""

    def __init__(self, folder, encoder, k, header, entries):
        self.folder, self.encoder, self.k = folder, encoder, k
        self.entries = entries
        # What stands past the last entry was never spoken of: overwrite it.
        self.end = max((_end(e, header) for e in entries.values()), default=0)

    def run(self, plan, batch_seconds, progress, workers, reading, skipped):
        """Batches of like length, longest first, read one batch ahead."""
        width = self.k * self.encoder.width
        need = sum(p["tokens"] for p in plan) * width * HALF.itemsize
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise self._no_space(len(plan), need, free)
        batches = _batches(plan, batch_seconds * self.encoder.sample_rate)
        bar = tqdm(
            total=len(plan), desc="features", unit="utt", disable=not progress
        )
        left = len(plan)
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
        _write_all(data, b"".join(contents))
        _write_all(index, b"".join(_line(entry) for entry in lines))
        self.entries.update({entry["id"]: entry for entry in lines})
        self.end = end

    def _no_space(self, left, need, free=None):
        have = "" if free is None else f", {free / 1e6:.1f} MB are free"
        return OSError(
            errno.ENOSPC,
            f"feature cache {self.folder}: no space left for {left} more "
            f"utterances ({need / 1e6:.1f} MB for the whole run{have}): what "
            "is there is kept; free space, or choose another folder, and "
            "start again",
        )


def _write_all(file, content):
    """Write and reach the disk; a raw write may stop half-way in silence."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
    os.fsync(file.fileno())


def _check_finite(utterance, values):
    if np.isfinite(values).all():
        return
    raise OverflowError(
        f"{utterance}: its features go beyond the range of 16 bits (65504) or "
        "are NaN: set output_norm: True for the encoder, or do without the "
        "cache"
    )


def _submit(pool, encoder, batch, reading):
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


def _plan(encoder, items, entries, reading, root):
    """What is to be computed, and what cannot be; from files' heads alone."""
    plan, bad, seen = [], {}, set()
    for utterance, path, *part in items:
        if utterance in seen:
            raise ValueError(f"{utterance}: given twice: ids must be unique")
        seen.add(utterance)
        start, stop = part or (None, None)
        file = os.path.abspath(path)
        planned = {
            "id": utterance,
            "file": file,
            "path": os.path.relpath(file, root) if root else file,
            "start": start,
            "stop": stop,
        }
        entry = entries.get(utterance)
        if entry and _is_same(entry, planned) and _is_current(entry, root):
            continue
        try:
            plan.append(_measure(encoder, planned, reading))
        except ValueError as error:
            bad[utterance] = str(error)
    return plan, bad


def _measure(encoder, planned, reading):
    name = f"{planned['id']} ({planned['file']})"
    info = audio_info(planned["file"], name)
    check_format(info, name, encoder.sample_rate, **reading)
    stat = os.stat(planned["file"])
    last = info.frames if planned["stop"] is None else planned["stop"]
    samples = last - (planned["start"] or 0)
    samples = -(-samples * encoder.sample_rate // info.sample_rate)
    encoder.check_length(samples, name)
    planned.update(size=stat.st_size, mtime_ns=stat.st_mtime_ns)
    planned["work"] = encoder.work_samples(samples)
    planned["tokens"] = encoder.frames(samples)
    return planned


def _refuse_bad(bad, skip_bad):
    if not bad:
        return
    told = "\n  ".join(list(bad.values())[:10])
    more = f"\n  ... and {len(bad) - 10} more" if len(bad) > 10 else ""
    if not skip_bad:
        raise ValueError(
            f"{len(bad)} utterances cannot be used:\n  {told}{more}\n"
            "mend them, or leave them out with skip_bad: True"
        )
    logger.warning("%d utterances left out:\n  %s%s", len(bad), told, more)


def _batches(plan, batch_samples):
    """Like lengths together, longest first: what does not fit shows at once."""
    batches = []
    for planned in sorted(plan, key=lambda p: -p["work"]):
        longest = batches[-1][0]["work"] if batches else 0
        if not batches or (len(batches[-1]) + 1) * longest > batch_samples:
            batches.append([])
        batches[-1].append(planned)
    return batches


def _is_same(entry, planned):
    return all(entry[key] == planned[key] for key in ("path", "start", "stop"))


def _is_current(entry, root):
    try:
        stat = os.stat(os.path.join(root or "", entry["path"]))
    except OSError:
        return False
    return (stat.st_size, stat.st_mtime_ns) == (
        entry["size"],
        entry["mtime_ns"],
    )


def _fits(header, key):
    return header["format"] == FORMAT and header["key"] == key


def _check_key(folder, header, key):
    if _fits(header, key):
        return
    raise StaleCacheError(
        f"feature cache {folder}: made by {header['encoder']} with k = "
        f"{header['k']}, or other options of it, not by what is asked for: "
        "choose another folder, or rebuild it (rebuild=True)"
    )


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"feature cache {folder}: cannot be made ({error.strerror}): "
            "choose another folder",
        ) from error


def _new_header(encoder, k, key):
    return {
        "format": FORMAT,
        "key": key,
        "encoder": encoder.source,
        "revision": encoder.revision,
        "identity": encoder.identity(),
        "k": k,
        "width": k * encoder.width,
    }


def _start(folder, header):
    """An empty cache, in place of what may be there."""
    # The old index goes first: without it, old features mean nothing. They
    # are removed, not cut, for whoever still has them mapped.
    (folder / "index.jsonl").unlink(missing_ok=True)
    (folder / "features.bin").unlink(missing_ok=True)
    (folder / "features.bin").touch()
    _write_index(folder, header, {})


def _line(values):
    return json.dumps(values).encode() + b"\n"


def _write_index(folder, header, entries):
    """The whole index anew, replaced at one stroke."""
    fresh = folder / "index.jsonl.new"
    with open(fresh, "wb", buffering=0) as index:
        lines = [header, *entries.values()]
        _write_all(index, b"".join(_line(values) for values in lines))
    os.replace(fresh, folder / "index.jsonl")


def _read_index(folder):
    """Header, entries by id, and whether the index ends with a whole line.

    Reading stops at a line cut short by a kill. No cache, no header.
    """
    path = folder / "index.jsonl"
    if not path.exists():
        return None, {}, True
    lines = []
    for line in path.read_bytes().splitlines(keepends=True):
        try:
            # A cut line may be valid JSON but for its end.
            lines.append(json.loads(line) if line.endswith(b"\n") else None)
        except ValueError:
            lines.append(None)
        if lines[-1] is None:
            break
    if not lines or lines[0] is None:
        raise CorruptCacheError(
            f"feature cache {folder}: index.jsonl has no readable head: "
            "remove the folder and build again"
        )
    whole = lines[-1] is not None
    header, *entries = lines if whole else lines[:-1]
    # Later lines replace earlier ones of the same utterance.
    return header, {entry["id"]: entry for entry in entries}, whole


def _end(entry, header):
    return entry["offset"] + entry["tokens"] * header["width"] * HALF.itemsize


def _beyond_end(folder, header, entries):
    """Ids of entries that the feature file does not hold."""
    path = folder / "features.bin"
    size = path.stat().st_size if path.exists() else 0
    return [i for i, entry in entries.items() if _end(entry, header) > size]


def _some(names):
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


@contextmanager
def _locked(folder):
    """One builder at a time; the kernel frees the lock of a killed one."""
    with open(folder / "lock", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            logger.warning(
                "feature cache %s: waiting for %s",
                folder,
                lock.read().strip() or "another process",
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        since = time.strftime("%H:%M:%S")
        lock.write(
            f"process {os.getpid()} on {socket.gethostname()} since {since}\n"
        )
        lock.flush()
        try:
            yield
        finally:
            lock.truncate(0)
