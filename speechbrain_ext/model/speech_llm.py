"""SLAM: encoder -> frame concatenation -> projector -> prompt -> decoder.

Shapes, everywhere in this package: B batch, N samples, T frames, S speech
tokens, Q sequence, E encoder width, F = k * E width of k concatenated frames,
D decoder width, V vocabulary, L layers. Tensor names carry them: `wav_BN`.

Paper, Section 2.1: a frozen encoder at 50 Hz, k consecutive frames joined, a
projector with one hidden layer, a frozen LLM; the sequence is speech, prompt,
target.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from speechbrain_ext.model.answers import Answer, answer
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder import SpeechEncoder, concatenate_frames
from speechbrain_ext.model.prompt import Prompt, assemble


class Projector(torch.nn.Module):
    """Linear, GELU, Linear: the MLP of the paper's Equation 1.

    Arguments
    ---------
    input_width : int
        F, k times the encoder's width.
    output_width : int
        D, the decoder's width.
    hidden_width : int or None
        Width of the hidden layer; None: the decoder's.
    dropout : float
        Share of the hidden layer that training leaves out.
    """

    def __init__(
        self,
        input_width: int,
        output_width: int,
        hidden_width: int | None = None,
        dropout: float = 0.0,
    ):
        super().__init__()
        hidden_width = hidden_width or output_width
        self.dropout = torch.nn.Dropout(dropout)
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(input_width, hidden_width),
            torch.nn.GELU(),
            torch.nn.Linear(hidden_width, output_width),
        )

    def forward(self, x_BSF: torch.Tensor) -> torch.Tensor:
        """Features of shape ``[B, S, F]`` to embeddings ``[B, S, D]``."""
        first, activation, last = self.layers
        return last(self.dropout(activation(first(x_BSF))))


class SpeechMarkers(torch.nn.Module):
    """Trained embeddings, D wide, that stand before and after the speech."""

    def __init__(self, width: int):
        super().__init__()
        self.start = torch.nn.Parameter(torch.randn(width) / width**0.5)
        self.end = torch.nn.Parameter(torch.randn(width) / width**0.5)

    def forward(self, x_SD: torch.Tensor) -> torch.Tensor:
        """One utterance's embeddings ``[S, D]`` to ``[S + 2, D]``."""
        return torch.cat([self.start[None], x_SD, self.end[None]])


class SpeechLLM(torch.nn.Module):
    """A speech LLM: what is frozen, what is trained, and how they are joined.

    Arguments
    ---------
    encoder : speechbrain_ext.model.encoder.SpeechEncoder or None
        Frozen; None where cached features are given instead of waveforms.
    projector : Projector
        From k concatenated frames to the decoder's width.
    decoder : speechbrain_ext.model.decoder.Decoder
        Whole or pruned.
    prompt : speechbrain_ext.model.prompt.Prompt
        What stands around the speech.
    downsampling : int
        k, frames that are joined to one speech token.
    markers : SpeechMarkers or None
        Trained embeddings around the speech.
    """

    def __init__(
        self,
        encoder: SpeechEncoder | None,
        projector: Projector,
        decoder: Decoder,
        prompt: Prompt,
        downsampling: int,
        markers: SpeechMarkers | None = None,
    ):
        super().__init__()
        # Not there where features come from a cache.
        self.encoder: Any = encoder
        self.projector = projector
        self.decoder = decoder
        self.prompt = prompt
        self.downsampling = downsampling
        self.markers = markers

    @torch.no_grad()
    def features(
        self, wav_BN: torch.Tensor, lengths_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The frozen part of the way in.

        Arguments
        ---------
        wav_BN : torch.Tensor
            Waveforms, padded on the right.
        lengths_B : torch.Tensor
            Samples of each (int64).

        Returns
        -------
        x_BSF : torch.Tensor
            k frames joined; zeros at padding.
        tokens_B : torch.Tensor
            Speech tokens of each utterance.
        """
        x_BTE, frames_B = self.encoder(wav_BN, lengths_B)
        return concatenate_frames(x_BTE, frames_B, self.downsampling)

    def features_of(
        self, wavs: list[torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`features` of waveforms ``[N]`` of any lengths, from any device."""
        lengths_B = torch.tensor([len(wav_N) for wav_N in wavs])
        wav_BN = pad_sequence(wavs, batch_first=True)
        return self.features(wav_BN.to(self.decoder.device), lengths_B)

    def speech_embeddings(
        self, x_BSF: torch.Tensor, tokens_B: torch.Tensor
    ) -> list[torch.Tensor]:
        """Features to projected speech, ``[S, D]`` for each utterance."""
        dtype = next(self.projector.parameters()).dtype
        x_BSD = self.projector(x_BSF.to(dtype))
        rows = [x[:n] for x, n in zip(x_BSD, tokens_B.tolist())]
        if self.markers is not None:
            rows = [self.markers(row) for row in rows]
        return rows

    def sequence(self, x_BSF, tokens_B, targets=None, side="right"):
        """Speech, prompt and (in training) target, assembled.

        Arguments
        ---------
        x_BSF : torch.Tensor
            Features.
        tokens_B : torch.Tensor
            Speech tokens of each utterance.
        targets : list of torch.Tensor or None
            Target ids of each, the end token last.
        side : str
            "right" or "left".

        Returns
        -------
        speechbrain_ext.model.prompt.Sequence
        """
        rows = self.speech_embeddings(x_BSF, tokens_B)
        return assemble(self.prompt, rows, self.decoder.embed, targets, side)

    def forward(
        self,
        x_BSF: torch.Tensor,
        tokens_B: torch.Tensor,
        targets: list[torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits ``[N, V]`` and labels ``[N]`` of N target tokens.

        They follow one another, utterance after utterance; arguments as
        `sequence` takes them.
        """
        return self.decoder.target_logits(
            self.sequence(x_BSF, tokens_B, targets)
        )

    @torch.no_grad()
    def answer(
        self,
        x_BSF: torch.Tensor,
        tokens_B: torch.Tensor,
        limits_B: torch.Tensor,
    ) -> list[Answer]:
        """What it says to each utterance's features; see `answer`."""
        speech = self.speech_embeddings(x_BSF, tokens_B)
        return answer(self.decoder, self.prompt, speech, limits_B)

    def transcribe(self, x_BSF, tokens_B, limits_B) -> list[str]:
        """The texts of `answer` alone."""
        return [one.text for one in self.answer(x_BSF, tokens_B, limits_B)]
