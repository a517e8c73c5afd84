"""The inside of an encoder, by kind: from waveforms to its hidden states.

Each core knows its own true lengths, so that an utterance's features do not
depend on its padding or its neighbours.

Authors
-------
 * The speechbrain_ext authors, 2026
"""

import math

import torch
import torch.nn.functional as F

from speechbrain_ext.waveform_convolutions import use_channels_last
from speechbrain_ext.wavlm_attention import use_fused_attention

# Rows are encoded together up to this many bytes of waveform, so that memory
# stays within bounds in batches of long utterances: on a GPU 4.4 minutes in
# 16 bit, on a CPU, which gains nothing from larger batches, 33 s in fp32.
MOST_BYTES = {"cuda": 2**23, "cpu": 2**21}


class WaveformCore(torch.nn.Module):
    """WavLM, wav2vec 2.0, HuBERT: convolutions over the waveform itself.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> tiny_speech_llm().encoder.core.frames(16000)
    48
    """

    max_samples = None
    preprocessing = None

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
        for kernel, stride in self.windows:
            samples = (samples - kernel) // stride + 1
        return max(samples, 0)

    def padded(self, samples):
        return samples

    def forward(self, wav_BN, lengths):
        wav_BN = wav_BN.to(next(self.model.parameters()).dtype)
        most = MOST_BYTES.get(wav_BN.device.type, MOST_BYTES["cuda"])
        bytes_a_row = wav_BN.element_size() * wav_BN.shape[1]
        rows = max(1, most // bytes_a_row)
        # As few parts as fit, of even size.
        parts = -(-len(lengths) // rows)
        rows = -(-len(lengths) // parts)
        lengths_B = torch.tensor(lengths, device=wav_BN.device)
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


class _MaskedTimeNorm(torch.nn.Module):
    """GroupNorm with a group per channel, over an utterance's own frames.

    The "group" feature extractors (WavLM Base, wav2vec 2.0 Base, HuBERT Base)
    normalise each channel over time; the original counts the padding in.
    """

    def __init__(self, norm):
        super().__init__()
        assert norm.num_groups == norm.num_channels
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        self.frames_B = None

    def forward(self, x_BCT):
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


class WhisperCore(torch.nn.Module):
    """Whisper's encoder on log-mel features.

    As it was trained: the waveform is padded with silence to the full window
    (30 s) and the encoder attends to all of it. Only the frames that cover
    the utterance are kept.

    Example
    -------
    >>> from speechbrain_ext.encoder import SpeechEncoder
    >>> from speechbrain_ext.tiny_models import tiny_encoder
    >>> source = tiny_encoder(kind="whisper")
    >>> SpeechEncoder.from_source(source, "whisper").core.frames(16000)
    50
    """

    min_samples = 1

    def __init__(self, model, extractor):
        super().__init__()
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
        return -(-samples // self.hop)

    def padded(self, samples):
        return self.max_samples

    def log_mel(self, wav_BN):
        """[B, mel bins, frames]; the ceiling is each utterance's own."""
        wav_BN = F.pad(wav_BN, (0, self.max_samples - wav_BN.shape[1]))
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
        mel = self.log_mel(wav_BN).to(next(self.model.parameters()).dtype)
        x_BTE = self.model(mel).last_hidden_state
        return x_BTE[:, : self.frames(max(lengths))]
