"""The inside of an encoder: from waveforms to its hidden states.

Each core knows its own true lengths, so that an utterance's features do not
depend on its padding or its neighbours. Whisper's is in ``whisper_core``.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import channels_last
from transformers.models.hubert.modeling_hubert import HubertLayerNormConvLayer
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2LayerNormConvLayer,
)
from transformers.models.wavlm.modeling_wavlm import (
    WavLMAttention,
    WavLMLayerNormConvLayer,
)

# ----------------------------------------------------------------------------
# WavLM's attention without tensors the size of batch x heads x T x T.
#
# transformers repeats the relative position bias for each utterance, keeps it
# through all layers, and holds the gated bias, the masked bias, the scores and
# their softmax beside it: five such tensors at once. Here the bias is kept once
# for all utterances, and torch's fused attention takes the gated bias as its
# mask: one such tensor, for the time of one layer.
#
# Shapes: B batch, T frames, H heads, E width, D a head's width.

# Fused kernels copy a mask whose rows do not begin at multiples of this.
ALIGNED = 8


def use_fused_attention(model):
    """Let a WavLM's layers attend through torch's fused attention."""
    for module in model.modules():
        if type(module) is WavLMAttention:
            module.__class__ = FusedWavLMAttention
    return model


class FusedWavLMAttention(WavLMAttention):
    """`WavLMAttention` with the same parameters and results."""

    def forward(
        self,
        hidden_states,
        attention_mask=None,
        position_bias=None,
        index=0,
        **kwargs,
    ):
        """Attend; gives the output, no weights, and the bias of all pairs."""
        if position_bias is None:
            position_bias = self._bias(hidden_states.shape[1])
        attended_BHTD = F.scaled_dot_product_attention(
            *(
                self._heads(projection(hidden_states))
                for projection in (self.q_proj, self.k_proj, self.v_proj)
            ),
            attn_mask=self._mask(hidden_states, position_bias, attention_mask),
            dropout_p=self.dropout if self.training else 0.0,
        )
        x_BTE = attended_BHTD.transpose(1, 2).flatten(2)
        return self.out_proj(x_BTE), None, position_bias

    def _heads(self, x_BTE):
        """``[B, T, E]`` to ``[B, H, T, D]``."""
        return x_BTE.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _bias(self, frames):
        """The bias of each pair of frames, rows rounded up to aligned ones."""
        # It depends on the distance alone: one row of all distances, from
        # which each frame reads a stretch.
        device = self.rel_attn_embed.weight.device
        distances_R = torch.arange(1 - frames, frames, device=device)
        buckets_R = self._relative_positions_bucket(distances_R)
        values_HR = self.rel_attn_embed(buckets_R).T
        room = -frames % ALIGNED
        stretches_HTT = F.pad(values_HR, (0, room)).unfold(-1, frames + room, 1)
        return stretches_HTT.flip(1).contiguous()

    def _mask(self, x_BTE, bias_HTT, real_BT):
        """What is added to the scores: gated bias, and -inf at padding."""
        gates_BHT8 = self.gru_rel_pos_linear(self._heads(x_BTE))
        gates_BHT2 = gates_BHT8.unflatten(-1, (2, 4)).sum(-1)
        a_BHT1, b_BHT1 = torch.sigmoid(gates_BHT2).chunk(2, dim=-1)
        gate_BHT1 = a_BHT1 * (b_BHT1 * self.gru_rel_pos_const - 1.0) + 2.0
        frames, aligned = bias_HTT.shape[1:]
        if real_BT is None:
            return (gate_BHT1 * bias_HTT)[..., :frames]
        padding_BT = torch.zeros_like(real_BT, dtype=bias_HTT.dtype)
        padding_BT = padding_BT.masked_fill(real_BT.ne(1), -torch.inf)
        padding_BT = F.pad(padding_BT, (0, aligned - frames))
        return torch.addcmul(padding_BT[:, None, None], gate_BHT1, bias_HTT)[
            ..., :frames
        ]


# ----------------------------------------------------------------------------
# Convolutions over the waveform, with the channels last in memory.
#
# Each is followed by a norm over the channels. As transformers has it, the
# tensor is copied to bring them last, for the norm, and back again, for the next
# convolution. As two-dimensional convolutions of height 1 they read and write
# channels last from the start, which on a GPU is their fast layout too.

DEVICES = ("cuda",)


class _ChannelsLast:
    """A convolution whose channels stand last."""

    def forward(self, hidden_states):
        """The same convolution."""
        if hidden_states.device.type not in DEVICES:
            return super().forward(hidden_states)
        x_BCT = F.conv2d(
            hidden_states[:, :, None].contiguous(memory_format=channels_last),
            self.conv.weight[:, :, None].contiguous(
                memory_format=channels_last
            ),
            self.conv.bias,
            stride=(1, *self.conv.stride),
        )[:, :, 0]
        x_BTC = self.layer_norm(x_BCT.transpose(1, 2))
        return self.activation(x_BTC).transpose(1, 2)


CLASSES = {
    known: type(known.__name__, (_ChannelsLast, known), {})
    for known in (
        WavLMLayerNormConvLayer,
        Wav2Vec2LayerNormConvLayer,
        HubertLayerNormConvLayer,
    )
}


def use_channels_last(model):
    """Let a waveform encoder's convolutions keep their channels last."""
    for module in model.modules():
        module.__class__ = CLASSES.get(type(module), type(module))
    return model


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
        self.model = use_channels_last(use_fused_attention(model))
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
