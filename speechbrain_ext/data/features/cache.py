"""The cache itself: opened, built, read in place."""

import hashlib
import json
import logging
from pathlib import Path

from speechbrain_ext.data.features.entries import (
    StaleCacheError,
    beyond_end,
    check_key,
    fits,
    is_current,
    new_header,
    some,
)
from speechbrain_ext.data.features.index import (
    CorruptCacheError,
    read_index,
    start_empty,
    write_index,
)
from speechbrain_ext.data.features.lock import locked, make_folder
from speechbrain_ext.data.features.reading import MappedFeatures
from speechbrain_ext.data.features.todo import find_todo, refuse_bad
from speechbrain_ext.data.features.writer import Writer

logger = logging.getLogger(__name__)


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


class FeatureCache(MappedFeatures):
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
    """

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
        header, entries, _ = read_index(folder)
        if header is None:
            raise FileNotFoundError(
                f"feature cache {folder}: not there: build it first"
            )
        check_key(folder, header, key)
        cache = cls(folder, header, entries)
        lost = beyond_end(folder, header, entries)
        if lost:
            raise CorruptCacheError(
                f"feature cache {folder}: {some(lost)} are missing from "
                "features.bin: build it again, which computes only these"
            )
        stale = [i for i, e in entries.items() if not is_current(e, root)]
        if stale:
            raise StaleCacheError(
                f"feature cache {folder}: the audio of {some(stale)} was "
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
        make_folder(folder)
        key = cache_key(encoder, k)
        with locked(folder):
            header, entries, whole = read_index(folder)
            if header is None or (rebuild and not fits(header, key)):
                header, entries = new_header(encoder, k, key), {}
                start_empty(folder, header)
            check_key(folder, header, key)
            cache = cls(folder, header, entries)
            wanted = {item[0] for item in items}
            cache._mend(wanted, whole, verify, root)
            todo, cache.skipped = find_todo(
                encoder, items, entries, reading, root
            )
            refuse_bad(cache.skipped, skip_bad)
            if todo:
                writer = Writer(folder, encoder, k, header, entries)
                skipped = cache.skipped if skip_bad else None
                writer.run(
                    todo, batch_seconds, progress, workers, reading, skipped
                )
        wanted -= cache.skipped.keys()
        cache._entries = {i: entries[i] for i in entries if i in wanted}
        return cache

    def _mend(self, wanted, whole, verify, root):
        """Forget entries without features, or of audio no longer there."""
        entries = self._entries
        (self.folder / "features.bin").touch()
        drop = set(beyond_end(self.folder, self.header, entries))
        drop |= {
            i
            for i, entry in entries.items()
            if i not in wanted and not is_current(entry, root)
        }
        if verify:
            drop |= set(self.damaged())
        if drop:
            logger.warning(
                "feature cache %s: forgetting %s", self.folder, some(drop)
            )
            for utterance in drop:
                del entries[utterance]
        if drop or not whole:
            write_index(self.folder, self.header, entries)
        # A map made now would end before what is about to be written.
        self._map = None
