"""Pieces of many recordings, decoded in batches of similar length.

Authors
 * The speechbrain_ext authors, 2026
"""

import time

from tqdm import tqdm

from speechbrain_ext.inference.results import Piece, Transcript
from speechbrain_ext.inference.running import (
    decoding,
    features_of,
    limits_of,
)
from speechbrain_ext.inference.splitting import pieces

# Batches that are sorted by length together: little padding, and the pieces
# of many hours are never in memory at once.
BATCHES_TOGETHER = 8


def pieces_of(sound, model, settings, piece_seconds=None):
    """Start (samples) and waveform of each piece of an audio.

    Arguments
    ---------
    sound : speechbrain_ext.inference.sound.Sound
        The audio, checked.
    model : speechbrain_ext.model.SpeechLLM
        The task's.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    piece_seconds : float or None
        Longest piece; None: the task's.

    Yields
    ------
    start : int
    wav_N : torch.Tensor
    """
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
    """Transcribes recordings, one after the other, a batch at a time.

    Arguments
    ---------
    model : speechbrain_ext.model.SpeechLLM
        The task's, its adapter switched on.
    settings : speechbrain_ext.export.layout.TaskSettings
        The task's.
    task : str
        Its name.
    sounds : list of Sound
        The recordings.
    batch_size : int
        Pieces that are decoded together.
    raising : bool
        Stop at a recording that cannot be read; otherwise its error stands
        in the place of its transcript.
    """

    def __init__(self, model, settings, task, sounds, batch_size, raising):
        self.model, self.settings = model, settings
        self.sounds, self.batch_size = sounds, batch_size
        self.raising = raising
        self.found = [Transcript(sound.name, task) for sound in sounds]
        self.waiting = []

    def run(self, piece_seconds=None, progress=False):
        """Transcribe all.

        Arguments
        ---------
        piece_seconds : float or None
            Longest piece; None: the task's.
        progress : bool
            Show a bar.

        Returns
        -------
        list of Transcript
            Or of an error, for a recording that cannot be read.
        """
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
