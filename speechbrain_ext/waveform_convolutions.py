"""Convolutions over the waveform, with the channels last in memory.

Each is followed by a norm over the channels. As transformers has it, the
tensor is copied to bring them last, for the norm, and back again, for the next
convolution. As two-dimensional convolutions of height 1 they read and write
channels last from the start, which on a GPU is their fast layout too.
"""

import torch.nn.functional as F
from torch import channels_last
from transformers.models.hubert.modeling_hubert import HubertLayerNormConvLayer
from transformers.models.wav2vec2.modeling_wav2vec2 import (
    Wav2Vec2LayerNormConvLayer,
)
from transformers.models.wavlm.modeling_wavlm import WavLMLayerNormConvLayer

DEVICES = ("cuda",)


class _ChannelsLast:
    """What takes the place of a layer's own forward."""

    def forward(self, hidden_states):
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
    """Let a waveform encoder's convolutions keep their channels last.

    Parameters, their names and the results stay what they are.

    Arguments
    ---------
    model : torch.nn.Module
        A WavLM, wav2vec 2.0 or HuBERT; others are left as they are.

    Returns
    -------
    torch.nn.Module
        The same model.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = use_channels_last(tiny_speech_llm().encoder.core.model)
    >>> isinstance(model.feature_extractor.conv_layers[0], _ChannelsLast)
    True
    """
    for module in model.modules():
        module.__class__ = CLASSES.get(type(module), type(module))
    return model
