"""Speech for the pretraining of the mini encoders, kept in a scratch folder.

More voices, rates and sentences than the corpus has, and word lists that no
grammar helps with. Each time an utterance is used it gets another voice and
another noise.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from speechbrain_ext.runs.files import write_text
from speechllm.mini_world.corpus.building import in_shards
from speechllm.mini_world.corpus.speech import (
    SAMPLE_RATE,
    Utterance,
    add_noise,
    speak,
)
from speechllm.mini_world.corpus.text import (
    draw_sentences,
    draw_word_list,
    spoken_form,
)
from speechllm.mini_world.corpus.voices import speakers, utter

SHARD = 500
RATES = (115, 245)
SNR = (7, 40)


def pretraining_speech(
    folder: str, language: str, count: int, seed: int = 0
) -> list[Utterance]:
    """Plan the training utterances of one language."""
    rng = random.Random(f"speech {language} {seed}")
    voices = speakers("train", language, 400)
    sentences = draw_sentences("train", count, seed + 7)
    plan = []
    for index, sentence in enumerate(sentences):
        voice = rng.choice(voices)
        text = getattr(sentence, language)
        if rng.random() < 0.33:
            text = draw_word_list(language, rng)
        path = os.path.join(folder, language, f"{index:06d}.flac")
        plan.append(
            Utterance(
                path,
                text,
                voice.voice,
                rng.randint(*RATES),
                rng.randint(25, 75),
                rng.randint(20, 80),
            )
        )
    return plan


def held_out_speech(
    folder: str, split: str, language: str, count: int
) -> list[Utterance]:
    """Plan utterances of another split, with its speakers and conditions."""
    rng = random.Random(f"{split} {language} 99")
    plan = []
    for index, sentence in enumerate(draw_sentences(split, count, 99)):
        path = os.path.join(folder, language, split, f"{index:06d}.flac")
        voice = rng.choice(speakers(split, language))
        plan.append(utter(getattr(sentence, language), voice, path, rng))
    return plan


def speak_once(plan: list, scratch: str) -> None:
    """Speak a plan unless its audio is there from an earlier run."""
    mark = Path(scratch, "finished.json")
    wanted = json.dumps([vars(one) for one in plan])
    if mark.exists() and mark.read_text(encoding="utf-8") == wanted:
        return
    speak(in_shards(plan, SHARD), scratch)
    write_text(mark, wanted)


def disguise(
    wav_N: np.ndarray, rng: random.Random, strength: float = 1.0
) -> np.ndarray:
    """Give an utterance another throat and another microphone."""
    speed = rng.uniform(0.8, 1.25) ** strength
    times = np.arange(0, len(wav_N) - 1, speed)
    wav_N = np.interp(times, np.arange(len(wav_N)), wav_N)
    # Lengths that divide well: the transform is many times quicker.
    size = -(-len(wav_N) // 1024) * 1024
    spectrum = np.fft.rfft(wav_N, size)
    decibels = [strength * rng.uniform(-8, 8) for _ in range(7)]
    places = np.linspace(0, 6, len(spectrum))
    gain = np.interp(places, np.arange(7), decibels)
    return np.fft.irfft(spectrum * 10 ** (gain / 20), size)[: len(wav_N)]


class SpeechBatches:
    """Utterances in memory, in batches of like lengths."""

    def __init__(self, plan, characters):
        self.wavs = [soundfile.read(u.path, dtype="int16")[0] for u in plan]
        self.texts = [spoken_form(u.text) for u in plan]
        index = {c: i + 1 for i, c in enumerate(characters)}
        self.labels = [[index[c] for c in text] for text in self.texts]

    def endless(
        self, seconds: float, seed: int, ramp: int = 0
    ) -> Iterator[tuple]:
        """Batches for training, without end."""
        rng = random.Random(seed)
        order = list(range(len(self.wavs)))
        given = 0
        while True:
            rng.shuffle(order)
            # Like lengths together, but not always the same ones.
            order.sort(key=lambda i: len(self.wavs[i]) * rng.uniform(0.9, 1.1))
            batches: list[list[int]] = []
            batch: list[int] = []
            for i in order:
                size = (len(batch) + 1) * len(self.wavs[i]) / SAMPLE_RATE
                if batch and size > seconds:
                    batches.append(batch)
                    batch = []
                batch.append(i)
            batches.append(batch)
            rng.shuffle(batches)
            for batch in batches:
                strength = min(1.0, given / ramp) if ramp else 1.0
                wavs = [self._noisy(i, rng, strength) for i in batch]
                yield wavs, [self.labels[i] for i in batch]
                given += 1

    def _noisy(self, index, rng, strength):
        wav = disguise(self.wavs[index] / 32768.0, rng, strength)
        lowest = SNR[1] + strength * (SNR[0] - SNR[1])
        return add_noise(wav, rng.uniform(lowest, SNR[1]), rng.randrange(2**31))

    def clean(self, index: int) -> np.ndarray:
        """One utterance as it was spoken."""
        return self.wavs[index] / np.float32(32768.0)
