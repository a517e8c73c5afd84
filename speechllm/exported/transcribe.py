"""Pieces of many recordings, decoded in batches of similar length."""

import contextlib
import os
import time
from dataclasses import asdict, dataclass, field

import torch
from tqdm import tqdm

from speechbrain_ext.model.decoding import Steps
from speechllm.exported.audio import pieces

# ----------------------------------------------------------------------------
# How a task's audio goes through its model, as in its recipe's evaluation.

AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


@contextlib.contextmanager
def decoding(model, settings):
    """Eval mode, no gradients, and the precision that was evaluated with."""
    dtype = AUTOCAST.get(settings.precision)
    model.eval()
    with (
        torch.no_grad(),
        torch.autocast(
            model.decoder.device.type, dtype=dtype, enabled=dtype is not None
        ),
    ):
        yield


def features_of(model, settings, wavs):
    """Features of some waveforms, as the task's projector knows them."""
    wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    lengths_B = torch.tensor([len(wav) for wav in wavs])
    x_BSF, tokens_B = model.features(wav_BN.to(model.decoder.device), lengths_B)
    if settings.features_dtype:
        # A training that kept its features on disk kept them in this type.
        half = getattr(torch, settings.features_dtype)
        x_BSF = x_BSF.to(half).to(x_BSF.dtype)
    return x_BSF, tokens_B


def limits_of(settings, seconds):
    """Most tokens that each answer may have (int64, ``[B]``)."""
    limits = torch.tensor(seconds, dtype=torch.float64)
    limits = (limits * settings.max_tokens_per_second).ceil().long()
    return limits.clamp(min=min(8, settings.max_new_tokens)).clamp(
        max=settings.max_new_tokens
    )


# ----------------------------------------------------------------------------
# Text that appears while it is decoded.

# What a tokenizer writes for the first bytes of a letter.
HALF_LETTER = "\ufffd"


def stream_tokens(use, settings, wav_N):
    """Token ids of one piece of audio, as they are decoded."""
    model = use()
    seconds = len(wav_N) / model.encoder.sample_rate
    with decoding(model, settings):
        x_BSF, tokens_B = features_of(model, settings, [wav_N])
        sequence = model.sequence(x_BSF, tokens_B, side="left")
    steps = Steps(model.decoder.lm, sequence)
    stops = set(model.decoder.stop_ids)
    for _ in range(int(limits_of(settings, [seconds])[0])):
        # Not around the yield: the caller's code is none of this precision's.
        with decoding(use(), settings):
            token_B = steps.next_token()
            steps.feed(token_B)
        if int(token_B) in stops:
            return
        yield int(token_B)


def stream_text(ids, decode):
    """Text of token ids, as far as it is certain, bit by bit."""
    known, told = [], ""
    for token in ids:
        known.append(token)
        text = decode(known)
        if text.startswith(told) and not text.endswith(HALF_LETTER):
            if text != told:
                yield text[len(told) :]
            told = text
    text = decode(known)
    if text != told:
        yield text[len(os.path.commonprefix([text, told])) :]


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


@dataclass
class Transcript:
    """The text of one audio."""

    name: str
    task: str
    pieces: list = field(default_factory=list)

    @property
    def text(self):
        """All pieces' text, put together (str)."""
        return " ".join(p.text for p in self.pieces if p.text)

    @property
    def tokens(self):
        """Tokens decoded (int)."""
        return sum(piece.tokens for piece in self.pieces)

    @property
    def seconds(self):
        """Seconds that it took (float)."""
        return sum(piece.seconds for piece in self.pieces)

    @property
    def audio_seconds(self):
        """Length of the audio in seconds (float)."""
        return self.pieces[-1].end if self.pieces else 0.0

    def as_dict(self):
        """Plain values, for JSON (dict)."""
        return {
            "name": self.name,
            "task": self.task,
            "text": self.text,
            "audio_seconds": self.audio_seconds,
            "seconds": self.seconds,
            "tokens": self.tokens,
            "pieces": [asdict(piece) for piece in self.pieces],
        }


# Batches that are sorted by length together: little padding, and the pieces
# of many hours are never in memory at once.
BATCHES_TOGETHER = 8


def pieces_of(sound, model, settings, piece_seconds=None):
    """Start (samples) and waveform of each piece of an audio."""
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
    for start, wav_N in pieces(sound.blocks(rate), rate, longest):
        encoder.check_length(len(wav_N), sound.name)
        yield start, wav_N


class Batching:
    """Transcribes recordings, one after the other, a batch at a time."""

    def __init__(self, model, settings, task, sounds, batch_size, raising):
        self.model, self.settings = model, settings
        self.sounds, self.batch_size = sounds, batch_size
        self.raising = raising
        self.found = [Transcript(sound.name, task) for sound in sounds]
        self.waiting = []

    def run(self, piece_seconds=None, progress=False):
        """Transcribe all."""
        rate = self.model.encoder.sample_rate
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
        for piece in pieces_of(sound, self.model, self.settings, piece_seconds):
            self.waiting.append((index, *piece))
            if len(self.waiting) >= self.batch_size * BATCHES_TOGETHER:
                self._decode_waiting()

    def _decode_waiting(self):
        order = sorted(self.waiting, key=lambda one: -len(one[2]))
        self.waiting = []
        for first in range(0, len(order), self.batch_size):
            self._decode(order[first : first + self.batch_size])

    def _decode(self, batch):
        """Decode a batch into the transcripts of its pieces."""
        model, settings = self.model, self.settings
        rate = model.encoder.sample_rate
        began = time.monotonic()
        wavs = [wav_N for _, _, wav_N in batch]
        lengths = [len(wav_N) / rate for wav_N in wavs]
        with decoding(model, settings):
            x_BSF, tokens_B = features_of(model, settings, wavs)
            sequence = model.sequence(x_BSF, tokens_B, side="left")
            limits_B = limits_of(settings, lengths)
            answers = model.decoder.greedy(sequence, limits_B)
        spent = time.monotonic() - began
        for (index, start, _), length, ids in zip(
            batch, lengths, answers, strict=True
        ):
            piece = Piece(
                start / rate,
                (start + round(length * rate)) / rate,
                model.prompt.decode(ids),
                len(ids),
                spent * length / sum(lengths),
            )
            self.found[index].pieces.append(piece)
