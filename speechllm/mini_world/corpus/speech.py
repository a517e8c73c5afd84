"""Speech from espeak-ng: many voices, rates and noises, bit-identical.

espeak-ng keeps state: the same call twice in one process differs. Each shard
is therefore spoken by a fresh process, in a fixed order, so that a shard is
the same to the bit whenever and beside whatever it is made.

As a command this module speaks the shard described by a JSON file:
``python -m speechllm.mini_world.corpus.speech SHARD.json``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass

import numpy as np
import soundfile

from speechllm.mini_world.corpus.espeak import Espeak, check_voice

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Utterance:
    """One thing to say, and how.

    ``tract`` is by how much the formants are higher than the voice's (a
    shorter vocal tract), ``tilt`` the channel's colour in dB per octave.
    """

    path: str
    text: str
    voice: str
    rate: int = 175
    pitch: int = 50
    range: int = 50
    snr: float | None = None
    seed: int = 0
    tract: float = 1.0
    tilt: float = 0.0
    speaker: str = ""


def add_noise(wav_N: np.ndarray, snr: float, seed: int) -> np.ndarray:
    """Add noise that is white, or louder at low frequencies, by chance."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(len(wav_N))
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))
        noise = np.fft.irfft(spectrum, len(wav_N))
    power = np.mean(wav_N**2) / 10 ** (snr / 10)
    return wav_N + noise * np.sqrt(power / np.mean(noise**2))


def add_tilt(wav_N: np.ndarray, tilt: float) -> np.ndarray:
    """Colour speech by some dB per octave, from 100 Hz up."""
    spectrum = np.fft.rfft(wav_N)
    hertz = np.linspace(0, SAMPLE_RATE / 2, len(spectrum)).clip(100)
    gain = 10 ** (tilt * np.log2(hertz / 1000) / 20)
    return np.fft.irfft(spectrum * gain, len(wav_N))


def speak_shard(utterances: list[Utterance]) -> None:
    """Speak utterances in order, in this process, and write their files."""
    for voice in {u.voice for u in utterances}:
        check_voice(voice)
    espeak = Espeak()
    for one in utterances:
        how = one.voice, one.rate, one.pitch, one.range, one.tract
        wav = espeak.say(one.text, *how)
        if one.tilt:
            wav = add_tilt(wav, one.tilt)
        if one.snr is not None:
            wav = add_noise(wav, one.snr, one.seed)
        wav = wav / max(1.25 * np.abs(wav).max(), 1e-9)
        os.makedirs(os.path.dirname(one.path) or ".", exist_ok=True)
        soundfile.write(one.path, wav.astype(np.float32), SAMPLE_RATE)


def speak(
    shards: list, scratch: str, processes: int = 2, title: str = "speech"
) -> None:
    """Speak shards, each in a fresh process, a few at a time."""
    # Not above: the fresh processes have no use for all that it stands on.
    from speechbrain_ext.data.manifests import in_parallel

    os.makedirs(scratch, exist_ok=True)
    files = [f"{scratch}/shard-{i:04d}.json" for i in range(len(shards))]
    work = list(zip(shards, files))
    in_parallel(lambda one: _speak_apart(*one), work, processes, title)


def _speak_apart(shard, path):
    """Speak a shard in a process of its own."""
    with open(path, "w", encoding="utf-8") as file:
        json.dump([asdict(one) for one in shard], file)
    done = subprocess.run(
        [sys.executable, "-m", __name__, path],
        # One thread each: the processes share the cores among themselves.
        env=dict(os.environ, OMP_NUM_THREADS="1"),
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)


def main(path: str) -> None:
    """Speak the shard that a JSON file describes."""
    with open(path, encoding="utf-8") as file:
        speak_shard([Utterance(**fields) for fields in json.load(file)])


if __name__ == "__main__":
    main(sys.argv[1])
