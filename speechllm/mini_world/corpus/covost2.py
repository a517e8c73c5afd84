"""The mini world in the layout of CoVoST 2, on Common Voice's clips.

``CommonVoice/<source>/clips/*.mp3``, ``validated.tsv`` and the
``covost_v2.<source>_<target>.<split>.tsv``, as ``get_covost_splits.py``
leaves them, and one split more: ``loss``, on which losses are compared that
nothing was tuned or chosen by. The clips are at 16 kHz, where Common Voice's
are at 48.
"""

from __future__ import annotations

import hashlib
import os
import random

from speechllm.mini_world.corpus.building import build, check_sizes, in_shards
from speechllm.mini_world.corpus.shapes import LANGUAGES
from speechllm.mini_world.corpus.speech import speak
from speechllm.mini_world.corpus.text import draw_sentences
from speechllm.mini_world.corpus.voices import speakers, utter

# Utterances of each split.
SIZES = {"train": 2400, "dev": 160, "test": 320, "loss": 160}
# Whose voices, sentences and noise a split has.
SPLIT_NAMES = {
    "train": "train",
    "dev": "dev-clean",
    "test": "test-clean",
    "loss": "loss-clean",
}
TRAIN_SPEAKERS = 60
# Raise when the same settings would give another corpus.
VERSION = 2
COLUMNS = ("path", "sentence", "translation", "client_id")
VALIDATED = ("client_id", "path", "sentence")


def build_covost2(
    folder: str,
    source: str,
    target: str,
    sizes: dict | None = None,
    seed: int = 0,
    processes: int = 2,
) -> str:
    """Write the corpus of one pair of languages, unless it is there already."""
    if {source, target} - set(LANGUAGES) or source == target:
        raise ValueError(
            f"languages: {source} to {target}, choose two of {LANGUAGES}"
        )
    sizes = check_sizes(sizes, SIZES)
    pair = f"{source}_{target}"
    settings = dict(version=VERSION, pair=pair, sizes=sizes, seed=seed)

    def write(new, scratch):
        utterances, validated = [], []
        plans = plan_covost2(new, sizes, seed, source, target)
        for split, (own, rows) in plans.items():
            table = f"covost_v2.{pair}.{split}.tsv"
            _write_table(os.path.join(new, table), COLUMNS, rows)
            utterances += own
            validated += rows
        _write_table(os.path.join(new, "validated.tsv"), VALIDATED, validated)
        title = f"CoVoST 2 (mini, {source} to {target})"
        speak(in_shards(utterances), scratch, processes, title)

    return build(os.path.join(folder, "CommonVoice", source), settings, write)


def plan_covost2(
    root: str, sizes: dict, seed: int, source: str, target: str
) -> dict[str, tuple[list, list]]:
    """What is spoken in each split, and the rows of its table."""
    pair = source, target
    return {
        split: _plan(root, split, size, pair, seed)
        for split, size in sizes.items()
    }


def _plan(root, split, size, pair, seed):
    own = SPLIT_NAMES[split]
    rng = random.Random(f"covost2 {split} {pair} {seed}")
    sentences = draw_sentences(own, size, seed + 1)
    people = speakers(own, pair[0], TRAIN_SPEAKERS if own == "train" else None)
    utterances, rows = [], []
    for sentence in sentences:
        said, translation = (getattr(sentence, code) for code in pair)
        speaker = people[len(rows) % len(people)]
        if own == "train":
            speaker = rng.choice(people)
        clip = f"common_voice_{pair[0]}_{_number(split, len(rows))}.mp3"
        path = os.path.join(root, "clips", clip)
        utterances.append(utter(said, speaker, path, rng))
        client = hashlib.sha256(speaker.name.encode()).hexdigest()
        rows.append(
            dict(
                path=clip,
                sentence=said,
                translation=translation,
                client_id=client,
            )
        )
    return utterances, rows


def _number(split, index):
    """A clip's number: no two splits share one."""
    return 10_000_000 * (1 + list(SIZES).index(split)) + index


def _write_table(path, columns, rows):
    with open(path, "w", encoding="utf-8") as file:
        file.write("\t".join(columns) + "\n")
        for row in rows:
            file.write("\t".join(row[column] for column in columns) + "\n")
