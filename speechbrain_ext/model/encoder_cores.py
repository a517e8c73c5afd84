"""The inside of an encoder, by kind: from waveforms to its hidden states.

Each core knows its own true lengths, so that an utterance's features do not
depend on its padding or its neighbours.
"""

import math

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


class WaveformCore(torch.nn.Module):
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


# How much Whisper's encoder is given of a short clip.
WINDOWS = ("30s", "own")


class WhisperCore(torch.nn.Module):
    """Whisper's encoder on log-mel features.

    With the window ``"30s"`` as it was trained: the waveform is padded with
    silence to the full window, and the encoder attends to all of it; the frames
    that cover the utterance are kept. With ``"own"`` it is given these frames
    alone, at the first positions.
    """

    min_samples = 1

    def __init__(self, model, extractor, window="30s"):
        super().__init__()
        if window not in WINDOWS:
            raise ValueError(f"window: {window!r}: choose 30s or own")
        self.own = window == "own"
        config = model.config
        self.model = model
        self.width = config.d_model
        self.sample_rate = extractor.sampling_rate
        self.n_fft, self.mel_hop = extractor.n_fft, extractor.hop_length
        # The second convolution halves the rate.
        self.hop = 2 * self.mel_hop
        self.max_samples = config.max_source_positions * self.hop
        self.preprocessing = {"n_fft": self.n_fft, "hop": self.mel_hop}
        filters = torch.tensor(extractor.mel_filters.T, dtype=torch.float32)
        window = torch.hann_window(self.n_fft)
        self.register_buffer("filters_MF", filters, persistent=False)
        self.register_buffer("window", window, persistent=False)

    def frames(self, samples):
        """Frames of so many samples."""
        return -(-samples // self.hop)

    def padded(self, samples):
        """Samples as the model is given them."""
        return self.frames(samples) * self.hop if self.own else self.max_samples

    def log_mel(self, wav_BN, samples=None):
        """[B, mel bins, frames]; the ceiling is each utterance's own."""
        samples = samples or self.max_samples
        wav_BN = F.pad(wav_BN, (0, samples - wav_BN.shape[1]))
        spectrum = torch.stft(
            wav_BN,
            self.n_fft,
            self.mel_hop,
            window=self.window,
            return_complex=True,
        )
        power = spectrum[..., :-1].abs().square()
        log_mel = (self.filters_MF @ power).clamp(min=1e-10).log10()
        ceiling_B11 = log_mel.amax(dim=(1, 2), keepdim=True)
        return (torch.maximum(log_mel, ceiling_B11 - 8.0) + 4.0) / 4.0

    def forward(self, wav_BN, lengths):
        """The model's output for each row."""
        frames = self.frames(max(lengths))
        if not self.own:
            mel = self.log_mel(wav_BN).to(self.dtype)
            return self.model(mel).last_hidden_state[:, :frames]
        # Silence follows, as it does in the full window: more than what the
        # last frame sees of it, which would else be a mirror image.
        room = -(-self.n_fft // self.hop) * self.hop
        samples = min(frames * self.hop + room, self.max_samples)
        mel_BMT = self.log_mel(wav_BN, samples)[..., : 2 * frames]
        own = [self.frames(n) for n in lengths]
        mask_B11T = None
        if min(own) < frames:
            past_BT = torch.arange(frames) >= torch.tensor(own)[:, None]
            past_B1T = past_BT[:, None].to(wav_BN.device, non_blocking=True)
            # As at the batch's end, where the first convolution is given
            # zeros, which are no silence. The second looks no further ahead.
            past_B1M = past_B1T.repeat_interleave(2, -1)
            mel_BMT = mel_BMT.masked_fill(past_B1M, 0)
            mask_B11T = torch.zeros_like(past_B1T, dtype=self.dtype)[:, None]
            least = torch.finfo(self.dtype).min
            mask_B11T = mask_B11T.masked_fill(past_B1T[:, None], least)
        return self._encode(mel_BMT.to(self.dtype), mask_B11T)

    def _encode(self, mel_BMT, mask_B11T):
        """`WhisperEncoder.forward`, which takes full windows and no mask."""
        model = self.model
        x_BET = F.gelu(model.conv1(mel_BMT))
        x_BTE = F.gelu(model.conv2(x_BET)).mT
        x_BTE = x_BTE + model.embed_positions.weight[: x_BTE.shape[1]]
        for layer in model.layers:
            x_BTE = layer(x_BTE, mask_B11T)
        return model.layer_norm(x_BTE)

    @property
    def dtype(self):
        """Type of the weights."""
        return next(self.model.parameters()).dtype
