"""Where nobody speaks: nothing is decoded there, and no words are made up.

Digital silence is always left out. What is quiet but not silent, or music,
is told from speech by silero-vad, where that is wanted: an extra.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator

import torch

# The largest sample of what is silence: -80 dB of full scale.
SILENT = 1e-4
# Seconds. Speech that is nearer to other speech is decoded with it; around
# each stretch a little is kept.
TOGETHER = 1.0
MARGIN = 0.2
# A stretch of an audio: first sample, waveform, and whether anyone speaks.
Stretch = tuple[int, torch.Tensor, bool]


@functools.cache
def speech_finder() -> Callable[[torch.Tensor, int], list[dict[str, int]]]:
    """Silero's voice activity detection, from the installed package."""
    # Its import sets the threads of the whole process to one.
    threads = torch.get_num_threads()
    try:
        from silero_vad import get_speech_timestamps, load_silero_vad

        model = load_silero_vad()
    except ImportError as error:
        raise ImportError(
            "--vad needs the package silero-vad, which is not installed: "
            "pip install 'speechllm[vad]'"
        ) from error
    finally:
        torch.set_num_threads(threads)

    def find(wav_N: torch.Tensor, rate: int) -> list[dict[str, int]]:
        """Stretches of speech, with the samples where they start and end."""
        return get_speech_timestamps(wav_N, model, sampling_rate=rate)

    return find


def stretches(
    pieces: Iterable[tuple[int, torch.Tensor]],
    rate: int,
    least: int,
    vad: bool = False,
) -> Iterator[Stretch]:
    """Pieces, told by whether anyone speaks; with `vad`, cut around speech.

    What is decoded has at least so many samples.
    """
    for start, wav_N in pieces:
        if not vad:
            yield start, wav_N, not bool(wav_N.abs().max() < SILENT)
            continue
        ends = 0
        for first, last in _spoken(wav_N, rate, least):
            if first > ends:
                yield start + ends, wav_N[ends:first], False
            yield start + first, wav_N[first:last], True
            ends = last
        if ends < len(wav_N):
            yield start + ends, wav_N[ends:], False


def _spoken(wav_N, rate, least):
    """Where speech starts and ends, near ones joined, none too short."""
    margin, near = int(MARGIN * rate), int(TOGETHER * rate)
    heard = [
        (max(one["start"] - margin, 0), min(one["end"] + margin, len(wav_N)))
        for one in speech_finder()(wav_N, rate)
    ]
    found = []
    for first, last in _joined(heard, near):
        last = min(max(last, first + least), len(wav_N))
        found.append((max(0, min(first, last - least)), last))
    return _joined(found, 0)


def _joined(found, near):
    """Stretches, those nearer to another than so many samples joined."""
    joined: list[tuple[int, int]] = []
    for first, last in found:
        if joined and first - joined[-1][1] < near:
            joined[-1] = joined[-1][0], max(joined[-1][1], last)
        else:
            joined.append((first, last))
    return joined
