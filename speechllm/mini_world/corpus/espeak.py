"""espeak-ng, called as a library: one voice, one text, samples.

The library comes with the package espeakng-loader. It keeps state and is not
safe with threads: ``speech.py`` gives each shard a process of its own.
"""

from __future__ import annotations

import ctypes
import os

import espeakng_loader
import numpy as np

ESPEAK_RATE = 22050
# espeak's names of the accents in use; it has no "en-gb" and no "fr-fr".
BASES = (
    "en",
    "en-us",
    "en-us-nyc",
    "en-gb-x-rp",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "de",
    "fr",
    "fr-be",
    "fr-ch",
)
# Whispers, robots, and throats that nobody has (a formant missing, at half or
# at one and a half of its height, or filtered away): hard for people too.
UNFIT = tuple(
    "whisper croak Demonic robosoft Ricishay UniRobot anikaRobot Andy "
    "AnxiousAndy Jacky Lee Marco Tweaky antonio kaukovalta sandro travis "
    "zac".split()
)
RATE, PITCH, RANGE = 1, 3, 4


def variants() -> list[str]:
    """Names of the voice variants that people understand."""
    folder = os.path.join(espeakng_loader.get_data_path(), "voices", "!v")
    return sorted(
        name for name in os.listdir(folder) if not name.startswith(UNFIT)
    )


def check_voice(voice: str) -> None:
    """Refuse a voice that espeak does not have."""
    base, plus, variant = voice.partition("+")
    if base not in BASES:
        raise ValueError(
            f"voice: '{voice}' has the unknown base '{base}': choose from "
            f"{sorted(BASES)}"
        )
    if plus and variant not in variants():
        raise ValueError(
            f"voice: '{voice}' has the unknown variant '{variant}': choose "
            f"from {variants()}"
        )


class Espeak:
    """The espeak-ng library of this process."""

    CALLBACK = ctypes.CFUNCTYPE(
        ctypes.c_int,
        ctypes.POINTER(ctypes.c_short),
        ctypes.c_int,
        ctypes.c_void_p,
    )

    def __init__(self):
        self.library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        # 2: samples are handed to the callback before Synth returns.
        # 0x8000: an error is returned instead of ending the process.
        rate = self.library.espeak_Initialize(2, 0, data, 0x8000)
        if rate != ESPEAK_RATE:
            raise RuntimeError(
                f"espeak-ng: started with {rate} Hz, expected {ESPEAK_RATE}: "
                f"reinstall the package espeakng-loader"
            )
        # espeak seeds its breath noise with the time of day.
        self.library.espeak_ng_SetRandSeed(ctypes.c_long(1))
        self.chunks = []
        # The library keeps a bare pointer: this reference keeps it alive.
        self.callback = self.CALLBACK(self._receive)
        self.library.espeak_SetSynthCallback(self.callback)

    def _receive(self, samples, count, _events):
        if samples and count > 0:
            chunk = np.ctypeslib.as_array(samples, shape=(count,))
            self.chunks.append(chunk.copy())
        return 0

    def say(
        self,
        text: str,
        voice: str,
        rate: int = 175,
        pitch: int = 50,
        pitch_range: int = 50,
        tract: float = 1.0,
    ) -> np.ndarray:
        """Speak one text, with formants `tract` times as high as the voice's.

        The pitch moves along, as it does with real throats; the rate is kept.
        """
        self.chunks = []
        # What is played faster must be said more slowly.
        rate = round(rate / tract)
        if self.library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"voice: espeak-ng refuses '{voice}'")
        for parameter, value in (
            (RATE, rate),
            (PITCH, pitch),
            (RANGE, pitch_range),
        ):
            self.library.espeak_SetParameter(parameter, int(value), 0)
        raw = text.encode()
        # 1: the text is UTF-8.
        size = ctypes.c_size_t(len(raw) + 1)
        self.library.espeak_Synth(raw, size, 0, 1, 0, 1, None, None)
        if not self.chunks:
            raise RuntimeError(f"espeak-ng said nothing for '{text}'")
        return _resample(np.concatenate(self.chunks) / 32768.0, tract)


def _resample(wav_N, faster=1.0):
    """From 22,050 to 16,000 Hz, played some times as fast, cut off at 8 kHz."""
    # Lengths that divide well, so that both transforms are quick and exact.
    blocks = -(-len(wav_N) // (441 * 8)) * 8
    spectrum = np.fft.rfft(wav_N, blocks * 441)
    samples = 16 * round(blocks * 20 / faster)
    spectrum = spectrum[: samples // 2 + 1]
    return np.fft.irfft(spectrum, samples) * 320 / 441 / faster
