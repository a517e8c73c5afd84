"""Whisper's encoder on the clip alone, beside the same in its 30 s window.

With SPEECHLLM_REAL, a folder of real models and recordings, also OpenAI's
Whisper-base on LibriSpeech, and how much its features differ.
"""

import functools
import os
from pathlib import Path

from benchmarks.common import script, timed

import torch  # isort: skip
from transformers import WhisperConfig, WhisperFeatureExtractor
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from benchmarks.models import SAMPLE_RATE, noise
from speechbrain_ext.data.audio import audio_info, read_utterance
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.whisper_core import WINDOWS, WhisperCore

SIZES = {
    # Whisper-base.
    "full": dict(
        layers=6, width=512, heads=8, window=30, rows=4, seconds=5, clips=12
    ),
    "tiny": dict(
        layers=1, width=32, heads=2, window=2, rows=2, seconds=1, clips=2
    ),
}
# Clips between these lengths (seconds) stand for those of 5 s.
NEAR = 4.0, 6.0


def random_encoders(sizes):
    """The same random Whisper with its own windows, and with whole ones."""
    torch.manual_seed(0)
    config = WhisperConfig(
        d_model=sizes["width"],
        encoder_layers=sizes["layers"],
        encoder_attention_heads=sizes["heads"],
        encoder_ffn_dim=4 * sizes["width"],
        max_source_positions=50 * sizes["window"],
        init_std=0.05,
    )
    model, extractor = WhisperEncoder(config).eval(), WhisperFeatureExtractor()
    return [
        SpeechEncoder(WhisperCore(model, extractor, w), "random", "whisper")
        for w in reversed(WINDOWS)
    ]


def real_encoders():
    """OpenAI's Whisper-base, in the same order; none without its folder."""
    source = os.path.join(
        os.environ.get("SPEECHLLM_REAL", ""), "models", "whisper-base-encoder"
    )
    if not os.path.isdir(source):
        return []
    return [SpeechEncoder.from_source(source, window=w) for w in ("own", "30s")]


def real_clips(count):
    """The first recordings of LibriSpeech's test-other of about 5 s."""
    folder = Path(os.environ["SPEECHLLM_REAL"], "LibriSpeech", "test-other")
    files = sorted(folder.rglob("*.flac"))
    near = [f for f in files if NEAR[0] <= audio_info(f).seconds <= NEAR[1]]
    return [read_utterance(file) for file in near[:count]]


def batch_of(wavs):
    """Waveforms padded, and their lengths."""
    wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    return wav_BN, [len(wav_N) for wav_N in wavs]


def check(sizes):
    """One encoder: a clip as long as the window has the same features.

    And the frames of shorter ones are as many, and not the same.
    """
    own, whole = random_encoders(sizes)
    full = 0.1 * torch.randn(1, sizes["window"] * SAMPLE_RATE)
    length = full.shape[1]
    torch.testing.assert_close(
        own(full, [length])[0], whole(full, [length])[0], rtol=1e-4, atol=1e-4
    )
    batch = noise(sizes["rows"], sizes["seconds"], 0.8)
    (ours, own_B), (peer, whole_B) = own(*batch), whole(*batch)
    assert torch.equal(own_B, whole_B) and not torch.equal(ours, peer)


def differences(encoders, wavs):
    """Of features with own windows from those with whole ones, in words."""
    relative, cosine = [], []
    for wav_N in wavs:
        batch = wav_N[None], [len(wav_N)]
        (ours, _), (peer, _) = (encoder(*batch) for encoder in encoders)
        relative.append(float((ours - peer).norm() / peer.norm()))
        cosine.append(torch.cosine_similarity(ours, peer, dim=-1).flatten())
    cosine = torch.cat(cosine)
    return (
        f"features differ by {sum(relative) / len(wavs):.0%} of their norm "
        f"({min(relative):.0%} to {max(relative):.0%}), cosine of a frame "
        f"{cosine.mean():.3f} in the mean, {cosine.median():.3f} in the "
        f"median, below 0.9 for {(cosine < 0.9).float().mean():.0%}"
    )


def both(name, encoders, batch, sizes):
    """Both windows on one batch."""
    sides = [functools.partial(encoder, *batch) for encoder in encoders]
    return timed(name, sides, 3, "at least 4", sizes=sizes)


def rows(sizes, tier):
    """Time of a batch of short clips."""
    yield both(
        f"encoding clips of {sizes['seconds']} s, Whisper's window: own; "
        f"peer: {sizes['window']} s",
        random_encoders(sizes),
        noise(sizes["rows"], sizes["seconds"], 1.0),
        f"Whisper of {sizes['layers']} layers, {sizes['width']} wide, random "
        f"weights; {sizes['rows']} clips of {sizes['seconds']} s",
    )
    encoders = real_encoders()
    if not encoders:
        return
    wavs = real_clips(sizes["clips"])
    batch = batch_of(wavs[: sizes["rows"]])
    seconds = sum(map(len, wavs)) / len(wavs) / SAMPLE_RATE
    yield both(
        "encoding real clips of about 5 s with Whisper-base, window: own; "
        "peer: 30 s",
        encoders,
        batch,
        f"OpenAI's Whisper-base on {len(batch[1])} recordings of LibriSpeech's "
        f"test-other, {min(batch[1]) / SAMPLE_RATE:.1f} to "
        f"{max(batch[1]) / SAMPLE_RATE:.1f} s; on {len(wavs)} of them, "
        f"{seconds:.1f} s in the mean, {differences(encoders, wavs)}; what "
        "that does to a trained system's errors is not measured",
    )


if __name__ == "__main__":
    script("windows", SIZES, check, rows)
