"""The mini world in the layout of CoVoST 2, on Common Voice's clips.

``CommonVoice/<source>/clips/*.mp3``, ``validated.tsv`` and the three
``covost_v2.<source>_<target>.<split>.tsv``, as ``get_covost_splits.py``
leaves them. The clips are at 16 kHz, where Common Voice's are at 48.
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
SIZES = {"train": 2400, "dev": 150, "test": 300}
# Whose voices, sentences and noise a split has.
SPLIT_NAMES = {"train": "train", "dev": "dev-clean", "test": "test-clean"}
TRAIN_SPEAKERS = 60
# Raise when the same settings would give another corpus.
VERSION = 1
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
        for split, size in sizes.items():
            own, rows = _plan(new, split, size, (source, target), seed)
            table = f"covost_v2.{pair}.{split}.tsv"
            _write_table(os.path.join(new, table), COLUMNS, rows)
            utterances += own
            validated += rows
        _write_table(os.path.join(new, "validated.tsv"), VALIDATED, validated)
        title = f"CoVoST 2 (mini, {source} to {target})"
        speak(in_shards(utterances), scratch, processes, title)

    return build(os.path.join(folder, "CommonVoice", source), settings, write)


def _plan(root, split, size, pair, seed):
    """What is spoken in a split, and the rows of its table."""
    own = SPLIT_NAMES[split]
    rng = random.Random(f"covost2 {split} {pair} {seed}")
    sentences = draw_sentences(own, size, seed + 1)
    people = speakers(own, pair[0], TRAIN_SPEAKERS if own == "train" else None)
    utterances, rows = [], []
    for sentence in sentences:
        said, translation = (getattr(sentence, code) for code in pair)
        speaker = rng.choice(people)
        clip = f"common_voice_{pair[0]}_{_number(split, len(rows))}.mp3"
        path = os.path.join(root, "clips", clip)
        utterances.append(utter(said, speaker, own, path, rng))
        client = hashlib.sha256(speaker.voice.encode()).hexdigest()
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
