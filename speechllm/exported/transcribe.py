"""Recordings to text: cut into pieces, decoded in batches of like length."""

from __future__ import annotations

import contextlib
import os
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from tqdm import tqdm

from speechbrain_ext.data.audio_damage import AudioError
from speechbrain_ext.layers.residual import no_numbers
from speechbrain_ext.model.answer_ids import answer_ids
from speechbrain_ext.model.answers import Answer, answer_limits
from speechbrain_ext.model.speech_llm import SpeechLLM
from speechllm.exported.audio import Sound, pieces
from speechllm.exported.format import TaskSettings
from speechllm.exported.vad import Stretch, speech_finder, stretches

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}
# What a tokenizer writes for the first bytes of a letter.
HALF_LETTER = "\ufffd"
# Batches that are sorted by length together: little padding, and the pieces
# of many hours are never in memory at once.
BATCHES_TOGETHER = 8


@contextlib.contextmanager
def decoding(model: SpeechLLM, settings: TaskSettings) -> Iterator[None]:
    """Eval mode, no gradients, and the precision that was evaluated with."""
    dtype = AUTOCAST.get(settings.precision)
    device = model.decoder.device.type
    model.eval()
    with (
        torch.no_grad(),
        torch.autocast(device, dtype=dtype, enabled=dtype is not None),
    ):
        yield


def features_of(
    model: SpeechLLM, settings: TaskSettings, wavs: list[torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of some waveforms, as the task's projector knows them."""
    x_BSF, tokens_B = model.features_of(wavs)
    if settings.features_dtype:
        # A training that kept its features on disk kept them in this type.
        half = getattr(torch, settings.features_dtype)
        x_BSF = x_BSF.to(half).to(x_BSF.dtype)
    return x_BSF, tokens_B


def limits_of(model, settings, wavs):
    """Most tokens that each waveform's answer may have."""
    return answer_limits(
        [len(wav_N) / model.encoder.sample_rate for wav_N in wavs],
        settings.max_tokens_per_second,
        settings.max_new_tokens,
    )


def answer_wavs(
    model: SpeechLLM, settings: TaskSettings, wavs: list[torch.Tensor]
) -> list[Answer]:
    """What a task says to some waveforms, as in its run's evaluation."""
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, wavs)
        return model.answer(x_BSF, tokens_B, limits_of(model, settings, wavs))


# ----------------------------------------------------------------------------
# Text that appears while it is decoded.


def stream_ids(
    use: Callable[[], SpeechLLM],
    settings: TaskSettings,
    wav_N: torch.Tensor,
    name: str,
) -> Iterator[int]:
    """Token ids of one piece of audio, as they are decoded."""
    model = use()
    limit = int(limits_of(model, settings, [wav_N])[0])
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, [wav_N])
        (spoken_SD,) = model.speech_embeddings(x_BSF, tokens_B)
    ids = answer_ids(model.decoder, model.prompt, spoken_SD, limit, name)
    while True:
        # Not around the yield: the caller's code is none of this precision's.
        with decoding(use(), settings):
            token = next(ids, None)
        if token is None:
            return
        yield token


def stream_text(
    ids: Iterable[int], decode: Callable[[list[int]], str]
) -> Iterator[str]:
    """Text of token ids, as far as it is certain, bit by bit."""
    known, text, shown = [], "", ""
    for token in ids:
        known.append(token)
        text = decode(known)
        if text.startswith(shown) and not text.endswith(HALF_LETTER):
            if text != shown:
                yield text[len(shown) :]
            shown = text
    if text != shown:
        yield text[len(os.path.commonprefix([text, shown])) :]


# ----------------------------------------------------------------------------
# What a transcription gives: text, its pieces in time, and what it cost.


@dataclass
class Piece:
    """A stretch of audio that was decoded at once."""

    start: float
    end: float
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0


@dataclass(repr=False)
class Transcript:
    """The text of one audio."""

    name: str
    task: str
    pieces: list[Piece] = field(default_factory=list)

    def __repr__(self) -> str:
        short = textwrap.shorten(self.text, 60, placeholder=" ...")
        return f"<Transcript of {self.name}, {self.audio_seconds:.1f} s: {short!r}>"

    @property
    def text(self) -> str:
        """All pieces' text, put together."""
        return " ".join(p.text for p in self.pieces if p.text)

    @property
    def tokens(self) -> int:
        """Tokens decoded."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def seconds(self) -> float:
        """Seconds that it took."""
        return sum(piece.seconds for piece in self.pieces)

    @property
    def audio_seconds(self) -> float:
        """Length of the audio in seconds."""
        return self.pieces[-1].end if self.pieces else 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        names = "name task text audio_seconds seconds tokens".split()
        found = {name: getattr(self, name) for name in names}
        return {**found, "pieces": [asdict(piece) for piece in self.pieces]}


# ----------------------------------------------------------------------------
# Many recordings, in batches.


def pieces_of(
    sound: Sound,
    model: SpeechLLM,
    settings: TaskSettings,
    piece_seconds: float | None = None,
    vad: bool = False,
) -> Iterator[Stretch]:
    """Start (samples) and waveform of each piece, and whether it is spoken."""
    encoder = model.encoder
    rate = encoder.sample_rate
    longest = int((piece_seconds or settings.piece_seconds) * rate)
    if encoder.max_samples and encoder.long_audio == "error":
        longest = min(longest, encoder.max_samples)
    # A cut leaves at least a quarter of the longest.
    if longest < 4 * encoder.core.min_samples:
        raise ValueError(
            f"piece_seconds: {piece_seconds}: too short for {encoder.name}: "
            f"give {5 * encoder.core.min_samples / rate:.2f} or more"
        )
    cut = pieces(sound.blocks(rate), rate, longest)
    least = encoder.core.min_samples
    for start, wav_N, spoken in stretches(cut, rate, least, vad):
        if spoken:
            encoder.check_length(len(wav_N), sound.name)
        yield start, wav_N, spoken


class Batching:
    """Transcribes recordings, one after the other, a batch at a time."""

    def __init__(
        self, model, settings, task, sounds, batch_size, raising, vad=False
    ):
        self.vad = vad
        self.model, self.settings = model, settings
        self.sounds, self.batch_size = sounds, batch_size
        self.raising = raising
        self.found = [Transcript(sound.name, task) for sound in sounds]
        # Recording's index, first sample and waveform of each piece.
        self.waiting = []

    def run(
        self, piece_seconds: float | None = None, progress: bool = False
    ) -> list[Transcript | ValueError]:
        """Transcribe all; an error in the place of what cannot be."""
        rate = self.model.encoder.sample_rate
        if self.vad:
            speech_finder()
        # All heads first: a file that is not there is told before long work.
        for index, sound in enumerate(self.sounds):
            self._guarded(index, sound.check, rate)
        bar = tqdm(self.sounds, disable=not progress, unit="file", leave=False)
        for index, sound in enumerate(bar):
            self._guarded(index, self._queue, index, sound, piece_seconds)
        self._decode_waiting()
        for one in self.found:
            if isinstance(one, Transcript):
                one.pieces.sort(key=lambda piece: piece.start)
        return self.found

    def _guarded(self, index, call, *arguments):
        """Do something for a recording, unless it has failed already."""
        if not isinstance(self.found[index], Transcript):
            return
        try:
            call(*arguments)
        except ValueError as error:
            if self.raising:
                raise
            self.found[index] = error
            self.waiting = [one for one in self.waiting if one[0] != index]

    def _queue(self, index, sound, piece_seconds):
        """Put a recording's pieces in the queue; decode when it is full."""
        cut = pieces_of(
            sound, self.model, self.settings, piece_seconds, self.vad
        )
        rate = self.model.encoder.sample_rate
        for start, wav_N, spoken in cut:
            if not spoken:
                ends = (start + len(wav_N)) / rate
                self.found[index].pieces.append(Piece(start / rate, ends))
                continue
            self.waiting.append((index, start, wav_N))
            if len(self.waiting) >= self.batch_size * BATCHES_TOGETHER:
                self._decode_waiting()

    def _decode_waiting(self):
        order = sorted(self.waiting, key=lambda one: -len(one[2]))
        self.waiting = []
        for first in range(0, len(order), self.batch_size):
            self._decode(order[first : first + self.batch_size])

    def _decode(self, batch):
        """Decode a batch into the transcripts of its pieces."""
        began = time.monotonic()
        wavs = [wav_N for _, _, wav_N in batch]
        answers = answer_wavs(self.model, self.settings, wavs)
        each = (time.monotonic() - began) / sum(map(len, wavs))
        rate = self.model.encoder.sample_rate
        for (index, start, wav_N), said in zip(batch, answers, strict=True):
            piece = Piece(
                start / rate,
                (start + len(wav_N)) / rate,
                said.text,
                len(said.ids),
                each * len(wav_N),
            )
            self._guarded(index, self._keep, index, piece, said.finite)

    def _keep(self, index, piece, finite):
        """Add a piece to its recording's transcript."""
        if not finite:
            what = f"what is computed from {piece.start:.1f} s on"
            raise AudioError(no_numbers([self.sounds[index].name], what))
        self.found[index].pieces.append(piece)
