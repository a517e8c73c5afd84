"""Copies of what is trained on, played at another speed or in noise.

A copy is a row of its own, made of its utterance's audio when that is read: so
a frozen encoder hears it once, and its features are kept like all others.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable

import torch
from speechbrain.augment.time_domain import AddNoise, SpeedPerturb

from speechbrain_ext.data.manifests import SAMPLE_RATE


def with_copies(
    rows: dict, speeds: Iterable[float] = (), snrs: Iterable[float] = ()
) -> dict:
    """Rows of a manifest and, after them, their copies.

    Arguments
    ---------
    rows : dict
        As `speechbrain_ext.data.rows.read_manifest` gives them.
    speeds : iterable of float
        How many times as fast; a copy for each.
    snrs : iterable of float
        Speech over white noise, in dB; a copy for each.

    Returns
    -------
    dict
        Each row has the key copy: what `perturbed` takes, or None.
    """
    found = {name: {**row, "copy": None} for name, row in rows.items()}
    for speed in speeds:
        for name, row in rows.items():
            length = row["duration"] / speed
            own = {"duration": length, "copy": {"speed": speed}}
            found[f"{name}@{speed:g}x"] = {**row, **own}
    for snr in snrs:
        for name, row in rows.items():
            found[f"{name}@{snr:g}dB"] = {**row, "copy": {"snr": snr}}
    return found


def perturbed(
    wav_N: torch.Tensor, name: str, copy: dict | None
) -> torch.Tensor:
    """An utterance's waveform ``[N]`` at 16 kHz, made that of its copy.

    The noise hangs on the name alone: it is the same each time.
    """
    if copy is None:
        return wav_N
    # SpeechBrain's augmenters draw even where there is one choice.
    with torch.random.fork_rng(devices=[]):
        if "speed" in copy:
            return SpeedPerturb(SAMPLE_RATE, [100 * copy["speed"]])(
                wav_N[None]
            )[0]
        own = torch.Generator().manual_seed(zlib.crc32(name.encode()))
        noise = AddNoise(
            snr_low=copy["snr"],
            snr_high=copy["snr"],
            noise_funct=lambda wav: torch.randn(wav.shape, generator=own),
        )
        return noise(wav_N[None], torch.ones(1))[0]
