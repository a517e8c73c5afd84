"""Who speaks in which split, and under which conditions.

Speakers of different splits never share a voice variant. The out-of-domain
set has accents that no other split has, slow and fast speech and more noise.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from speechllm.mini_world.corpus.espeak import variants
from speechllm.mini_world.corpus.speech import Utterance


@dataclass(frozen=True)
class Conditions:
    """How a split sounds."""

    voices: str
    bases: dict
    rate: tuple
    snr: tuple
    unseen_shapes: float = 0.0
    word_lists: float = 0.0


COMMON = {
    "en": ("en-us", "en", "en-gb-x-rp", "en-us-nyc"),
    "de": ("de",),
    "fr": ("fr", "fr-be"),
}
HARDER = dict(COMMON, en=COMMON["en"] + ("en-gb-scotland",))
FOREIGN = {
    "en": ("en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-029"),
    "de": ("de",),
    "fr": ("fr-ch",),
}
CONDITIONS = {
    "train": Conditions("train", HARDER, (145, 210), (15, 40), word_lists=0.12),
    "dev-clean": Conditions("dev", COMMON, (155, 185), (25, 40)),
    "dev-other": Conditions("dev", HARDER, (165, 215), (12, 25)),
    "test-clean": Conditions("test", COMMON, (155, 185), (25, 40)),
    "test-other": Conditions("test", HARDER, (165, 215), (12, 25)),
    "ood": Conditions("ood", FOREIGN, (125, 230), (10, 30), 0.1),
}
# espeak's voice variants kept for evaluation; all others are for training.
VARIANTS = {
    "dev": "paul klatt4 victor iven2 m1 Gene2 boris Alicia klatt2 Annie",
    "test": "ed grandma klatt5 pablo steph2 klatt3 iven4 edward2 robert",
    "ood": "quincy Henrique m7 linda steph iven3 michel",
}


@dataclass(frozen=True)
class Speaker:
    """One voice of the mini world."""

    voice: str
    pitch: int
    range: int


def variants_of(voices: str) -> list[str]:
    """The voice variants that a group of splits may use."""
    if voices in VARIANTS:
        return VARIANTS[voices].split()
    kept = " ".join(VARIANTS.values()).split()
    names = [name for name in variants() if name not in kept]
    random.Random("variants").shuffle(names)
    return names


def speakers(
    split: str, language: str = "en", count: int | None = None
) -> list[Speaker]:
    """The speakers of a split."""
    conditions = CONDITIONS[split]
    names = variants_of(conditions.voices)
    bases = conditions.bases[language]
    rng = random.Random(f"{split} {language}")
    return [
        Speaker(
            f"{bases[i % len(bases)]}+{names[i % len(names)]}",
            rng.randint(30, 70),
            rng.randint(30, 70),
        )
        for i in range(count or len(names))
    ]


def utter(
    text: str, speaker: Speaker, split: str, path: str, rng: random.Random
) -> Utterance:
    """What a speaker says, under the conditions of a split."""
    conditions = CONDITIONS[split]
    return Utterance(
        path=str(path),
        text=text,
        voice=speaker.voice,
        rate=rng.randint(*conditions.rate),
        pitch=speaker.pitch,
        range=speaker.range,
        snr=round(rng.uniform(*conditions.snr), 1),
        seed=rng.randrange(2**31),
    )
