"""The mini world in the layout of Common Voice and CoVoST 2.

``python -m speechbrain_ext.mini_world.translation_corpus FOLDER`` writes
``FOLDER/en/clips/common_voice_en_<number>.mp3`` and, beside the clips, the
tables ``covost_v2.en_de.{train,dev,test}.tsv`` of English speech with its
German translation.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import csv
import json
import os
import random
import shutil
import tempfile

from speechbrain_ext.mini_world.speech import speak
from speechbrain_ext.mini_world.text import draw_sentences
from speechbrain_ext.mini_world.voices import speakers, utter

# Utterances of each split.
SIZES = {"train": 2000, "dev": 150, "test": 200}
# Under which conditions each is spoken.
CONDITIONS_OF = {"train": "train", "dev": "dev-clean", "test": "test-clean"}
COLUMNS = ("path", "sentence", "translation", "client_id")
TRAIN_SPEAKERS = 40
SHARD = 120
MARK = "mini_world.json"
# Raise when the same settings would give another corpus.
VERSION = 1


def build_translation(folder, sizes=None, seed=0, processes=2):
    """Write English speech with German translations, unless it is there.

    Arguments
    ---------
    folder : str
        Receives the folder ``en``.
    sizes : dict of str to int
        Utterances of train, dev and test; ``SIZES`` where left out.
    seed : int
        Another seed gives other sentences.
    processes : int
        How many processes speak at a time; the audio does not depend on it.

    Returns
    -------
    str
        The path of ``en``.

    Raises
    ------
    ValueError
        When a split is unknown, or another corpus is in the way.
    """
    sizes = {**SIZES, **(sizes or {})}
    unknown = sorted(set(sizes) - set(SIZES))
    if unknown:
        raise ValueError(f"sizes: unknown {unknown}: choose from {list(SIZES)}")
    root = os.path.join(folder, "en")
    settings = {"version": VERSION, "sizes": sizes, "seed": seed}
    if _finished(root) == settings:
        return root
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=folder) as work:
        new = os.path.join(work, "en")
        os.makedirs(os.path.join(new, "clips"))
        utterances = []
        for split, size in sizes.items():
            utterances += _split(new, split, size, seed, len(utterances))
        shards = [
            utterances[i : i + SHARD] for i in range(0, len(utterances), SHARD)
        ]
        scratch = os.path.join(work, "shards")
        speak(shards, scratch, processes, title="CoVoST 2 (mini)")
        with open(os.path.join(new, MARK), "w", encoding="utf-8") as file:
            json.dump(settings, file)
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
            "choose another folder"
        )
    with open(mark, encoding="utf-8") as file:
        return json.load(file)


def _split(root, split, size, seed, first):
    """Utterances of a split to be spoken; its table is written."""
    conditions = CONDITIONS_OF[split]
    kind = conditions.split("-")[0]
    rng = random.Random(f"translation {split} {seed}")
    people = speakers(
        conditions, "en", TRAIN_SPEAKERS if kind == "train" else None
    )
    # A seed of their own: not the sentences that recognition learns from.
    sentences = draw_sentences(conditions, size, f"translation {seed}")
    utterances, rows = [], []
    for number, sentence in enumerate(sentences, start=first + 1):
        speaker = people[number % len(people)]
        name = f"common_voice_en_{number:06d}.mp3"
        path = os.path.join(root, "clips", name)
        utterances.append(utter(sentence.en, speaker, conditions, path, rng))
        rows.append((name, sentence.en, sentence.de, speaker.voice))
    table = os.path.join(root, f"covost_v2.en_de.{split}.tsv")
    with open(table, "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerows([COLUMNS, *rows])
    return utterances


def main():
    """Read the command line and build."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", help="receives the folder en")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument(
        "--sizes",
        type=json.loads,
        default={},
        metavar="JSON",
        help='other numbers of utterances, such as {"test": 100}',
    )
    arguments = parser.parse_args()
    print(
        build_translation(
            arguments.folder,
            arguments.sizes,
            arguments.seed,
            arguments.processes,
        )
    )


if __name__ == "__main__":
    main()
