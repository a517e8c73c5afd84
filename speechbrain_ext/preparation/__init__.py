"""What prepare scripts share: bad utterances told at once, files kept whole.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.preparation.clips import clip_of, read_clips
from speechbrain_ext.preparation.manifests import (
    Fingerprints,
    file_state,
    require_manifests,
    write_split,
)
from speechbrain_ext.preparation.tables import read_tsv
from speechbrain_ext.preparation.telling import (
    refuse,
    report,
    to_prepare,
    write_good,
)
from speechbrain_ext.preparation.utterances import (
    PreparationError,
    Split,
    Utterance,
    in_parallel,
    mark_repeated,
)

__all__ = [
    "Fingerprints",
    "PreparationError",
    "Split",
    "Utterance",
    "clip_of",
    "file_state",
    "in_parallel",
    "mark_repeated",
    "read_clips",
    "read_tsv",
    "refuse",
    "report",
    "require_manifests",
    "to_prepare",
    "write_good",
    "write_split",
]
