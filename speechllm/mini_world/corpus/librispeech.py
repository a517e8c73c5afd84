"""The mini world in the layout of LibriSpeech.

``LibriSpeech/<split>/<speaker>/<chapter>/<utterance>.flac`` with the
transcripts of each chapter beside the audio, as the real corpus has them, and
three splits more: ``ood``, with accents, rates and some sentence shapes that
no other split has, and ``loss-clean`` and ``loss-other``, on which losses are
compared that nothing was tuned or chosen by.
"""

from __future__ import annotations

import os
import random

from speechllm.mini_world.corpus.building import build, check_sizes, in_shards
from speechllm.mini_world.corpus.speech import speak
from speechllm.mini_world.corpus.text import (
    draw_sentences,
    draw_word_list,
    spoken_form,
)
from speechllm.mini_world.corpus.voices import CONDITIONS, speakers, utter

# Utterances of each split.
SIZES = {
    "train-clean-100": 2000,
    "dev-clean": 160,
    "dev-other": 160,
    "loss-clean": 160,
    "loss-other": 160,
    "test-clean": 640,
    "test-other": 640,
    "ood": 640,
}
# How the mini world calls the splits that LibriSpeech calls otherwise.
SPLIT_NAMES = {"train-clean-100": "train"}
TRAIN_SPEAKERS = 40
# Raise when the same settings would give another corpus.
VERSION = 5


def build_librispeech(
    folder: str, sizes: dict | None = None, seed: int = 0, processes: int = 2
) -> str:
    """Write the corpus, unless it is there already."""
    sizes = check_sizes(sizes, SIZES)
    settings = {"version": VERSION, "sizes": sizes, "seed": seed}

    def write(new, scratch):
        utterances, people = plan_splits(new, sizes, seed)
        _write_speakers(new, people)
        speak(in_shards(utterances), scratch, processes, "LibriSpeech (mini)")

    return build(os.path.join(folder, "LibriSpeech"), settings, write)


def plan_splits(root: str, sizes: dict, seed: int) -> tuple[list, list]:
    """All utterances in order, with their transcripts written already."""
    utterances, people, reader = [], [], 100
    for split, size in sizes.items():
        own = SPLIT_NAMES.get(split, split)
        rng = random.Random(f"corpus {split} {seed}")
        texts = _texts(own, size, seed)
        many = TRAIN_SPEAKERS if own == "train" else None
        group = speakers(own, "en", many)
        for index, speaker in enumerate(group):
            read = texts[index :: len(group)]
            if not read:
                continue
            reader += rng.randint(1, 40)
            chapter = _chapter(root, split, reader, rng)
            utterances += _read(read, speaker, chapter, rng)
            people.append((reader, split, speaker.name))
    return utterances, people


def plan_librispeech(
    root: str, sizes: dict, seed: int
) -> dict[str, tuple[list, list]]:
    """What is spoken in each split; nothing more is told about it."""
    plans: dict[str, tuple[list, list]] = {split: ([], []) for split in sizes}
    for one in plan_splits(root, sizes, seed)[0]:
        split = os.path.relpath(one.path, root).split(os.sep)[0]
        plans[split][0].append(one)
    return plans


def _texts(split, size, seed):
    """What is read in a split: sentences, and some word lists in training."""
    conditions = CONDITIONS[split]
    sentences = draw_sentences(split, size, seed, conditions.unseen_shapes)
    rng = random.Random(f"word lists {split} {seed}")
    return [
        draw_word_list("en", rng)
        if rng.random() < conditions.word_lists
        else sentence.en
        for sentence in sentences
    ]


def _chapter(root, split, reader, rng):
    """Folder and name of a chapter, such as ``.../61/70968`` and "61-70968"."""
    number = rng.randint(1000, 99999)
    folder = os.path.join(root, split, str(reader), str(number))
    os.makedirs(folder)
    return folder, f"{reader}-{number}"


def _read(texts, speaker, chapter, rng):
    """One chapter: its utterances; its transcripts are written."""
    folder, name = chapter
    utterances, lines = [], []
    for index, text in enumerate(texts):
        key = f"{name}-{index:04d}"
        path = os.path.join(folder, f"{key}.flac")
        utterances.append(utter(text, speaker, path, rng))
        lines.append(f"{key} {spoken_form(text).upper()}\n")
    path = os.path.join(folder, f"{name}.trans.txt")
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(lines)
    return utterances


def _write_speakers(root, people):
    """LibriSpeech's table of readers; voices of espeak have no sex."""
    path = os.path.join(root, "SPEAKERS.TXT")
    with open(path, "w", encoding="utf-8") as file:
        file.write("; made by espeak-ng, no human voice\n")
        file.write(";ID  |SEX| SUBSET           |MINUTES| NAME\n")
        for reader, split, name in people:
            file.write(f"{reader:<5}| - | {split:<17}| - | {name}\n")
