"""Who speaks in which split, and under which conditions.

Speakers of different splits never share a voice variant; those that losses are
compared on share some with the dev sets, in other accents. espeak has few
variants, so a speaker for evaluation is more than a voice: an accent, pitch,
vocal tract, channel, rate and noise of their own, 40 of them in a test set.

How hard the sets are was chosen on dev sets alone, for a word error rate of 4
to 8 % of the whole system; the test sets have the same conditions. Those of
the out-of-domain set were chosen with its two accents and the dev sets'
variants. Its accents are no other split's, and its sentences have some shapes
that no other split has.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from speechllm.mini_world.corpus.espeak import variants
from speechllm.mini_world.corpus.speech import Utterance


@dataclass(frozen=True)
class Conditions:
    """How a split sounds; ranges are from the least to the most."""

    voices: str
    bases: dict
    rate: tuple  # words per minute
    snr: tuple  # dB
    unseen_shapes: float = 0.0
    word_lists: float = 0.0
    # Of splits for evaluation, whose speakers differ in more than the voice.
    count: int = 0
    tract: tuple = (1.0, 1.0)
    tilt: tuple = (0.0, 0.0)
    first: int = 0


COMMON = {
    "en": ("en-us", "en", "en-gb-x-rp", "en-us-nyc"),
    "de": ("de",),
    "fr": ("fr", "fr-be"),
}
HARDER = dict(COMMON, en=COMMON["en"] + ("en-gb-scotland",))
FOREIGN = {
    "en": ("en-gb-x-gbclan", "en-gb-x-gbcwmd"),
    "de": ("de",),
    "fr": ("fr-ch",),
}
_TRACT: dict[str, Any] = {"tract": (0.9, 1.12)}
_CLEAN = {**_TRACT, "rate": (150, 210), "snr": (4, 14), "tilt": (-4, 4)}
_OTHER = {**_TRACT, "rate": (150, 215), "snr": (5, 15), "tilt": (-3, 3)}
_OOD: dict[str, Any] = {
    "rate": (130, 220),
    "snr": (18, 36),
    "tract": (0.94, 1.07),
    "tilt": (-2, 2),
}
CONDITIONS = {
    "train": Conditions("train", HARDER, (145, 210), (15, 40), word_lists=0.12),
    "dev-clean": Conditions("dev", COMMON, count=20, **_CLEAN),
    "dev-other": Conditions("dev", HARDER, count=20, **_OTHER),
    # The same voice variants in other accents and throats.
    "loss-clean": Conditions("dev", COMMON, count=20, first=20, **_CLEAN),
    "loss-other": Conditions("dev", HARDER, count=20, first=20, **_OTHER),
    "test-clean": Conditions("test", COMMON, count=40, **_CLEAN),
    "test-other": Conditions("test", HARDER, count=40, **_OTHER),
    "ood": Conditions("ood", FOREIGN, unseen_shapes=0.02, count=40, **_OOD),
}
# Each utterance of a speaker is about as fast and as noisy as the others.
RATE_SPREAD, SNR_SPREAD = 5, 1.5
# espeak's voice variants kept for evaluation; all others are for training.
VARIANTS = {
    "dev": "paul klatt4 victor iven2 m1 Gene2 boris Alicia klatt2 Annie",
    "test": "ed grandma klatt5 pablo steph2 klatt3 iven4 edward2 robert",
    "ood": "quincy Henrique m7 linda steph iven3 michel",
}


@dataclass(frozen=True)
class Speaker:
    """One speaker of the mini world; other fields as in `Utterance`."""

    name: str
    voice: str
    pitch: int
    range: int
    rate: tuple
    snr: tuple
    tract: float = 1.0
    tilt: float = 0.0


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
    names, bases = variants_of(conditions.voices), conditions.bases[language]
    rng = random.Random(f"{split} {language}")
    first, many = conditions.first, conditions.count or count or len(names)
    places = range(first, first + many)
    return [_speaker(conditions, i, names, bases, rng) for i in places]


def _speaker(conditions, index, names, bases, rng):
    """One speaker; for evaluation with throat, channel, rate, noise of their own."""
    turn, place = divmod(index, len(names))
    # Each round of the variants has other accents.
    accent = place + turn if conditions.count else index
    voice = f"{bases[accent % len(bases)]}+{names[place]}"
    pitches = rng.randint(30, 70), rng.randint(30, 70)
    if not conditions.count:
        return Speaker(voice, voice, *pitches, conditions.rate, conditions.snr)
    rate, snr = rng.randint(*conditions.rate), rng.uniform(*conditions.snr)
    return Speaker(
        f"{voice}#{index}",
        voice,
        *pitches,
        (rate - RATE_SPREAD, rate + RATE_SPREAD),
        (snr - SNR_SPREAD, snr + SNR_SPREAD),
        round(rng.uniform(*conditions.tract), 3),
        round(rng.uniform(*conditions.tilt), 2),
    )


def utter(
    text: str, speaker: Speaker, path: str, rng: random.Random
) -> Utterance:
    """What a speaker says, at about their rate and with about their noise."""
    return Utterance(
        path=str(path),
        text=text,
        voice=speaker.voice,
        rate=rng.randint(*speaker.rate),
        pitch=speaker.pitch,
        range=speaker.range,
        snr=round(rng.uniform(*speaker.snr), 1),
        seed=rng.randrange(2**31),
        tract=speaker.tract,
        tilt=speaker.tilt,
        speaker=speaker.name,
    )
