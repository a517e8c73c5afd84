"""One cache that several processes build, each its share in its own file.

Process 0 writes into the cache's folder, process r into ``part-r`` below it.
Whoever opens the cache reads all parts, whatever number of processes made
them. Nobody waits in a collective operation, which gives up after a while:
each looks at the others' files until all is there.
"""

import os
import re
import time
from pathlib import Path

from speechbrain_ext.data.features.cache import FeatureCache, cache_key
from speechbrain_ext.data.features.entries import (
    beyond_end,
    check_key,
    is_current,
    is_same,
)
from speechbrain_ext.data.features.index import read_index

PART = re.compile(r"part-\d+")
# Seconds between two looks, and without any progress before giving up: the
# audio's heads alone may take a while to be read.
LOOK, GIVE_UP = 2.0, 2 * 3600


class JoinedCache:
    """The parts of a cache as one; each is opened as `FeatureCache` is."""

    def __init__(self, parts):
        self._parts = parts

    def __len__(self):
        return len(self._parts)

    def __getitem__(self, utterance):
        """Features of an utterance, as `FeatureCache` gives them."""
        return self._parts[utterance][utterance]

    def tokens(self, utterance):
        """Speech tokens of an utterance, without touching its features."""
        return self._parts[utterance].tokens(utterance)


def build_share(folder, encoder, k, items, rank=0, world_size=1, **options):
    """Compute this process's share of what is missing."""
    folder = Path(folder)
    own = part_folder(folder, rank)
    others = [part for part in part_folders(folder) if part != own]
    there = find_parts(others, cache_key(encoder, k), items)
    share = [i for i in items[rank::world_size] if i[0] not in there]
    FeatureCache.build(own, encoder, k, share, **options)


def join(folder, encoder, k, items, look=LOOK, give_up=GIVE_UP):
    """Wait until every utterance is in some part, and open them all.

    Arguments
    ---------
    folder, encoder, k, items
        As in `build_share`.
    look, give_up : float
        Seconds between two looks, and without progress before giving up.

    Returns
    -------
    JoinedCache

    Raises
    ------
    TimeoutError
        Nothing was written for `give_up` seconds and some are missing.
    """
    folder, key = Path(folder), cache_key(encoder, k)
    seen, since = None, time.monotonic()
    while True:
        now = _sizes(folder)
        if now != seen:
            seen, since = now, time.monotonic()
        found = find_parts(part_folders(folder), key, items)
        missing = len(items) - len(found)
        if not missing:
            return JoinedCache(found)
        _check_waiting(folder, missing, time.monotonic() - since, give_up)
        # Reading a long index takes as long as it takes: look when it rests.
        while True:
            time.sleep(look)
            now = _sizes(folder)
            if now == seen:
                break
            seen, since = now, time.monotonic()


def part_folder(folder, rank):
    """Where a process writes (Path)."""
    return folder / f"part-{rank}" if rank else folder


def part_folders(folder):
    """All parts that are there, the cache's own folder first (list)."""
    below = folder.iterdir() if folder.is_dir() else ()
    return [folder, *sorted(p for p in below if PART.fullmatch(p.name))]


def find_parts(folders, key, items):
    """Where each utterance lies whose features and audio are as they were."""
    wanted = {}
    for utterance, path, *part in items:
        start, stop = part or (None, None)
        path = os.path.abspath(path)
        wanted[utterance] = {"path": path, "start": start, "stop": stop}
    found = {}
    for folder in folders:
        header, entries, _ = read_index(folder)
        if header is None:
            continue
        check_key(folder, header, key)
        part = FeatureCache(folder, header, entries)
        lost = set(beyond_end(folder, header, entries))
        for utterance in wanted.keys() & entries.keys() - lost - found.keys():
            entry = entries[utterance]
            if is_same(entry, wanted[utterance]) and is_current(entry, None):
                found[utterance] = part
    return found


def _sizes(folder):
    """What the parts' indices look like from outside (list)."""
    files = [part / "index.jsonl" for part in part_folders(folder)]
    return [(str(f), f.stat().st_size) for f in files if f.exists()]


def _check_waiting(folder, missing, seconds, give_up):
    """Give up where nothing has moved for long (TimeoutError)."""
    if seconds > give_up:
        raise TimeoutError(
            f"feature cache {folder}: {missing} utterances are missing, and "
            f"no process has written any for {seconds / 60:.0f} minutes: all "
            "of them must see this folder. What is there is kept: start again."
        )
