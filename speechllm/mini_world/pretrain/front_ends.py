"""The mini encoders: real architectures, few parameters, from a waveform on."""

from __future__ import annotations

import torch
from transformers import (
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

from speechbrain_ext.model.whisper_core import encode
from speechllm.mini_world.corpus.speech import SAMPLE_RATE

WIDTH = 128


class WavLMFrontEnd(torch.nn.Module):
    """A small WavLM that reads waveforms."""

    def __init__(self):
        super().__init__()
        self.extractor = Wav2Vec2FeatureExtractor(
            sampling_rate=SAMPLE_RATE,
            do_normalize=True,
            return_attention_mask=True,
        )
        self.model = WavLMModel(
            WavLMConfig(
                vocab_size=32,
                hidden_size=WIDTH,
                num_hidden_layers=4,
                num_attention_heads=4,
                intermediate_size=3 * WIDTH,
                conv_dim=(160, 128),
                conv_kernel=(400, 3),
                conv_stride=(160, 2),
                conv_bias=True,
                feat_extract_norm="layer",
                do_stable_layer_norm=True,
                num_conv_pos_embeddings=32,
                num_conv_pos_embedding_groups=16,
                num_buckets=64,
                max_bucket_distance=200,
                hidden_dropout=0.0,
                activation_dropout=0.0,
                attention_dropout=0.0,
                feat_proj_dropout=0.0,
                layerdrop=0.0,
                apply_spec_augment=False,
            )
        )

    def forward(self, wavs: list) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a batch."""
        inputs = self.extractor(
            list(wavs),
            sampling_rate=SAMPLE_RATE,
            padding=True,
            return_tensors="pt",
        )
        features = self.model(
            inputs.input_values.float(), inputs.attention_mask
        ).last_hidden_state
        samples = inputs.attention_mask.sum(1)
        frames = self.model._get_feat_extract_output_lengths(samples)
        return features, frames


class WhisperFrontEnd(torch.nn.Module):
    """A small Whisper encoder that reads log-mel spectrograms."""

    SECONDS = 8

    def __init__(self):
        super().__init__()
        self.extractor = WhisperFeatureExtractor(
            feature_size=80,
            chunk_length=self.SECONDS,
            return_attention_mask=True,
        )
        self.model = WhisperModel(
            WhisperConfig(
                vocab_size=8,
                num_mel_bins=80,
                d_model=WIDTH,
                encoder_layers=4,
                encoder_attention_heads=4,
                encoder_ffn_dim=3 * WIDTH,
                decoder_layers=1,
                decoder_attention_heads=1,
                decoder_ffn_dim=8,
                max_source_positions=50 * self.SECONDS,
                max_target_positions=8,
                pad_token_id=0,
                bos_token_id=0,
                eos_token_id=0,
                decoder_start_token_id=0,
                suppress_tokens=None,
                begin_suppress_tokens=None,
            )
        )

    def forward(self, wavs: list) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of a batch; see ``WavLMFrontEnd.forward``."""
        longest = -(-max(map(len, wavs)) // 320)
        inputs = self.extractor(
            list(wavs),
            sampling_rate=SAMPLE_RATE,
            padding="max_length",
            max_length=320 * self._kept(longest),
            return_attention_mask=True,
            return_tensors="pt",
        )
        frames = (inputs.attention_mask.sum(1) + 1) // 2
        return encode(self.model.encoder, inputs.input_features), frames

    def _kept(self, longest):
        """Frames to encode: all of them, but in training seldom so many."""
        total = self.model.config.max_source_positions
        if not self.training:
            return total
        share = torch.rand(()).item() ** 8
        return longest + round(share * (total - longest))


FRONT_ENDS = {"wavlm": WavLMFrontEnd, "whisper": WhisperFrontEnd}
