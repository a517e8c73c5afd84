"""What callers give as audio: files, open files, or samples in memory."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, BinaryIO

import torch

from speechbrain_ext.data.audio import (
    BLOCK_SECONDS,
    at_rate,
    audio_blocks,
    audio_info,
    check_format,
    finite,
)
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.audio_file import AudioInfo


@dataclass
class Sound:
    """One audio: a file, or samples in memory; or why it is neither."""

    name: str
    source: str | BinaryIO | None = None
    # Channels and samples, and their rate, where there is no source.
    wav_CN: Any = None
    rate: Any = None
    fault: str = ""

    def check(self, sample_rate: int) -> None:
        """Refuse what cannot be read, from the head alone (AudioError)."""
        if self.fault:
            raise AudioError(f"{self.name}: {self.fault}")
        if isinstance(self.source, str) and not os.path.isfile(self.source):
            there = os.path.exists(self.source)
            why = "a folder, pipe or device" if there else "no such file"
            raise AudioError(f"{self.name}: {why}: give an audio file")
        if self.source is not None:
            info = audio_info(self.source, self.name, decode=False)
        else:
            channels, samples = self.wav_CN.shape
            info = AudioInfo(samples * (channels > 0), self.rate, channels)
        check_format(info, self.name, sample_rate, True, True)

    def blocks(self, sample_rate: int) -> Iterator[torch.Tensor]:
        """Mono float32 waveforms ``[N]``, one after the other."""
        if self.source is not None:
            return audio_blocks(
                self.source,
                sample_rate,
                resample=True,
                mix_channels=True,
                name=self.name,
            )
        many = len(self.wav_CN) > 1
        wav_N = self.wav_CN.mean(0) if many else self.wav_CN[0]
        blocks = wav_N.split(BLOCK_SECONDS * self.rate)
        return at_rate(finite(blocks, self.name), self.rate, sample_rate)


def is_audio(path: str) -> bool:
    """Whether a file begins as a recording does."""
    try:
        audio_info(path, decode=False)
    except AudioError:
        return False
    return True


def as_sounds(
    audio: object, sampling_rate: int | None = None
) -> tuple[list[Sound], bool]:
    """What a caller gave, as a list of `Sound`, and whether it was one.

    A waveform that is given without its rate has the `sampling_rate`.
    """
    single = _is_samples(audio) or _is_audio(audio)
    if not single and not isinstance(audio, (list, tuple)):
        raise TypeError(
            f"audio: a {type(audio).__name__} cannot be transcribed: give a "
            "path, an open file, a pair (waveform, sample rate), or a list of "
            "these"
        )
    several: Any = [audio] if single else audio
    found = [_sound(one, i, sampling_rate) for i, one in enumerate(several)]
    return found, single


def _is_samples(audio):
    """Whether this is an array or a tensor of samples."""
    return hasattr(audio, "shape") and len(audio.shape) > 0


def _is_audio(audio):
    return (
        isinstance(audio, (str, bytes, os.PathLike, Mapping))
        or (hasattr(audio, "read") and not hasattr(audio, "shape"))
        or hasattr(audio, "get_all_samples")
        or _is_waveform(audio)
    )


def _is_waveform(audio):
    """Whether this is a pair of samples and a rate, of any kind of number."""
    return (
        isinstance(audio, tuple)
        and len(audio) == 2
        and (isinstance(audio[0], list) or hasattr(audio[0], "shape"))
        and (isinstance(audio[1], Real) or getattr(audio[1], "shape", 0) == ())
    )


def _sound(audio, index, sampling_rate=None):
    if isinstance(audio, bytes):
        return Sound(f"audio {index}", source=io.BytesIO(audio))
    if isinstance(audio, (str, os.PathLike)):
        return Sound(os.fspath(audio), source=os.fspath(audio))
    if _is_samples(audio) and sampling_rate is not None:
        return _from_waveform(audio, sampling_rate, f"waveform {index}")
    if isinstance(audio, Mapping):
        return _from_dict(audio, index)
    if hasattr(audio, "get_all_samples"):
        return _from_decoder(audio, f"waveform {index}")
    if hasattr(audio, "read"):
        return _from_file(audio, index)
    if not _is_waveform(audio):
        raise TypeError(
            f"audio: item {index} is a {type(audio).__name__}: give a path, "
            "an open file, or a pair (waveform, sample rate): a waveform says "
            "nothing without its rate (or give sampling_rate)"
        )
    return _from_waveform(*audio, f"waveform {index}")


def _from_dict(audio, index):
    """Audio as Hugging Face's data sets give it."""
    name = audio.get("path") or f"waveform {index}"
    if audio.get("array") is not None and "sampling_rate" in audio:
        return _from_waveform(audio["array"], audio["sampling_rate"], name)
    if audio.get("bytes"):
        return Sound(name, source=io.BytesIO(audio["bytes"]))
    if audio.get("path"):
        return Sound(name, source=audio["path"])
    raise TypeError(
        f"audio: item {index} is a dict with {', '.join(map(str, audio))}: "
        "give array and sampling_rate, or bytes, or path"
    )


def _from_decoder(decoder, name):
    """Audio as torchcodec decodes it, for Hugging Face's data sets too."""
    # Its errors have many classes: none may spoil the rest of a list.
    try:
        samples = decoder.get_all_samples()
    except Exception as error:
        return Sound(name, fault=f"cannot be read as audio ({error})")
    return _from_waveform(samples.data, samples.sample_rate, name)


def _from_file(file, index):
    """An open file; what cannot be rewound is read into memory."""
    name = getattr(file, "name", None)
    name = name if isinstance(name, str) else f"audio {index}"
    if isinstance(file, io.TextIOBase):
        return Sound(name, fault="is open as text: open it with mode 'rb'")
    try:
        if not file.seekable():
            file = io.BytesIO(file.read())
    except (AttributeError, OSError, ValueError) as error:
        return Sound(name, fault=f"cannot be read ({error})")
    return Sound(name, source=file)


def _from_waveform(samples, rate, name):
    """Samples in memory; what is wrong with them is noted."""
    try:
        wav = torch.as_tensor(samples).detach().cpu()
        hertz = float(rate)
    except (TypeError, ValueError, RuntimeError) as error:
        return Sound(name, fault=f"is no waveform with a rate ({error})")
    fault = ""
    if not hertz.is_integer():
        fault = f"a rate of {hertz} Hz cannot be: give a whole number"
    elif wav.numel() == 0:
        fault = "has no samples"
    elif not wav.is_floating_point():
        fault = (
            f"has samples of type {wav.dtype}: give them as floats in -1 to 1"
        )
    elif wav.dim() not in (1, 2):
        fault = (
            f"has shape {tuple(wav.shape)}: give [samples] or [channels, "
            "samples]"
        )
    if fault:
        return Sound(name, fault=fault)
    wav = wav.float()
    if wav.dim() == 1:
        wav = wav[None]
    elif wav.shape[0] > wav.shape[1]:
        wav = wav.T
    return Sound(name, wav_CN=wav, rate=int(hertz))


# ----------------------------------------------------------------------------
# Cut long audio at quiet points into pieces that a model takes.

# Seconds. Energy is looked at in steps of HOP and averaged over QUIET, about
# the pause between two words.
HOP = 0.01
QUIET = 0.2
# A piece is at least this share of the longest, so that the place to cut can
# be chosen and no tiny piece is left over.
LEAST = 0.5


def pieces(
    blocks: Iterable[torch.Tensor], sample_rate: int, longest: int
) -> Iterator[tuple[int, torch.Tensor]]:
    """First sample and waveform of the pieces of what comes in blocks."""
    blocks, waiting, start = iter(blocks), torch.zeros(0), 0
    while True:
        # Two pieces ahead, so that the last two can share what is left.
        while len(waiting) <= 2 * longest:
            block = next(blocks, None)
            if block is None:
                break
            waiting = torch.cat([waiting, block])
        if len(waiting) <= longest:
            break
        least, most = longest * LEAST, float(longest)
        if len(waiting) <= 2 * longest:
            most = min(longest, len(waiting) - longest * LEAST / 2)
            # Two pieces, unless that leaves no choice where to cut.
            least = max(longest * LEAST, len(waiting) - longest)
            if most - least < longest * LEAST / 2:
                least = min(longest * LEAST, most)
        cut = quietest(waiting, sample_rate, least, most)
        yield start, waiting[:cut]
        waiting, start = waiting[cut:], start + cut
    if len(waiting):
        yield start, waiting


def quietest(
    wav_N: torch.Tensor, sample_rate: int, least: float, most: float
) -> int:
    """The sample in the middle of the quietest stretch."""
    hop = max(1, int(HOP * sample_rate))
    first, last = int(least), int(most)
    around = int(QUIET * sample_rate / 2)
    begin = max(0, first - around)
    part = wav_N[begin : last + around].float().square()
    sums = torch.cat([torch.zeros(1), part.cumsum(0, dtype=torch.float64)])
    places = torch.arange(last, max(first, 1) - 1, -hop)
    low = (places - around - begin).clamp(min=0)
    high = (places + around - begin).clamp(max=len(part))
    energy = (sums[high] - sums[low]) / (high - low)
    return max(1, int(places[energy.argmin()]))
