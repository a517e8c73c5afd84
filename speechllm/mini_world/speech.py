"""Speech from espeak-ng: many voices, rates and noises, bit-identical.

espeak-ng keeps state: the same call twice in one process differs. Each shard
is therefore spoken by a fresh process, in a fixed order, so that a shard is
the same to the bit whenever and beside whatever it is made.

As a command this module speaks the shard described by a JSON file:
``python -m speechllm.mini_world.speech SHARD.json``.
"""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

import numpy as np
import soundfile
from tqdm import tqdm

from speechllm.mini_world.espeak import Espeak, check_voice

SAMPLE_RATE = 16000


@dataclass(frozen=True)
class Utterance:
    """One thing to say, and how."""

    path: str
    text: str
    voice: str
    rate: int = 175
    pitch: int = 50
    range: int = 50
    snr: float = None
    seed: int = 0


def add_noise(wav_N, snr, seed):
    """Add noise that is white, or louder at low frequencies, by chance."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(len(wav_N))
    if rng.random() < 0.5:
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.arange(1, len(spectrum) + 1))
        noise = np.fft.irfft(spectrum, len(wav_N))
    power = np.mean(wav_N**2) / 10 ** (snr / 10)
    return wav_N + noise * np.sqrt(power / np.mean(noise**2))


def speak_shard(utterances):
    """Speak utterances in order, in this process, and write their files."""
    for voice in {u.voice for u in utterances}:
        check_voice(voice)
    espeak = Espeak()
    for one in utterances:
        wav = espeak.say(one.text, one.voice, one.rate, one.pitch, one.range)
        if one.snr is not None:
            wav = add_noise(wav, one.snr, one.seed)
        wav = wav / max(1.25 * np.abs(wav).max(), 1e-9)
        os.makedirs(os.path.dirname(one.path) or ".", exist_ok=True)
        soundfile.write(one.path, wav.astype(np.float32), SAMPLE_RATE)
        yield one


def speak(shards, scratch, processes=2, title="speech"):
    """Speak shards, each in a fresh process, a few at a time."""
    os.makedirs(scratch, exist_ok=True)
    waiting = list(enumerate(shards))[::-1]
    running = []
    total = sum(map(len, shards))
    try:
        with tqdm(total=total, desc=title, unit="utt") as bar:
            while waiting or running:
                while waiting and len(running) < processes:
                    index, shard = waiting.pop()
                    running.append((_start(shard, scratch, index), shard))
                for process, shard in list(running):
                    if process.poll() is None:
                        continue
                    running.remove((process, shard))
                    if process.returncode:
                        raise RuntimeError(process.stderr.read())
                    bar.update(len(shard))
                time.sleep(0.02)
    finally:
        for process, _ in running:
            process.kill()


def _start(shard, scratch, index):
    """Start the process of one shard."""
    path = os.path.join(scratch, f"shard-{index:04d}.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump([asdict(one) for one in shard], file)
    # One thread each: the processes share the cores among themselves.
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.Popen(
        [sys.executable, "-m", __name__, path],
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
    )


def main(path):
    """Speak the shard that a JSON file describes."""
    with open(path, encoding="utf-8") as file:
        shard = [Utterance(**fields) for fields in json.load(file)]
    for _ in speak_shard(shard):
        pass


if __name__ == "__main__":
    main(sys.argv[1])
