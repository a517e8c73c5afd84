"""The mini world in the layout of LibriSpeech.

``python -m speechbrain_ext.mini_world.corpus FOLDER`` writes
``FOLDER/LibriSpeech/<split>/<speaker>/<chapter>/<utterance>.flac`` with the
transcripts of each chapter beside the audio, as the real corpus has them, and
one split more: ``ood``, with accents, rates and some sentence shapes that no
other split has.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import json
import os
import random
import shutil
import tempfile

from speechbrain_ext.mini_world.speech import speak
from speechbrain_ext.mini_world.text import (
    draw_sentences,
    draw_word_list,
    spoken_form,
)
from speechbrain_ext.mini_world.voices import CONDITIONS, speakers, utter

# Utterances of each split.
SIZES = {
    "train-clean-100": 2000,
    "dev-clean": 150,
    "dev-other": 150,
    "test-clean": 400,
    "test-other": 400,
    "ood": 200,
}
# How the mini world calls the splits that LibriSpeech calls otherwise.
SPLIT_NAMES = {"train-clean-100": "train"}
TRAIN_SPEAKERS = 40
SHARD = 120
MARK = "mini_world.json"
# Raise when the same settings would give another corpus.
VERSION = 4


def build_librispeech(folder, sizes=None, seed=0, processes=2):
    """Write the corpus, unless it is there already.

    Arguments
    ---------
    folder : str
        Receives the folder ``LibriSpeech``.
    sizes : dict of str to int
        Utterances of each split; ``SIZES`` when left out.
    seed : int
        Another seed gives other sentences.
    processes : int
        How many processes speak at a time; the audio does not depend on it.

    Returns
    -------
    str
        The path of ``LibriSpeech``.

    Raises
    ------
    ValueError
        When a split is unknown, or a corpus of another origin is in the way.
    """
    sizes = dict(sizes or SIZES)
    unknown = sorted(set(sizes) - set(SIZES))
    if unknown:
        raise ValueError(f"sizes: unknown {unknown}: choose from {list(SIZES)}")
    root = os.path.join(folder, "LibriSpeech")
    settings = {"version": VERSION, "sizes": sizes, "seed": seed}
    if _finished(root) == settings:
        return root
    os.makedirs(folder, exist_ok=True)
    # A folder of its own: two builds at a time must not spoil each other.
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
        new = os.path.join(work, "LibriSpeech")
        os.makedirs(new)
        utterances, people = _plan(new, sizes, seed)
        _write_speakers(new, people)
        shards = [
            utterances[i : i + SHARD] for i in range(0, len(utterances), SHARD)
        ]
        scratch = os.path.join(work, "shards")
        speak(shards, scratch, processes, title="LibriSpeech (mini)")
        with open(os.path.join(new, MARK), "w", encoding="utf-8") as file:
            json.dump(settings, file)
        if _finished(root) != settings:
            shutil.rmtree(root, ignore_errors=True)
            os.replace(new, root)
    return root


def _finished(root):
    """The settings of the corpus that stands there, if it is one of ours."""
    if not os.path.exists(root):
        return None
    mark = os.path.join(root, MARK)
    if not os.path.exists(mark):
        raise ValueError(
            f"folder: {root} exists and was not made by the mini world: "
            f"choose another folder"
        )
    with open(mark, encoding="utf-8") as file:
        return json.load(file)


def _plan(root, sizes, seed):
    """All utterances in order, with their transcripts written already."""
    utterances, people, reader = [], [], 100
    for split, size in sizes.items():
        own = SPLIT_NAMES.get(split, split)
        rng = random.Random(f"corpus {split} {seed}")
        texts = _texts(own, size, seed)
        many = TRAIN_SPEAKERS if own == "train" else None
        for index, speaker in enumerate(speakers(own, "en", many)):
            read = texts[index :: many or len(speakers(own))]
            if not read:
                continue
            reader += rng.randint(1, 40)
            chapter = _chapter(root, split, reader, rng)
            utterances += _read(read, speaker, own, chapter, rng)
            people.append((reader, split, speaker.voice))
    return utterances, people


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


def _read(texts, speaker, split, chapter, rng):
    """One chapter: its utterances; its transcripts are written."""
    folder, name = chapter
    utterances, lines = [], []
    for index, text in enumerate(texts):
        key = f"{name}-{index:04d}"
        path = os.path.join(folder, f"{key}.flac")
        utterances.append(utter(text, speaker, split, path, rng))
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
        for reader, split, voice in people:
            file.write(f"{reader:<5}| - | {split:<17}| - | {voice}\n")


def main():
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="receives the folder LibriSpeech")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--sizes",
        type=json.loads,
        default={},
        metavar="JSON",
        help='other numbers of utterances, such as {"ood": 100}',
    )
    arguments = parser.parse_args()
    print(
        build_librispeech(
            arguments.folder,
            {**SIZES, **arguments.sizes},
            seed=arguments.seed,
            processes=arguments.processes,
        )
    )


if __name__ == "__main__":
    main()
