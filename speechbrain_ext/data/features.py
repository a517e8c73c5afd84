"""Speech features, computed once and kept: a file for each utterance.

The encoder is frozen, so what it makes of an utterance never changes: its
frames are kept one by one, in the encoder's own type, and joined when read.

    FOLDER/<encoder>-<key>/3f/3f…-<hash of the file>-<part>.safetensors

The key hashes all that decides features, the audio apart; a name holds the
utterance and what its file holds, wherever that lies. So what another encoder
or other audio made is never looked at, and as a file has its name only once it
is whole, a run killed anywhere goes on, and processes share the work.

SpeechBrain's `CachedDynamicItem` keeps one file an utterance too, but under
its id alone, written in place, and by an item at a time: here utterances of
like length go through the encoder together.

Example
-------
>>> cache = FeatureCache(folder, encoder, 5, items)  # doctest: +SKIP
>>> cache.compute(encoder, read)  # doctest: +SKIP
>>> cache["84-121123-0000"].shape  # doctest: +SKIP
torch.Size([152, 5120])
"""

from __future__ import annotations

import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import socket
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from tqdm import tqdm

from speechbrain_ext.data.audio import PART
from speechbrain_ext.data.audio_hash import AudioHashes
from speechbrain_ext.data.row_groups import row_group
from speechbrain_ext.model.encoder import SpeechEncoder, concatenate_frames
from speechbrain_ext.runs.disks import abandoned
from speechbrain_ext.runs.files import atomic_write, write_json, writing

logger = logging.getLogger(__name__)

# Seconds between two looks for what other processes compute, and without any
# progress before giving up: a long batch on a slow disk takes a while.
LOOK, GIVE_UP = 2.0, 2 * 3600
# Files that are written at a time: each waits for the disk.
WRITERS = 8


class CorruptCacheError(RuntimeError):
    """Features that are not those that were written."""


def cache_key(encoder: SpeechEncoder) -> str:
    """Hash of everything but the audio that decides cached features."""
    return _hash(json.dumps(encoder.identity(), sort_keys=True))


class FeatureCache:
    """Features of a set's utterances, by id.

    It may be sent to data-loading processes.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where caches are kept, of any encoder and any set.
    encoder : SpeechEncoder
        Frozen encoder.
    k : int
        Frames a speech token; any k is joined from the same files.
    items : dict
        For each id its audio, and its seconds. Audio is a file, a part of one
        (`speechbrain_ext.data.audio.part_place`), or a place in a Parquet
        file (`speechbrain_ext.data.parquet.place_of`).

    Raises
    ------
    ValueError
        Audio files that are not there, or a cache of an earlier version.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        encoder: SpeechEncoder,
        k: int,
        items: dict[str, tuple[str, float]],
    ):
        _refuse_earlier(Path(folder))
        self.folder = Path(folder) / f"{encoder.name}-{cache_key(encoder)}"
        self.k = k
        self._items = items
        self._names = _names(items, Path(folder))
        self._checked: set[str] = set()

    def __getitem__(self, utterance: str) -> torch.Tensor:
        """Features of an utterance, ``[S, k * E]`` in the encoder's type.

        Raises
        ------
        KeyError
            They were not computed.
        CorruptCacheError
            The file is damaged; each is looked through the first time.
        """
        path = self._path(utterance)
        try:
            with safe_open(path, "pt") as file:
                x_TE = file.get_tensor("frames")
                crc = file.metadata()["crc"]
        except FileNotFoundError:
            raise KeyError(
                f"{utterance}: not in the feature cache {self.folder}: "
                "compute it first"
            ) from None
        except (SafetensorError, OSError) as error:
            raise _damaged(path, utterance) from error
        if utterance not in self._checked:
            if crc != _crc(x_TE):
                raise _damaged(path, utterance)
            self._checked.add(utterance)
        x_1SE, _ = concatenate_frames(
            x_TE[None], torch.tensor([len(x_TE)]), self.k
        )
        return x_1SE[0]

    def compute(
        self,
        encoder: SpeechEncoder,
        read: Callable[[str], torch.Tensor],
        rank: int = 0,
        world_size: int = 1,
        batch_seconds: float = 120.0,
        progress: bool = True,
    ) -> None:
        """Compute what is missing of this process's share.

        Arguments
        ---------
        encoder : SpeechEncoder
            The one that the cache was opened with.
        read : callable
            Gives the waveform ``[N]`` of an id.
        rank, world_size : int
            Which of how many processes this is.
        batch_seconds : float
            Audio a batch, padding included.
        progress : bool
            Show a bar.

        Raises
        ------
        OverflowError
            Features beyond the range of the encoder's type.
        OSError
            No space left: before the start where it can be known.
        """
        share = self._share(rank, world_size)
        self._remove_leftovers()
        # A whole cache may be one that we cannot write to.
        if not self._missing(share):
            return
        _make_folder(self.folder)
        with _locked(self.folder / f"lock-{rank}") as cut_short:
            todo = self._missing(share)
            if not todo:
                return
            self._about(encoder)
            if cut_short:
                # Whoever held this share is dead, if only just.
                self._remove_leftovers()
            self._check_space(encoder, todo)
            batches = self._batches(encoder, todo, batch_seconds)
            if cut_short:
                batches = self._left(encoder, share, batches, batch_seconds)
            bar = tqdm(
                total=sum(map(len, batches)),
                desc="features",
                unit="utt",
                disable=not progress,
            )
            with bar, ThreadPoolExecutor(WRITERS) as writers:
                for batch, wavs in _read_ahead(read, batches):
                    features = self._encode(encoder, batch, wavs)
                    list(writers.map(self._write, batch, features))
                    bar.update(len(batch))

    def wait(self, look: float = LOOK, give_up: float = GIVE_UP) -> None:
        """Wait until other processes have computed their shares.

        None waits in a collective operation, which gives up after a while.

        Arguments
        ---------
        look, give_up : float
            Seconds between two looks, and without progress before giving up.

        Raises
        ------
        TimeoutError
            Nothing was written for `give_up` seconds and some are missing.
        """
        wanted, count, since = set(self._names.values()), 0, time.monotonic()
        while missing := wanted - (there := self._there()):
            # Whatever set they are of: a process may first wait for another
            # run's share of a longer one.
            if len(there) != count:
                count, since = len(there), time.monotonic()
            seconds = time.monotonic() - since
            if seconds >= give_up:
                raise TimeoutError(
                    f"feature cache {self.folder}: {len(missing)} utterances "
                    "are missing, and no process has written any for "
                    f"{seconds / 60:.0f} minutes: all of them must see this "
                    "folder, and the same audio files. What is there is "
                    "kept: start again."
                )
            time.sleep(look)

    def _path(self, utterance):
        try:
            name = self._names[utterance]
        except KeyError:
            raise KeyError(
                f"{utterance}: not one of the utterances that the feature "
                f"cache {self.folder} was opened for"
            ) from None
        return self.folder / name[:2] / name

    def _there(self):
        """Names of all files that are whole, whoever wrote them (set)."""
        names = chain.from_iterable(map(os.listdir, self.folder.glob("??")))
        return {name for name in names if name.endswith(".safetensors")}

    def _missing(self, share):
        """Those of some utterances that nobody has computed (list)."""
        there = self._there()
        return [i for i in share if self._names[i] not in there]

    def _remove_leftovers(self):
        """Remove what killed writers left."""
        for path in abandoned(self.folder, "??/.*.tmp"):
            with suppress(OSError):
                path.unlink()

    def _share(self, rank, world_size):
        """Every so many-th utterance; a row group of Parquet is one's alone."""
        numbers, share = {}, []
        for utterance, (place, _) in self._items.items():
            unit = row_group(place) or utterance
            number = numbers.setdefault(unit, len(numbers))
            if number % world_size == rank:
                share.append(utterance)
        return share

    def _left(self, encoder, share, todo, batch_seconds):
        """Batches of what is missing; the one that a kill cut short, whole.

        How features are rounded hangs on their batch: so they are what they
        were without the kill.
        """
        missing = set(chain(*todo))
        batches = self._batches(encoder, share, batch_seconds)
        left = [one for one in batches if missing.intersection(one)]
        if sum(not missing.issuperset(one) for one in left) <= 1:
            return left
        # Other things are missing too, which were another set's.
        return todo

    def _batches(self, encoder, todo, batch_seconds):
        """Like lengths together, longest first: what does not fit shows soon.

        Row groups of Parquet, each read as one, come one after the other.
        """
        most, groups = batch_seconds * encoder.sample_rate, {}
        for utterance in todo:
            group = row_group(self._items[utterance][0])
            work = encoder.work_samples(self._samples(encoder, utterance))
            groups.setdefault(group, []).append((utterance, work))
        batches, longest = [], 0
        for group in groups.values():
            for utterance, work in sorted(group, key=lambda one: -one[1]):
                longest = max(longest, work)
                if not batches or (len(batches[-1]) + 1) * longest > most:
                    batches.append([])
                    longest = work
                batches[-1].append(utterance)
        return batches

    def _samples(self, encoder, utterance):
        return round(self._items[utterance][1] * encoder.sample_rate)

    def _check_space(self, encoder, todo):
        """Refuse a full disk before hours of work (OSError)."""
        frames = sum(encoder.frames(self._samples(encoder, i)) for i in todo)
        need = frames * encoder.width * encoder.dtype.itemsize
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise OSError(
                f"feature cache {self.folder}: no space left for {len(todo)} "
                f"more utterances: {need / 1e6:.1f} MB are needed, "
                f"{free / 1e6:.1f} MB are free: free space, or choose another "
                "folder, and start again"
            )

    def _about(self, encoder):
        """Note in the folder what made the features, for whoever wonders."""
        about = {"encoder": encoder.source, "revision": encoder.revision}
        about["identity"] = encoder.identity()
        write_json(self.folder / "made_by.json", about)
        pattern = f"{glob.escape(encoder.name)}-k[0-9]*-*"
        for former in sorted(self.folder.parent.glob(pattern)):
            logger.warning(
                "feature cache %s: made by an earlier version, no longer "
                "read: delete it",
                former,
            )

    def _encode(self, encoder, batch, wavs):
        """Each utterance's frames, on the CPU."""
        wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
        x_BTE, frames_B = encoder(wav_BN, [len(wav_N) for wav_N in wavs], batch)
        # One transfer a batch.
        return [x_TE[:n] for x_TE, n in zip(x_BTE.cpu(), frames_B.tolist())]

    def _write(self, utterance, x_TE):
        if not x_TE.isfinite().all():
            dtype = str(x_TE.dtype).removeprefix("torch.")
            raise OverflowError(
                f"{utterance}: its features go beyond the range of {dtype} "
                "or are NaN: give --speech_encoder.output_norm True or "
                "another --speech_encoder.dtype"
            )
        path, x_TE = self._path(utterance), x_TE.contiguous()
        _make_folder(path.parent)
        about = {"id": utterance, "crc": _crc(x_TE)}
        with atomic_write(path, "wb") as stream:
            stream.write(save({"frames": x_TE}, about))


def _hash(text):
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _crc(x_TE):
    return f"{zlib.crc32(x_TE.view(torch.uint8).numpy()):08x}"


def _names(items, folder):
    """Each utterance's file: itself, and what its audio is (dict)."""
    files, absent = {}, []
    for utterance, (place, _) in items.items():
        file, where = os.path.abspath(place), ""
        is_part = row_group(file) or PART.fullmatch(file)
        if is_part and not os.path.exists(file):
            file, _, where = file.rpartition("#")
        files[utterance] = file, where
        if not os.path.exists(file):
            absent.append(f"{utterance}: {file}")
    _tell_absent(absent)
    hashes = AudioHashes(folder / "audio.json")
    gone = {}
    if hashes.unknown(wanted := dict.fromkeys(f for f, _ in files.values())):
        _make_folder(folder)
        # Of processes started together, one reads the audio.
        with _locked(folder / "lock-audio"):
            gone = hashes.learn(wanted)
    names = {}
    for utterance, (file, where) in files.items():
        own = _hash(utterance)
        if file in gone:
            for path in folder.glob(f"*/{own[:2]}/{own}-{gone[file]}-*"):
                path.unlink(missing_ok=True)
        # Several utterances may be parts of one file.
        part = _hash(f"{where} {items[utterance][1]:.3f}")[:8]
        names[utterance] = f"{own}-{hashes[file]}-{part}.safetensors"
    return names


def _tell_absent(absent):
    if absent:
        told = "\n  ".join(absent[:10])
        raise ValueError(
            f"{len(absent)} utterances have no audio, the first:\n  {told}\n"
            "check data_folder, or prepare the data again"
        )


def _refuse_earlier(folder):
    """Refuse a folder whose caches no longer mean anything."""
    earlier = next(folder.glob("*/*/features.bin"), None)
    if earlier is not None:
        raise ValueError(
            f"feature cache {earlier.parent}: made by an earlier version: "
            "give another folder or delete it"
        )


def _damaged(path, utterance):
    return CorruptCacheError(
        f"{path}: the features of {utterance} are damaged: delete this file "
        "and start again: these alone are computed anew"
    )


def _make_folder(folder):
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(
            error.errno,
            f"feature cache {folder}: cannot be made ({error.strerror}): free "
            "space or choose another folder; what is there is kept",
        ) from error


@contextmanager
def _locked(path: Path) -> Iterator[bool]:
    """Hold a share, so that of two runs started together one computes it.

    The kernel frees the lock of a killed one, which leaves its name there:
    gives whether one did.
    """
    with writing(path):
        lock = open(path, "a+")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "another process"
            logger.warning("%s: waiting for %s", path, owner)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            # Some network disks have no locks: work done twice does no harm.
            logger.warning("%s: cannot be locked (%s)", path, error.strerror)
        lock.seek(0)
        cut_short = bool(lock.read())
        lock.truncate(0)
        since = time.strftime("%H:%M:%S")
        host = socket.gethostname()
        lock.write(f"process {os.getpid()} on {host} since {since}\n")
        lock.flush()
        try:
            yield cut_short
        finally:
            lock.truncate(0)


def _read_ahead(read, batches):
    """Batches with their waveforms, read while the one before is encoded."""
    # One thread: the readers of Parquet files keep their last row groups.
    with ThreadPoolExecutor(1) as reader:

        def begin(batch):
            """Start reading the waveforms of a batch."""
            return reader.submit(lambda: [read(i) for i in batch])

        coming = begin(batches[0])
        for batch, after in zip(batches, [*batches[1:], []]):
            wavs = coming.result()
            coming = begin(after)
            yield batch, wavs
