"""The inside of an encoder: from waveforms to its hidden states.

Each core knows its own true lengths, so that an utterance's features do not
depend on its padding or its neighbours. Whisper's is in ``whisper_core``.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from speechbrain_ext.later import later

# Rows are encoded together up to this many bytes of waveform, so that memory
# stays within bounds in batches of long utterances: on a GPU 4.4 minutes in
# 16 bit, on a CPU, which gains nothing from larger batches, 33 s in fp32.
MOST_BYTES = {"cuda": 2**23, "cpu": 2**21}


class EncoderCore(torch.nn.Module):
    """What every core tells of itself, in samples but for the width."""

    width: int
    sample_rate: int
    hop: int
    min_samples: int
    max_samples: int | None
    # Of what comes before the model, as plain data.
    preprocessing: dict | None
    # Whether it is given an utterance alone, and no silence after it.
    own: bool
    model: Any

    def frames(self, samples):
        """Frames of so many samples."""
        raise NotImplementedError

    def padded(self, samples):
        """Samples as the model is given them."""
        raise NotImplementedError


class WaveformCore(EncoderCore):
    """WavLM, wav2vec 2.0, HuBERT: convolutions over the waveform itself."""

    max_samples = None
    preprocessing = None
    own = True

    def __init__(self, model, extractor):
        super().__init__()
        config = model.config
        fast = later("model.encoder_fast")
        self.model = fast.faster(model) if fast else model
        self.width = config.hidden_size
        self.sample_rate = getattr(extractor, "sampling_rate", 16000)
        self.windows = list(
            zip(config.conv_kernel, config.conv_stride, strict=True)
        )
        self.hop = math.prod(config.conv_stride)
        self.min_samples = 1
        for kernel, stride in reversed(self.windows):
            self.min_samples = (self.min_samples - 1) * stride + kernel
        self.masked_norm = None
        if config.feat_extract_norm == "group":
            layer = model.feature_extractor.conv_layers[0]
            layer.layer_norm = _MaskedTimeNorm(layer.layer_norm)
            self.masked_norm = layer.layer_norm

    def frames(self, samples):
        """Frames of so many samples."""
        for kernel, stride in self.windows:
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)

    def padded(self, samples):
        """Samples as the model is given them."""
        return samples

    def forward(self, wav_BN, lengths):
        """The model's output for each row."""
        wav_BN = wav_BN.to(next(self.model.parameters()).dtype)
        most = MOST_BYTES.get(wav_BN.device.type, MOST_BYTES["cuda"])
        bytes_a_row = wav_BN.element_size() * wav_BN.shape[1]
        rows = max(1, most // bytes_a_row)
        # As few parts as fit, of even size.
        parts = -(-len(lengths) // rows)
        rows = -(-len(lengths) // parts)
        lengths_B = torch.tensor(lengths)
        lengths_B = lengths_B.to(wav_BN.device, non_blocking=True)
        padded = min(lengths) < wav_BN.shape[1]
        return torch.cat(
            [
                self._encode(*part, padded)
                for part in zip(wav_BN.split(rows), lengths_B.split(rows))
            ]
        )

    def _encode(self, wav_BN, lengths_B, padded):
        """Rows that are encoded together."""
        if self.masked_norm is not None:
            kernel, stride = self.windows[0]
            self.masked_norm.frames_B = (lengths_B - kernel) // stride + 1
        mask_BN = None
        if padded:
            time_N = torch.arange(wav_BN.shape[1], device=wav_BN.device)
            mask_BN = (time_N < lengths_B[:, None]).long()
        # With the mask the model zeroes frames past the end before its
        # positional convolution, and does not attend to them.
        return self.model(wav_BN, attention_mask=mask_BN).last_hidden_state


# The "group" feature extractors (WavLM Base, wav2vec 2.0 Base, HuBERT Base)
# normalise each channel over time; the original counts the padding in.
class _MaskedTimeNorm(torch.nn.Module):
    """GroupNorm with a group per channel, over an utterance's own frames."""

    def __init__(self, norm):
        super().__init__()
        assert norm.num_groups == norm.num_channels
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.frames_B = None

    def forward(self, x_BCT):
        """Norm each channel over the row's real frames."""
        frames_B11 = self.frames_B[:, None, None]
        time_T = torch.arange(x_BCT.shape[-1], device=x_BCT.device)
        past_B1T = time_T >= frames_B11
        values = x_BCT.float().masked_fill(past_B1T, 0)
        mean = values.sum(-1, keepdim=True) / frames_B11
        values = (values - mean).masked_fill_(past_B1T, 0)
        variance = values.square().sum(-1, keepdim=True) / frames_B11
        values = values * torch.rsqrt(variance + self.eps)
        scale, shift = self.weight[:, None], self.bias[:, None]
        return (values * scale + shift).to(x_BCT.dtype)
