"""Audio of any kind, as mono samples at the rate that the encoder takes.

`audio_blocks` is what everything reads through: the prepare scripts,
training, Parquet files and the transcriber. A corpus has files that
are absent, cut short, silent in the header but full of NaN, at another rate,
or in stereo. Each of these is told, with the file's name and what mends it,
rather than met later as a strange loss.

Files are read block by block, so that an hour of audio takes no more memory
than a minute; a block is resampled together with what stands around it, so
that the blocks joined are what the whole file would give.

Example
-------
>>> import soundfile, torch
>>> path = getfixture("tmpdir") / "a.flac"
>>> soundfile.write(str(path), torch.zeros(16000).numpy(), 16000)
>>> audio_info(path).frames
16000
>>> read_utterance(path, stop=400).shape
torch.Size([400])
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import chain, pairwise
from math import gcd
from pathlib import Path
from typing import BinaryIO

import torch
import torchaudio

from speechbrain_ext.data import audio_damage
from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.data.audio_file import AudioFile, AudioInfo

Source = str | Path | BinaryIO

# Whole seconds, so that a block is a whole number of samples at any rate.
BLOCK_SECONDS = 60
# Longer than any resampling filter reaches.
AROUND_SECONDS = 1
RATES = (100, 768_000)
MOST_CHANNELS = 64
# Values of a resampling filter. Rates that share no large divisor would need
# gigabytes (44,101 to 16,000 Hz: 2.8); they are taken as the next 50 Hz.
LARGEST_FILTER = 4_000_000
NEAR = 50
# A part of a file, as manifests write it: FILE#START-STOP, in its own samples.
PART = re.compile(r"(.+)#(\d+)-(\d+)", re.DOTALL)


def audio_info(
    path: Source, name: str | None = None, decode: bool = True
) -> AudioInfo:
    """Length, rate and channels of an audio file.

    Arguments
    ---------
    path : str, pathlib.Path or binary file
        The file; an open binary file (audio held in memory) also serves.
    name : str, optional
        What errors call it; by default its path.
    decode : bool
        Decode a file whose head does not state its length to the sample
        (MP3, AAC, Ogg, WebM, streams); otherwise ``frames`` is None then.

    Returns
    -------
    AudioInfo
        Samples, rate and channels.

    Raises
    ------
    AudioError
        The file is absent, empty or not audio; where it is decoded, also if
        it is damaged.
    """
    with AudioFile(path, name or _name_of(path)) as sound:
        info = sound.info
        if info.frames is None and decode:
            frames = sum(len(wav_N) for wav_N in sound.samples())
            info = AudioInfo(frames, info.sample_rate, info.channels)
    return info


def audio_blocks(
    path: Source,
    sample_rate: int = 16000,
    start: int | None = None,
    stop: int | None = None,
    resample: bool = False,
    mix_channels: bool = False,
    name: str | None = None,
) -> Iterator[torch.Tensor]:
    """Mono float32 waveforms ``[N]``, one after the other.

    Arguments
    ---------
    path : str, pathlib.Path or binary file
        The file; an open binary file (audio held in memory) also serves.
    sample_rate : int
        The rate that the encoder takes, in hertz.
    start, stop : int, optional
        The part to read, in samples at the file's own rate: from ``start``
        to before ``stop``. By default the whole file.
    resample : bool
        Convert another rate instead of refusing it.
    mix_channels : bool
        Average several channels instead of refusing them.
    name : str, optional
        What errors call it; by default its path.

    Yields
    ------
    wav_N : torch.Tensor
        A minute at a time; samples are nominally in [-1, 1].

    Raises
    ------
    AudioError
        The file is absent, unreadable, cut short, damaged, empty, has NaN or
        infinite samples, or another rate or more channels than allowed.
    """
    name = name or _name_of(path)
    with AudioFile(path, name) as sound:
        check_format(sound.info, name, sample_rate, resample, mix_channels)
        rate = sound.info.sample_rate
        blocks = _in_blocks(
            sound.samples(start or 0, stop), BLOCK_SECONDS * rate
        )
        yield from at_rate(finite(blocks, name), rate, sample_rate)


def read_utterance(path: Source, *args, **options) -> torch.Tensor:
    """Read an utterance as one float32 waveform, as `audio_blocks` does.

    Arguments
    ---------
    path : str, pathlib.Path or binary file
        The file.
    *args, **options
        As `audio_blocks` takes them.

    Returns
    -------
    wav_N : torch.Tensor
        Samples, nominally in [-1, 1].
    """
    blocks = list(audio_blocks(path, *args, **options))
    if not blocks:
        # A frame's worth may be announced and none decoded.
        raise audio_damage.no_samples(options.get("name") or _name_of(path))
    return torch.cat(blocks)


def part_place(file: str, start: int, stop: int) -> str:
    """A part of a file, as `read_place` takes it: samples at its own rate."""
    return f"{file}#{start}-{stop}"


def read_place(place: str, **options) -> torch.Tensor:
    """Read an audio file, or the part of one that `part_place` names.

    Arguments
    ---------
    place : str
        A file, or FILE#START-STOP.
    **options
        As `audio_blocks` takes them.

    Returns
    -------
    wav_N : torch.Tensor
        Samples, nominally in [-1, 1].
    """
    part = PART.fullmatch(place)
    if not part or os.path.exists(place):
        return read_utterance(place, **options)
    start, stop = int(part[2]), int(part[3])
    return read_utterance(part[1], start=start, stop=stop, **options)


def check_format(
    info: AudioInfo,
    name: str,
    sample_rate: int = 16000,
    resample: bool = False,
    mix_channels: bool = False,
) -> None:
    """Refuse, from the head alone, what `read_utterance` would refuse.

    Arguments
    ---------
    info : AudioInfo
        From `audio_info`.
    name : str
        What errors call the file.
    sample_rate : int
        The rate that the encoder takes, in hertz.
    resample, mix_channels : bool
        As in `audio_blocks`.

    Raises
    ------
    AudioError
        No samples, another rate, or more channels than allowed.
    """
    if info.frames == 0:
        raise audio_damage.no_samples(name)
    if not RATES[0] <= info.sample_rate <= RATES[1]:
        raise AudioError(
            f"{name}: a rate of {info.sample_rate} Hz cannot be: convert it"
        )
    if info.sample_rate != sample_rate and not resample:
        raise AudioError(
            f"{name}: sample rate {info.sample_rate} Hz, but the encoder "
            f"takes {sample_rate} Hz: convert it (ffmpeg -i IN -ar "
            f"{sample_rate} OUT.flac) or set resample: True"
        )
    if info.channels > MOST_CHANNELS:
        raise AudioError(
            f"{name}: {info.channels} channels cannot be speech: convert it "
            "(ffmpeg -i IN -ac 1 OUT.flac)"
        )
    if info.channels > 1 and not mix_channels:
        raise AudioError(
            f"{name}: {info.channels} channels, but the encoder takes one: "
            "convert it (ffmpeg -i IN -ac 1 OUT.flac) or set "
            "mix_channels: True"
        )


def _name_of(path):
    if isinstance(path, (str, os.PathLike)):
        return os.fspath(path)
    name = getattr(path, "name", None)
    return name if isinstance(name, str) else "audio held in memory"


def _in_blocks(parts, count):
    """Waveforms joined and cut anew: ``count`` samples each, but the last."""
    waiting, held = [], 0
    for part in parts:
        waiting.append(part)
        held += len(part)
        while held >= count:
            joined = torch.cat(waiting)
            yield joined[:count]
            waiting, held = [joined[count:]], held - count
    if held:
        yield torch.cat(waiting)


def finite(blocks: Iterable[torch.Tensor], name: str) -> Iterator[torch.Tensor]:
    """The same waveforms, looked through (AudioError)."""
    for wav_N in blocks:
        if not torch.isfinite(wav_N).all():
            raise AudioError(
                f"{name}: holds NaN or infinite samples: write it again from "
                "its source, or leave the utterance out"
            )
        yield wav_N


def at_rate(
    blocks: Iterable[torch.Tensor], rate: int, sample_rate: int
) -> Iterator[torch.Tensor]:
    """Waveforms in blocks of whole seconds, brought to another rate."""
    if rate == sample_rate:
        return iter(blocks)
    return resampled(blocks, near_rate(rate, sample_rate), sample_rate)


def near_rate(rate: int, sample_rate: int) -> int:
    """The rate, or the nearest that can be converted in little memory."""
    shared = gcd(rate, sample_rate)
    if (rate // shared) * (sample_rate // shared) <= LARGEST_FILTER:
        return rate
    return max(NEAR, round(rate / NEAR) * NEAR)


def resampled(
    blocks: Iterable[torch.Tensor], rate: int, sample_rate: int
) -> Iterator[torch.Tensor]:
    """What converting a whole waveform at once would give, in blocks."""
    convert = resampler(rate, sample_rate)
    # A step after which both rates have a whole number of samples.
    step = rate // gcd(rate, sample_rate)
    around = -(-AROUND_SECONDS * rate // step) * step
    before = nothing = torch.zeros(0)
    for block, after in pairwise(chain(blocks, [nothing])):
        # A block is converted with its surroundings, which are cut off again.
        wav_N = convert(torch.cat([before, block, after[:around]]))
        first = len(before) * sample_rate // rate
        end = first + len(block) * sample_rate // rate if len(after) else None
        yield wav_N[first:end]
        before = block[-around:]


@lru_cache(maxsize=8)
def resampler(rate: int, sample_rate: int) -> torchaudio.transforms.Resample:
    """A converter of waveforms from one rate to another."""
    # Kept because its filter takes longer to design than to apply.
    return torchaudio.transforms.Resample(rate, sample_rate)
