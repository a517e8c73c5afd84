"""A cache of speech features, computed once and mapped into memory.

The encoder is frozen, so what it makes of an utterance never changes: keep it
after `concatenate_frames`, in 16 bits. One folder per split of a data set:

    features.bin   float16, the utterances one after another, uncompressed
    index.jsonl    first line: what made it; then one line per utterance

An utterance's line is written after its features are on the disk, so a run
killed anywhere leaves whole entries and perhaps a tail that no line speaks of,
which the next run overwrites. A cache is used only if encoder and k are the
same, and an entry only if its audio file has the size and time it had.

`todo` finds what is to be computed, `writer` computes it, `entries`, `index`
and `lock` keep the folder, `reading` maps it, `cache` is what others use;
`parts` lets several processes build one together.

Example
-------
>>> cache = FeatureCache.build(folder, encoder, 5, items)  # doctest: +SKIP
>>> cache["84-121123-0000"].shape  # doctest: +SKIP
torch.Size([152, 5120])
"""

from speechbrain_ext.data.features.cache import FeatureCache, cache_key
from speechbrain_ext.data.features.entries import StaleCacheError
from speechbrain_ext.data.features.index import CorruptCacheError

__all__ = [
    "CorruptCacheError",
    "FeatureCache",
    "StaleCacheError",
    "cache_key",
]
