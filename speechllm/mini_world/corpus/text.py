"""Sentences in English, German and French that mean the same.

Sentence shapes are filled from the lexicon by chance. Which split a sentence
may appear in depends on a hash of its English text alone: splits never share
a sentence, whatever the seeds and sizes.
"""

from __future__ import annotations

import hashlib
import random
import re
from functools import cache

from speechllm.mini_world.corpus.shapes import SHAPES, UNSEEN_SHAPES, Sentence

SPLITS = {
    "train": range(0, 60),
    "dev-clean": range(60, 63),
    "loss-clean": range(63, 66),
    "dev-other": range(66, 69),
    "loss-other": range(69, 72),
    "test-clean": range(72, 81),
    "test-other": range(81, 90),
    "ood": range(90, 100),
}


def spoken_form(text: str) -> str:
    """What is heard of a text: lower case, words and apostrophes only."""
    text = text.lower().replace("-", " ").replace("’", "'")
    return " ".join(re.sub(r"[^\w' ]", " ", text).split())


def split_of(english: str) -> str:
    """The only split in which a sentence may appear."""
    digest = hashlib.sha256(english.encode()).digest()
    bucket = int.from_bytes(digest[:4], "big") % 100
    return next(name for name, own in SPLITS.items() if bucket in own)


def draw_sentences(
    split: str, count: int, seed: int, unseen_shapes: float = 0.0
) -> list[Sentence]:
    """Draw different sentences of one split."""
    if split not in SPLITS:
        raise ValueError(f"split: '{split}', but choose from {list(SPLITS)}")
    rng = random.Random(f"{split} {seed}")
    drawn: dict[str, Sentence] = {}
    rare = 0
    while len(drawn) < count:
        # Counted, not drawn: a share of a fifth is a fifth in every corpus.
        unseen = int((len(drawn) + 1) * unseen_shapes + 1e-9) > rare
        shape = rng.choice(UNSEEN_SHAPES if unseen else SHAPES)
        sentence = shape(rng)
        if split_of(sentence.en) == split:
            rare += unseen and sentence.en not in drawn
            drawn.setdefault(sentence.en, sentence)
    return list(drawn.values())


def draw_word_list(language: str, rng: random.Random) -> str:
    """A few words without grammar, which no language model can guess."""
    return " ".join(rng.choices(words(language), k=rng.randint(2, 9)))


@cache
def words(language: str) -> list[str]:
    """Every word of a language, in the spoken form."""
    sentences = draw_sentences("train", 6000, seed=0)
    heard = {
        w for s in sentences for w in spoken_form(getattr(s, language)).split()
    }
    return sorted(heard)
