"""Waveform to features, each utterance as if it were alone.

A frozen speech encoder (WavLM, wav2vec 2.0, HuBERT, or the encoder half of
Whisper) from the Hugging Face hub or a local folder. What an utterance's
features are does not depend on its neighbours in the batch, nor on how far it
is padded, nor on the caller's autocast: so features may be cached, batches may
be of any size, and scores may be compared.

transformers is used directly. SpeechBrain's wrappers normalise over the
padding, take Whisper's log-mel maximum over the batch and cut at 30 s in
silence, and a Brain puts them back into train mode each epoch, so that dropout
and layerdrop act on "frozen" features.

Shapes: B batch, P pieces, N samples, T frames, S speech tokens, E encoder
width.

Example
-------
>>> x_BTE = torch.ones(2, 5, 3)
>>> x_BSE, tokens_B = concatenate_frames(x_BTE, torch.tensor([5, 4]), k=2)
>>> x_BSE.shape, tokens_B.tolist()
(torch.Size([2, 3, 6]), [3, 2])
"""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

from speechbrain_ext.later import later
from speechbrain_ext.model.encoder_cores import EncoderCore, WaveformCore
from speechbrain_ext.model.encoder_load import (
    dtype_of,
    load_config,
    load_extractor,
    load_model,
    normalises,
)

# WavLM's attention mixes a boolean mask with a float bias, which is right but
# warned about.
warnings.filterwarnings(
    "ignore", message="Support for mismatched key_padding_mask"
)


class SpeechEncoder(torch.nn.Module):
    """A frozen speech encoder; built with `from_source`.

    Arguments
    ---------
    core : WaveformCore or WhisperCore
        The model itself.
    source, kind, revision : str
        Where it comes from, for messages and results.
    long_audio : str
        ``"error"`` or ``"chunk"``.
    max_seconds : float, optional
        The longest utterance (or chunk); by default the model's own limit.
    normalise_input : bool
        Bring each utterance's waveform to mean 0 and variance 1.
    output_norm : bool
        Layer-normalise each utterance's features over its own time and width.
    """

    def __init__(
        self,
        core: EncoderCore,
        source: str | Path,
        kind: str,
        revision: str | None = None,
        long_audio: str = "error",
        max_seconds: float | None = None,
        normalise_input: bool = False,
        output_norm: bool = False,
    ):
        super().__init__()
        self.core = core.requires_grad_(False).eval()
        self.source, self.kind, self.revision = str(source), kind, revision
        self.name = Path(self.source).name
        self.normalise_input, self.output_norm = normalise_input, output_norm
        self.sample_rate = core.sample_rate
        self.min_samples = core.min_samples
        self.width = core.width
        self.frame_rate = core.sample_rate / core.hop
        self.long_audio = long_audio
        self.max_samples = core.max_samples
        if max_seconds is not None:
            most = int(max_seconds * core.sample_rate)
            self.max_samples = min(most, core.max_samples or most)
        self._check_limits()

    @classmethod
    def from_source(
        cls,
        source: str | Path,
        kind: str | None = None,
        dtype: str | torch.dtype = "float32",
        device: str | torch.device = "cpu",
        revision: str | None = None,
        long_audio: str = "error",
        max_seconds: float | None = None,
        normalise_input: bool | None = None,
        output_norm: bool = False,
        window: str = "30s",
    ) -> SpeechEncoder:
        """Load an encoder from the hub or from a folder.

        Arguments
        ---------
        source : str
            Hub id, or a folder written by ``save_pretrained``. No code of the
            source is run. ``HF_HUB_OFFLINE=1`` is respected.
        kind : str, optional
            One of ``KINDS``; by default what the source says it is. Given, it
            must agree.
        dtype : str or torch.dtype
            Type of weights and features; weights are read straight into it.
        device : str or torch.device
            Where to put it.
        revision : str, optional
            Branch, tag or commit of a hub id.
        long_audio : str
            What to do with an utterance over the limit: ``"error"`` refuses
            it, ``"chunk"`` encodes pieces of the limit's length one by one
            and joins their features.
        max_seconds : float, optional
            The limit; Whisper has one of its own (30 s), the others none.
        normalise_input : bool, optional
            Waveform to mean 0, variance 1; by default what the source's
            ``preprocessor_config.json`` says.
        output_norm : bool
            Layer norm over an utterance's own features.
        window : str
            What Whisper is given of an utterance (or chunk) shorter than its
            window: ``"30s"``, as it was trained, the utterance and silence;
            ``"own"``, the utterance alone, many times faster and with other
            features. The others have no window.

        Returns
        -------
        SpeechEncoder
            In eval mode, without gradients.

        Raises
        ------
        FileNotFoundError, ValueError
            No such source, not a speech encoder, weights absent or of other
            shapes, or an option without meaning; with the mend.
        """
        config = load_config(source, revision, kind)
        dtype = dtype_of(dtype)
        if window != "30s" and config.model_type != "whisper":
            raise ValueError(
                f"window: {window}, but {source} is a {config.model_type} "
                "model, which always takes an utterance alone: leave it out"
            )
        model = load_model(source, config, dtype, revision)
        extractor = load_extractor(source, config, revision)
        core: EncoderCore
        if config.model_type == "whisper":
            whisper = later("model.whisper_core", f"speech_encoder: {source}")
            core = whisper.WhisperCore(model, extractor, window)
            normalise_input = bool(normalise_input)
        else:
            core = WaveformCore(model, extractor)
            if normalise_input is None:
                normalise_input = normalises(source, config, extractor)
        encoder = cls(
            core,
            source,
            config.model_type,
            revision,
            long_audio,
            max_seconds,
            normalise_input,
            output_norm,
        )
        return encoder.to(device)

    @classmethod
    def from_settings(
        cls,
        speech_encoder: dict,
        device: str | torch.device = "cpu",
        long_audio: str = "error",
    ) -> SpeechEncoder:
        """Load the encoder that a run's settings name, with its options."""
        options = {k: v for k, v in speech_encoder.items() if k != "name"}
        return cls.from_source(**options, device=device, long_audio=long_audio)

    def train(self, mode: bool = True) -> SpeechEncoder:
        """Stay in eval mode, whatever a training loop asks for."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self,
        wav_BN: torch.Tensor,
        lengths_B: torch.Tensor | list[int],
        names: list[str] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Encode a batch.

        Arguments
        ---------
        wav_BN : torch.Tensor
            Waveforms, padded on the right with anything.
        lengths_B : torch.Tensor or list of int
            True lengths in samples.
        names : list of str, optional
            What errors call the utterances; by default their rows.

        Returns
        -------
        x_BTE : torch.Tensor
            Features, zero past each utterance's end; T is the longest one's.
        frames_B : torch.Tensor
            True lengths in frames, int64, on the features' device.

        Raises
        ------
        ValueError
            An utterance too short, or too long where that is refused.
        """
        # One transfer where the lengths are on a GPU.
        lengths = torch.as_tensor(lengths_B).tolist()
        names = names or [
            f"row {row} of the batch" for row in range(len(lengths))
        ]
        for length, name in zip(lengths, names, strict=True):
            self.check_length(length, name)
        if max(lengths) > wav_BN.shape[1]:
            raise ValueError(
                f"lengths up to {max(lengths)} samples, but the batch has "
                f"{wav_BN.shape[1]}: give lengths in samples, not fractions"
            )
        # Autocast would make the features depend on who calls: the type is
        # the one the weights were loaded in.
        with torch.autocast(self.device.type, enabled=False):
            return self._encode(wav_BN.to(self.device).float(), lengths)

    def _encode(self, wav_BN, lengths):
        """Cut into pieces, encode these, join their features."""
        pieces = [self._pieces(length) for length in lengths]
        wav_PN = _cut_into_pieces(wav_BN, lengths, pieces, self.normalise_input)
        x_PTE = self.core(wav_PN, [size for row in pieces for size in row])
        counts = [[self.core.frames(size) for size in row] for row in pieces]
        x_BTE = _join_pieces(x_PTE, counts, self.output_norm)
        frames = [sum(row) for row in counts]
        # Left on the host: whoever reads them need not wait for the frames.
        return x_BTE, torch.tensor(frames)

    def frames(self, num_samples: int) -> int:
        """Exact number of frames for an utterance of so many samples."""
        return sum(self.core.frames(n) for n in self._pieces(num_samples))

    def work_samples(self, num_samples: int) -> int:
        """Samples really computed for one utterance: padded to the window."""
        return sum(self.core.padded(n) for n in self._pieces(num_samples))

    def check_length(self, num_samples: int, name: str) -> None:
        """Refuse an utterance that cannot be encoded; cheap, for early checks.

        Arguments
        ---------
        num_samples : int
            Its length.
        name : str
            Its id or file, for the message.

        Raises
        ------
        ValueError
            Shorter than one frame, or over the limit with
            ``long_audio="error"``.
        """
        if num_samples < self.min_samples:
            raise ValueError(
                f"{name}: {num_samples} samples, shorter than the "
                f"{self.min_samples} that one frame of {self.name} needs: "
                "leave the utterance out"
            )
        limit = self.max_samples
        if limit and num_samples > limit and self.long_audio == "error":
            seconds = num_samples / self.sample_rate
            most = limit / self.sample_rate
            raise ValueError(
                f"{name}: {seconds:.2f} s, but {self.name} takes at most "
                f"{most:.2f} s: leave the utterance out or set long_audio: "
                "chunk"
            )

    def _check_limits(self):
        """Refuse options that mean nothing together."""
        if self.long_audio not in ("error", "chunk"):
            raise ValueError(
                f"long_audio: {self.long_audio!r}: choose error or chunk"
            )
        limit, least = self.max_samples, self.min_samples
        if self.long_audio == "chunk" and limit is None:
            raise ValueError(
                f"long_audio: chunk, but {self.name} ({self.kind}) has no "
                "limit of its own: set max_seconds"
            )
        if limit is not None and limit < least:
            raise ValueError(
                f"max_seconds: {limit / self.sample_rate}, shorter than one "
                f"frame: choose at least {least / self.sample_rate}"
            )

    def _pieces(self, length):
        """Lengths of the pieces that an utterance is encoded in."""
        limit = self.max_samples
        if limit is None or length <= limit:
            return [length]
        whole, rest = divmod(length, limit)
        # A rest shorter than one frame has no features.
        return [limit] * whole + ([rest] if rest >= self.min_samples else [])

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.core.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of weights and features."""
        return next(self.core.parameters()).dtype

    def identity(self) -> dict:
        """Everything that decides the features, as plain data."""
        told = later("model.encoder_identity", "cache_features")
        return told.identity_of(self)


def _cut_into_pieces(wav_BN, lengths, pieces, normalise):
    """A batch of pieces from a batch of utterances."""
    sizes = [size for row in pieces for size in row]
    # Rows are copied into fresh zeros, so that nothing that stood in the
    # padding can be seen.
    wav_PN = wav_BN.new_zeros(len(sizes), max(sizes))
    index = 0
    for wav_N, length, row in zip(wav_BN, lengths, pieces, strict=True):
        wav_N = wav_N[:length]
        if normalise:
            variance, mean = torch.var_mean(wav_N, correction=0)
            wav_N = (wav_N - mean) * torch.rsqrt(variance + 1e-7)
        for size, piece_N in zip(row, wav_N.split(row[0]), strict=False):
            wav_PN[index, :size] = piece_N
            index += 1
    return wav_PN


def _join_pieces(x_PTE, counts, output_norm):
    """Each utterance's features from those of its pieces."""
    totals = [sum(row) for row in counts]
    x_BTE = x_PTE.new_zeros(len(counts), max(totals), x_PTE.shape[2])
    index = 0
    for x_TE, total, row in zip(x_BTE, totals, counts, strict=True):
        parts = [x_PTE[index + i, :n] for i, n in enumerate(row)]
        x_TE[:total] = torch.cat(parts)
        if output_norm:
            own = x_TE[:total].float()
            x_TE[:total] = F.layer_norm(own, own.shape).to(x_TE.dtype)
        index += len(row)
    return x_BTE


def concatenate_frames(
    x_BTE: torch.Tensor, frames_B: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Join every k frames into one speech token (FACTS: 50 Hz to 10 Hz).

    Arguments
    ---------
    x_BTE : torch.Tensor
        Features.
    frames_B : torch.Tensor
        True lengths in frames. What stands past them is not looked at.
    k : int
        Frames a token. A tail shorter than k is padded with zeros.

    Returns
    -------
    x_BSE : torch.Tensor
        Tokens of width k times E; S is T / k, rounded up.
    tokens_B : torch.Tensor
        True lengths in tokens: frames / k, rounded up.

    Raises
    ------
    ValueError
        If k is no number of frames.
    """
    if k < 1:
        raise ValueError(f"k: {k}: choose 1 or more frames a token")
    batch, total, width = x_BTE.shape
    tokens = -(-total // k)
    moved_B = frames_B.to(x_BTE.device, non_blocking=True)
    x_BTE = F.pad(x_BTE, (0, 0, 0, tokens * k - total))
    time_T = torch.arange(tokens * k, device=x_BTE.device)
    past_BT = time_T >= moved_B[:, None]
    x_BTE = x_BTE.masked_fill(past_BT[..., None], 0)
    return x_BTE.view(batch, tokens, k * width), (frames_B + k - 1) // k
