"""The same encoders, sooner: what transformers does in more steps than needed."""

from __future__ import annotations

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


def faster(model):
    """The same model, with both."""
    return use_channels_last(use_fused_attention(model))
