"""The mini world in the layout of the Loquacious set: Parquet with the audio.

``LoquaciousSet/<subset>/*.parquet``. Its dev set is the out-of-domain set: the
sentences, voices and noises of LibriSpeech's split ``ood``.
"""

from __future__ import annotations

import os

import soundfile

from speechllm.mini_world.corpus.building import build, check_sizes, in_shards
from speechllm.mini_world.corpus.librispeech import plan_splits
from speechllm.mini_world.corpus.speech import SAMPLE_RATE, speak
from speechllm.mini_world.corpus.text import spoken_form

# Utterances of each subset, and the split of LibriSpeech's that it is.
SIZES = {"small": 600, "dev": 640}
SUBSETS = {"small": "train-clean-100", "dev": "ood"}
ROW_GROUP = 100
# Raise when the same settings would give another corpus.
VERSION = 2


def build_loquacious(
    folder: str, sizes: dict | None = None, seed: int = 0, processes: int = 2
) -> str:
    """Write the subsets, unless they are there already."""
    sizes = check_sizes(sizes, SIZES)
    settings = dict(version=VERSION, sizes=sizes, seed=seed)

    def write(new, scratch):
        plans = plan_loquacious(scratch, sizes, seed)
        for subset, (said, _) in plans.items():
            title = f"Loquacious (mini, {subset})"
            shards = os.path.join(scratch, f"shards-{subset}")
            speak(in_shards(said), shards, processes, title)
            os.makedirs(os.path.join(new, subset))
            name = f"{subset}-00000-of-00001.parquet"
            _write_parquet(os.path.join(new, subset, name), said)

    return build(os.path.join(folder, "LoquaciousSet"), settings, write)


def plan_loquacious(
    root: str, sizes: dict, seed: int
) -> dict[str, tuple[list, list]]:
    """What is spoken in each subset; nothing more is told about it."""
    return {
        subset: plan_splits(
            os.path.join(root, subset), {SUBSETS[subset]: size}, seed
        )
        for subset, size in sizes.items()
    }


def _write_parquet(path, utterances):
    """One file with the columns that the real set has."""
    # Wanted only by corpora that come so.
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = []
    for one in utterances:
        name = os.path.basename(one.path)
        with open(one.path, "rb") as file:
            audio = {"bytes": file.read(), "path": name}
        rows.append(
            {
                "ID": os.path.splitext(name)[0],
                "duration": soundfile.info(one.path).frames / SAMPLE_RATE,
                "wav": audio,
                "spk_id": one.speaker,
                "sex": None,
                "text": spoken_form(one.text),
            }
        )
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=ROW_GROUP)
