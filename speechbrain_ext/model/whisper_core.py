"""Whisper's encoder: log-mel features, a window of 30 s or an utterance alone."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from speechbrain_ext.model.encoder_cores import EncoderCore

# How much Whisper's encoder is given of a short clip.
WINDOWS = ("30s", "own")


class WhisperCore(EncoderCore):
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
        return encode(self.model, mel_BMT.to(self.dtype), mask_B11T)

    @property
    def dtype(self):
        """Type of the weights."""
        return next(self.model.parameters()).dtype


def encode(model, mel_BMT, mask_B11T=None):
    """`WhisperEncoder.forward`, which takes full windows and no mask."""
    x_BET = F.gelu(model.conv1(mel_BMT))
    x_BTE = F.gelu(model.conv2(x_BET)).mT
    x_BTE = x_BTE + model.embed_positions.weight[: x_BTE.shape[1]]
    for layer in model.layers:
        x_BTE = layer(x_BTE, mask_B11T)
    return model.layer_norm(x_BTE)
