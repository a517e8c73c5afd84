"""Audio of any kind, rate and length, as mono at the encoder's rate.

Files are read block by block, so that an hour of audio takes no more memory
than a minute; a block is resampled together with what stands around it, so
that the blocks joined are what the whole file would give.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
from dataclasses import dataclass
from math import gcd

import torch

from speechbrain_ext.audio import (
    AudioError,
    audio_info,
    check_format,
    open_sound,
    read_block,
    resampler,
)

# Values read at once: a minute of a compact disc. Blocks are whole seconds, so
# that one is a whole number of samples at any rate.
BLOCK = 60 * 2 * 44_100
# Longer than any resampling filter reaches.
AROUND_SECONDS = 1
RATES = (100, 768_000)
MOST_CHANNELS = 64
# Values of a resampling filter. Rates that share no large divisor would need
# gigabytes (44,101 to 16,000 Hz: 2.8); they are taken as the next 50 Hz.
LARGEST_FILTER = 4_000_000
NEAR = 50


@dataclass
class Sound:
    """One audio: a file, or samples in memory.

    Arguments
    ---------
    name : str
        What results and errors call it.
    path : str or None
        The file.
    wav_CN : torch.Tensor or None
        Samples, channels first.
    rate : int or None
        Their rate.
    """

    name: str
    path: object = None
    wav_CN: object = None
    rate: int | None = None

    def check(self, sample_rate):
        """Refuse what cannot be read, from the head alone (AudioError)."""
        if self.path is not None:
            info = audio_info(self.path, self.name)
            check_format(info, self.name, sample_rate, True, True)
            self.rate = info.sample_rate
            if info.channels > MOST_CHANNELS:
                raise AudioError(
                    f"{self.name}: {info.channels} channels cannot be speech"
                )
        elif self.wav_CN.shape[-1] == 0:
            raise AudioError(f"{self.name}: has no samples")
        if not RATES[0] <= self.rate <= RATES[1]:
            raise AudioError(
                f"{self.name}: a rate of {self.rate} Hz cannot be: convert "
                "the file"
            )

    def blocks(self, sample_rate):
        """Mono float32 waveforms ``[N]``, one after the other.

        Arguments
        ---------
        sample_rate : int
            The rate that the encoder takes.

        Yields
        ------
        torch.Tensor

        Raises
        ------
        AudioError
            If the audio is damaged, or has NaN or infinite samples.
        """
        raw = self._file_blocks() if self.path is not None else [self.wav_CN]
        mono = (self._mono(block_CN) for block_CN in raw)
        if self.rate == sample_rate:
            yield from mono
        else:
            rate = near_rate(self.rate, sample_rate)
            yield from resampled(mono, rate, sample_rate)

    def _mono(self, wav_CN):
        if not torch.isfinite(wav_CN).all():
            raise AudioError(
                f"{self.name}: holds NaN or infinite samples: write it again "
                "from its source"
            )
        return wav_CN.mean(0) if len(wav_CN) > 1 else wav_CN[0]

    def _file_blocks(self):
        with open_sound(self.path, self.name) as sound:
            left = sound.frames
            rate = sound.samplerate
            at_once = max(1, BLOCK // (rate * sound.channels)) * rate
            while left > 0:
                count = min(left, at_once)
                yield read_block(sound, count, self.name).T
                left -= count


def near_rate(rate, sample_rate):
    """The rate, or the nearest that can be converted in little memory.

    Arguments
    ---------
    rate, sample_rate : int
        Rate that is, and that is wanted.

    Returns
    -------
    int

    Example
    -------
    >>> near_rate(44100, 16000), near_rate(44101, 16000)
    (44100, 44100)
    """
    shared = gcd(rate, sample_rate)
    if (rate // shared) * (sample_rate // shared) <= LARGEST_FILTER:
        return rate
    return max(NEAR, round(rate / NEAR) * NEAR)


def resampled(blocks, rate, sample_rate):
    """Convert the rate of a waveform that comes in blocks.

    Arguments
    ---------
    blocks : iterable of torch.Tensor
        ``[N]`` each; all but the last of whole seconds.
    rate, sample_rate : int
        Rate that is, and that is wanted.

    Yields
    ------
    torch.Tensor
        What converting the whole at once would give, in blocks.
    """
    convert = resampler(rate, sample_rate)
    # A step after which both rates have a whole number of samples.
    step = rate // gcd(rate, sample_rate)
    around = -(-AROUND_SECONDS * rate // step) * step
    before = torch.zeros(0)
    waiting = None
    for block in blocks:
        if waiting is not None:
            yield _convert_middle(
                convert, before, waiting, block[:around], rate, sample_rate
            )
            before = waiting[-around:]
        waiting = block
    if waiting is not None:
        nothing = torch.zeros(0)
        yield _convert_middle(
            convert, before, waiting, nothing, rate, sample_rate
        )


def _convert_middle(convert, before, block, after, rate, sample_rate):
    """Convert a block with its surroundings, and cut these off again."""
    wav = convert(torch.cat([before, block, after]))
    first = len(before) * sample_rate // rate
    if len(after) == 0:
        return wav[first:]
    count = len(block) * sample_rate // rate
    return wav[first : first + count]


def as_sounds(audio):
    """What a caller gave, as a list of `Sound`.

    Arguments
    ---------
    audio : str, path, (waveform, rate), or list of these
        A waveform is a tensor or array of shape ``[N]``, or of ``[N, C]`` or
        ``[C, N]`` with fewer channels than samples.

    Returns
    -------
    sounds : list of Sound
    single : bool
        Whether one audio was given, and not a list.

    Raises
    ------
    TypeError, AudioError
        If it is none of these.
    """
    if isinstance(audio, (str, os.PathLike)) or _is_waveform(audio):
        return [_sound(audio, 0)], True
    if isinstance(audio, (list, tuple)):
        return [_sound(one, index) for index, one in enumerate(audio)], False
    raise TypeError(
        f"audio: a {type(audio).__name__} cannot be transcribed: give a path, "
        "a pair (waveform, sample rate), or a list of these"
    )


def _is_waveform(audio):
    return (
        isinstance(audio, tuple)
        and len(audio) == 2
        and isinstance(audio[1], int)
        and hasattr(audio[0], "shape")
    )


def _sound(audio, index):
    if isinstance(audio, (str, os.PathLike)):
        return Sound(os.fspath(audio), path=os.fspath(audio))
    if not _is_waveform(audio):
        raise TypeError(
            f"audio: item {index} is a {type(audio).__name__}: give a path, "
            "or a pair (waveform, sample rate): a waveform says nothing "
            "without its rate"
        )
    wav = torch.as_tensor(audio[0]).detach().cpu()
    if not wav.is_floating_point():
        raise AudioError(
            f"waveform {index}: has samples of type {wav.dtype}: give them "
            "as floats in -1 to 1"
        )
    wav = wav.float()
    if wav.dim() == 1:
        wav = wav[None]
    if wav.dim() != 2:
        raise AudioError(
            f"waveform {index}: has shape {tuple(wav.shape)}: give [samples] "
            "or [channels, samples]"
        )
    if wav.shape[0] > wav.shape[1]:
        wav = wav.T
    return Sound(f"waveform {index}", wav_CN=wav, rate=audio[1])
