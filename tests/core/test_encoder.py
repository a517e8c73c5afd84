"""Encoders: an utterance's features are its own.

Authors
-------
 * The speechbrain_ext authors, 2026
"""

import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.profiler import profile
from transformers import (
    HubertConfig,
    HubertModel,
    LlamaConfig,
    Wav2Vec2Config,
    Wav2Vec2FeatureExtractor,
    Wav2Vec2Model,
    WavLMConfig,
    WavLMForCTC,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperModel,
)

from speechbrain_ext.model import encoder_fast as waveform_convolutions
from speechbrain_ext.model.encoder import SpeechEncoder, concatenate_frames
from speechbrain_ext.model.encoder_cores import MOST_BYTES
from speechbrain_ext.model.encoder_fast import use_fused_attention

# Frame counts come out odd, and some utterances are much shorter.
LENGTHS = [5000, 16000, 720, 9999, 15999, 400, 12345, 3201]

WAVEFORM = dict(
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    intermediate_size=48,
    conv_dim=(16, 16, 24),
    conv_kernel=(10, 8, 4),
    conv_stride=(5, 8, 8),
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=4,
    layerdrop=0.5,
    initializer_range=0.2,
    vocab_size=8,
)
CLASSES = {
    "wavlm": (WavLMModel, WavLMConfig),
    "wav2vec2": (Wav2Vec2Model, Wav2Vec2Config),
    "hubert": (HubertModel, HubertConfig),
}
NORMS = {
    "layer": dict(feat_extract_norm="layer", do_stable_layer_norm=True),
    "group": dict(feat_extract_norm="group", do_stable_layer_norm=False),
}
WHISPER = dict(
    d_model=32,
    encoder_layers=2,
    decoder_layers=2,
    encoder_attention_heads=4,
    decoder_attention_heads=4,
    encoder_ffn_dim=48,
    decoder_ffn_dim=48,
    num_mel_bins=40,
    max_source_positions=50,
    vocab_size=20,
    pad_token_id=0,
    bos_token_id=0,
    eos_token_id=0,
    decoder_start_token_id=0,
    encoder_layerdrop=0.5,
    init_std=0.2,
)


def shake(model):
    """Random biases and norms, which are born as zeros and ones."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def make_waveform(folder, kind="wavlm", norm="layer", do_normalize=True):
    """Make waveform."""
    torch.manual_seed(0)
    model_class, config_class = CLASSES[kind]
    model = model_class(config_class(**WAVEFORM, **NORMS[norm]))
    shake(model).save_pretrained(folder)
    if do_normalize is not None:
        Wav2Vec2FeatureExtractor(do_normalize=do_normalize).save_pretrained(
            folder
        )
    return folder


def make_whisper(folder, model_class=WhisperModel, **changes):
    """Make whisper."""
    torch.manual_seed(0)
    config = WhisperConfig(**{**WHISPER, **changes})
    shake(model_class(config)).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=40).save_pretrained(folder)
    return folder


def make(folder, name):
    """A saved encoder; ``name`` as in ``wavlm-group`` or ``whisper``."""
    if name == "whisper":
        return make_whisper(folder)
    return make_waveform(folder, *name.split("-"))


def waves(lengths=LENGTHS):
    """Recordings of different loudness and offset, padded with zeros."""
    generator = torch.Generator().manual_seed(1)
    wav_BN = torch.zeros(len(lengths), max(lengths))
    for row, length in enumerate(lengths):
        noise = torch.randn(length, generator=generator)
        wav_BN[row, :length] = 0.05 * (row + 1) * noise + 0.02 * row
    return wav_BN, torch.tensor(lengths)


ALL = [f"{kind}-{norm}" for kind in CLASSES for norm in NORMS] + ["whisper"]


def test_the_whole_window_is_whispers_own(tmp_path):
    """What is said of no window is the whole one, transformers' to the bit."""
    make_whisper(tmp_path)
    encoder = SpeechEncoder.from_source(tmp_path, window="30s")
    wav_BN, lengths_B = waves()
    x_BTE, frames_B = encoder(wav_BN, lengths_B)
    default_BTE, _ = SpeechEncoder.from_source(tmp_path)(wav_BN, lengths_B)
    assert torch.equal(x_BTE, default_BTE)
    reference = WhisperModel.from_pretrained(tmp_path).encoder.eval()
    with torch.no_grad():
        expected = reference(encoder.core.log_mel(wav_BN)).last_hidden_state
    for x_TE, expected_TE, n in zip(x_BTE, expected, frames_B.tolist()):
        assert torch.equal(x_TE[:n], expected_TE[:n])


def cut_whisper(folder, frames):
    """transformers' encoder, made anew for a window of so many frames."""
    model = WhisperModel.from_pretrained(folder).encoder.eval()
    model.config = copy.deepcopy(model.config)
    model.config.max_source_positions = frames
    model.embed_positions = torch.nn.Embedding.from_pretrained(
        model.embed_positions.weight[:frames]
    )
    return model


@pytest.mark.parametrize("output_norm", [False, True])
def test_own_window_is_whisper_cut_to_the_clip(tmp_path, output_norm):
    """Mel and positions of the clip alone, whoever is in the batch."""
    make_whisper(tmp_path)
    encoder = SpeechEncoder.from_source(
        tmp_path, window="own", output_norm=output_norm
    )
    whole = SpeechEncoder.from_source(tmp_path, output_norm=output_norm)
    assert encoder.identity() != whole.identity()
    extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=1)
    # The last ends with its last frame.
    lengths = [*LENGTHS, 3200]
    wav_BN, lengths_B = waves(lengths)
    x_BTE, frames_B = encoder(wav_BN, lengths_B)
    whole_BTE, whole_B = whole(wav_BN, lengths_B)
    assert torch.equal(frames_B, whole_B) and x_BTE.shape == whole_BTE.shape
    for row, (length, n) in enumerate(zip(lengths, frames_B.tolist())):
        wav = wav_BN[row, :length].numpy()
        mel = extractor(wav, sampling_rate=16000, return_tensors="pt")
        mel_1MT = mel.input_features[..., : 2 * n]
        with torch.no_grad():
            expected = cut_whisper(tmp_path, n)(mel_1MT).last_hidden_state
        if output_norm:
            expected = torch.nn.functional.layer_norm(expected, (n, 32))
        alone_1TE, _ = encoder(wav_BN[row : row + 1, :length], [length])
        for x_TE in (x_BTE[row, :n], alone_1TE[0]):
            assert (x_TE - expected[0]).abs().max() < 1e-4
        assert not x_BTE[row, n:].any()
        # Of a clip that fills the window, the two are one.
        differ = (x_BTE[row, :n] - whole_BTE[row, :n]).abs().max() > 1e-2
        assert differ == (n < 50)
        assert encoder.work_samples(length) == 320 * n
        assert whole.work_samples(length) == 16000


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_own_windows_work_no_less_alone(tmp_path, dtype):
    """A batch of four is four batches of one; chunks but the last are whole."""
    make_whisper(tmp_path)
    options = dict(long_audio="chunk", dtype=dtype)
    own = SpeechEncoder.from_source(tmp_path, window="own", **options)
    whole = SpeechEncoder.from_source(tmp_path, **options)
    lengths = [9999, 400, 19000, 3201]
    wav_BN, _ = waves(lengths)
    x_BTE, frames_B = own(wav_BN, lengths)
    near = {"float32": 1e-5, "bfloat16": 0.1}[dtype]
    for row, length in enumerate(lengths):
        alone, frames_1 = own(wav_BN[row : row + 1, :length], [length])
        assert frames_1 == frames_B[row]
        n = frames_1.item()
        scale = max(1.0, alone.abs().max().item())
        assert (x_BTE[row, :n] - alone[0]).abs().max() < near * scale
    whole_BTE, _ = whole(wav_BN[2:3], lengths[2:3])
    assert (x_BTE[2, :50] - whole_BTE[0, :50]).abs().max() < near * scale
    assert (x_BTE[2, 50:60] - whole_BTE[0, 50:60]).abs().max() > 1e-2


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("output_norm", [False, True])
def test_batch_equals_alone(tmp_path, name, output_norm):
    """Batch equals alone."""
    encoder = SpeechEncoder.from_source(
        make(tmp_path, name), output_norm=output_norm
    )
    wav_BN, lengths_B = waves()
    x_BTE, frames_B = encoder(wav_BN, lengths_B)
    assert frames_B.tolist() == [encoder.frames(n) for n in LENGTHS]
    assert x_BTE.shape == (8, max(frames_B), encoder.width)
    assert not x_BTE.requires_grad

    order = torch.tensor([3, 0, 7, 5, 1, 6, 2, 4])
    # Padding is longer here, and is noise.
    padded_BN = torch.cat((wav_BN, wav_BN.flip(0)), 1)
    past_BN = torch.arange(padded_BN.shape[1]) >= lengths_B[:, None]
    padded_BN[past_BN] = 7.0
    padded_BN[past_BN & (torch.rand(past_BN.shape) < 0.1)] = torch.nan
    mixed_BTE, _ = encoder(padded_BN[order], lengths_B[order])
    for row, length in enumerate(LENGTHS):
        alone_1TE, frames_1 = encoder(
            wav_BN[row : row + 1, :length], lengths_B[row : row + 1]
        )
        n = frames_1.item()
        assert alone_1TE.shape[1] == n
        mixed_TE = mixed_BTE[order.tolist().index(row)]
        scale = max(1.0, alone_1TE.abs().max().item())
        for x_TE in (x_BTE[row], mixed_TE):
            assert (x_TE[:n] - alone_1TE[0]).abs().max() < 1e-5 * scale
            assert not x_TE[n:].any()
        if output_norm:
            assert abs(alone_1TE.mean()) < 1e-4
            assert abs(alone_1TE.std(correction=0) - 1) < 1e-3
    # Different utterances, different features.
    assert (x_BTE[0, :5] - x_BTE[1, :5]).abs().max() > 1e-2


@pytest.mark.parametrize("name", [n for n in ALL if n != "whisper"])
def test_alone_equals_transformers(tmp_path, name):
    """Alone equals transformers."""
    make(tmp_path, name)
    encoder = SpeechEncoder.from_source(tmp_path)
    model = CLASSES[encoder.kind][0].from_pretrained(tmp_path).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    wav_BN, lengths_B = waves()
    for row, length in enumerate(LENGTHS):
        wav_N = wav_BN[row, :length]
        inputs = extractor(
            wav_N.numpy(), sampling_rate=16000, return_tensors="pt"
        )
        with torch.no_grad():
            expected = model(inputs.input_values).last_hidden_state
        x_1TE, frames_1 = encoder(wav_N[None], [length])
        assert frames_1.tolist() == [expected.shape[1]]
        scale = max(1.0, expected.abs().max().item())
        assert (x_1TE - expected).abs().max() < 2e-5 * scale


@pytest.mark.parametrize(
    "model_class", [WhisperModel, WhisperForConditionalGeneration]
)
def test_whisper_alone_equals_transformers(tmp_path, model_class):
    """Whisper alone equals transformers."""
    make_whisper(tmp_path, model_class)
    encoder = SpeechEncoder.from_source(tmp_path)
    reference = WhisperModel.from_pretrained(tmp_path).encoder.eval()
    ours = dict(encoder.core.model.named_parameters())
    theirs = dict(reference.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=1)
    wav_BN, lengths_B = waves()
    x_BTE, frames_B = encoder(wav_BN, lengths_B)
    for row, length in enumerate(LENGTHS):
        wav = wav_BN[row, :length].numpy()
        mel = extractor(wav, sampling_rate=16000, return_tensors="pt")
        with torch.no_grad():
            expected = reference(mel.input_features).last_hidden_state
        n = -(-length // 320)
        assert frames_B[row] == n
        assert (x_BTE[row, :n] - expected[0, :n]).abs().max() < 1e-4


def test_log_mel_equals_numpy_reference(tmp_path):
    """Log mel equals numpy reference."""
    encoder = SpeechEncoder.from_source(make_whisper(tmp_path))
    extractor = WhisperFeatureExtractor(feature_size=40, chunk_length=1)
    wav_BN, _ = waves()
    mel_BMT = encoder.core.log_mel(wav_BN)
    reference = extractor._np_extract_fbank_features(wav_BN.numpy(), "cpu")
    assert mel_BMT.shape == reference.shape == (8, 40, 100)
    assert np.abs(mel_BMT.numpy() - reference).max() < 1e-4


def test_whisper_saved_as_encoder_alone(tmp_path):
    """Whisper saved as encoder alone."""
    make_whisper(tmp_path / "whole")
    whole = SpeechEncoder.from_source(tmp_path / "whole")
    whole.core.model.save_pretrained(tmp_path / "half")
    half = SpeechEncoder.from_source(tmp_path / "half")
    assert half.identity()["weights"] == whole.identity()["weights"]
    wav_BN, lengths_B = waves()
    assert torch.equal(half(wav_BN, lengths_B)[0], whole(wav_BN, lengths_B)[0])


def test_whisper_holds_no_decoder(tmp_path):
    """Whisper holds no decoder."""
    encoder = SpeechEncoder.from_source(make_whisper(tmp_path))
    names = [name for name, _ in encoder.named_parameters()]
    assert names and not [name for name in names if "decoder" in name]
    # Nor were its layers ever made.
    assert encoder.core.model.config.decoder_layers == 0


@pytest.mark.parametrize("name", ["wavlm-layer", "wavlm-group", "whisper"])
def test_frozen_for_ever(tmp_path, name):
    """Frozen for ever."""
    encoder = SpeechEncoder.from_source(make(tmp_path, name))
    wav_BN, lengths_B = waves()
    before, _ = encoder(wav_BN, lengths_B)
    torch.nn.ModuleDict({"encoder": encoder}).train()
    assert not any(module.training for module in encoder.modules())
    assert not any(p.requires_grad for p in encoder.parameters())
    for _ in range(3):
        assert torch.equal(encoder(wav_BN, lengths_B)[0], before)
    # Nor does the caller's precision change them.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(encoder(wav_BN, lengths_B)[0], before)


@pytest.mark.parametrize("name", ["wavlm-layer", "wavlm-group", "whisper"])
def test_loads_in_the_wanted_type(tmp_path, name):
    """Loads in the wanted type."""
    make(tmp_path, name)
    full = SpeechEncoder.from_source(tmp_path)
    half = SpeechEncoder.from_source(tmp_path, dtype="bfloat16")
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.dtype == torch.bfloat16
    wav_BN, lengths_B = waves()
    x_BTE, _ = half(wav_BN, lengths_B)
    assert x_BTE.dtype == torch.bfloat16
    expected, _ = full(wav_BN, lengths_B)
    similar = torch.cosine_similarity(x_BTE.float(), expected, -1)
    assert similar[expected.any(-1)].mean() > 0.98


@pytest.mark.parametrize("name", ["wavlm-layer", "whisper"])
def test_frame_counts(tmp_path, name):
    """Frame counts."""
    encoder = SpeechEncoder.from_source(make(tmp_path, name))
    least = encoder.core.min_samples
    assert encoder.frames(least) == 1
    assert encoder.frame_rate == 50
    for length in [*range(least, least + 700, 37), 15679, 15680, 15681, 16000]:
        x_1TE, frames_1 = encoder(torch.randn(1, length), [length])
        assert x_1TE.shape[1] == frames_1.item() == encoder.frames(length)


def test_long_audio_refused_or_chunked(tmp_path):
    """Long audio refused or chunked."""
    make_whisper(tmp_path)
    encoder = SpeechEncoder.from_source(tmp_path)
    assert encoder.max_samples == 16000
    wav_1N = 0.1 * torch.randn(1, 35000)
    with pytest.raises(
        ValueError, match="utt-9: 2.19 s.*at most 1.00 s.*chunk"
    ):
        encoder(wav_1N, [35000], names=["utt-9"])

    chunking = SpeechEncoder.from_source(tmp_path, long_audio="chunk")
    x_1TE, frames_1 = chunking(wav_1N, [35000])
    assert frames_1.tolist() == [chunking.frames(35000)] == [110]
    parts = [encoder(p, [p.shape[1]])[0] for p in wav_1N.split(16000, 1)]
    assert (x_1TE - torch.cat(parts, 1)).abs().max() < 1e-5
    # A long neighbour changes nothing.
    both_BN = torch.cat((wav_1N, torch.zeros(1, 35000)))
    both_BN[1, :4000] = wav_1N[0, :4000]
    x_BTE, frames_B = chunking(both_BN, [35000, 4000])
    assert frames_B.tolist() == [110, 13]
    alone, _ = encoder(wav_1N[:, :4000], [4000])
    assert (x_BTE[1, :13] - alone[0]).abs().max() < 1e-5
    assert chunking.work_samples(35000) == 48000


def test_wavlm_limit_is_optional(tmp_path):
    """Wavlm limit is optional."""
    make_waveform(tmp_path)
    assert SpeechEncoder.from_source(tmp_path).max_samples is None
    limited = SpeechEncoder.from_source(tmp_path, max_seconds=0.5)
    with pytest.raises(ValueError, match="row 0.*at most 0.50 s"):
        limited(torch.randn(1, 8001), [8001])
    chunking = SpeechEncoder.from_source(
        tmp_path, max_seconds=0.5, long_audio="chunk"
    )
    # The last 100 samples are less than a frame.
    x_1TE, frames_1 = chunking(torch.randn(1, 16100), [16100])
    assert (
        frames_1.item() == chunking.frames(16100) == 2 * chunking.frames(8000)
    )
    with pytest.raises(ValueError, match="long_audio: chunk.*max_seconds"):
        SpeechEncoder.from_source(tmp_path, long_audio="chunk")
    with pytest.raises(ValueError, match="long_audio: 'cut'"):
        SpeechEncoder.from_source(tmp_path, long_audio="cut")


def test_input_normalisation_is_the_source_s(tmp_path, caplog):
    """Input normalisation is the source s."""
    loud_1N = torch.randn(1, 4000)
    for do_normalize, same in ((True, True), (False, False), (None, True)):
        folder = tmp_path / str(do_normalize)
        make_waveform(folder, do_normalize=do_normalize)
        encoder = SpeechEncoder.from_source(folder)
        loud, _ = encoder(loud_1N, [4000])
        quiet, _ = encoder(0.05 * loud_1N + 0.1, [4000])
        assert ((loud - quiet).abs().max() < 1e-3) == same
    assert "normalise_input taken as True" in caplog.text
    forced = SpeechEncoder.from_source(folder, normalise_input=False)
    assert (forced(loud_1N, [4000])[0] - loud).abs().max() > 1e-3


def test_refuses_bad_lengths(tmp_path):
    """Refuses bad lengths."""
    encoder = SpeechEncoder.from_source(make_waveform(tmp_path))
    least = encoder.core.min_samples
    with pytest.raises(ValueError, match=f"row 1.*shorter than the {least}"):
        encoder(torch.randn(2, 4000), [4000, least - 1])
    with pytest.raises(ValueError, match="samples, not fractions"):
        encoder(torch.randn(2, 4000), [4001, 900])


def test_refuses_bad_sources(tmp_path, monkeypatch):
    """Refuses bad sources."""

    def refused(source, message, error=ValueError, **kwargs):
        """Refused."""
        with pytest.raises(error, match=message):
            SpeechEncoder.from_source(source, **kwargs)

    refused(
        tmp_path / "gone", "gone: no such folder.*hub id", FileNotFoundError
    )
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty: holds no config.json")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    refused("nobody/nothing", "nobody/nothing.*HF_HUB_OFFLINE")
    LlamaConfig().save_pretrained(tmp_path / "llama")
    refused(tmp_path / "llama", "a llama model, not a speech encoder.*wavlm")
    make_waveform(tmp_path / "wavlm")
    refused(tmp_path / "wavlm", "set kind: wavlm", kind="whisper")
    refused(tmp_path / "wavlm", "dtype: int8.*float32", dtype="int8")
    refused(tmp_path / "wavlm", "max_seconds: 0.01", max_seconds=0.01)
    refused(tmp_path / "wavlm", "window: own.*wavlm model", window="own")
    make_whisper(tmp_path / "whisper")
    refused(tmp_path / "whisper", "window: 'clip': choose", window="clip")
    (tmp_path / "wavlm" / "model.safetensors").unlink()
    refused(tmp_path / "wavlm", "wavlm: its weights cannot be loaded")


def test_refuses_incomplete_or_other_weights(tmp_path):
    """Refuses incomplete or other weights."""
    make_waveform(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value, message in (
        (
            "num_hidden_layers",
            4,
            "weights of the encoder are missing.*layers.3",
        ),
        ("intermediate_size", 64, "cannot be loaded"),
        ("add_adapter", True, "add_adapter"),
    ):
        text = json.dumps({**config, key: value})
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            SpeechEncoder.from_source(tmp_path)


def test_takes_a_fine_tuned_model(tmp_path):
    """Takes a fine tuned model."""
    torch.manual_seed(0)
    config = WavLMConfig(**WAVEFORM, **NORMS["layer"], mask_time_prob=0.05)
    model = WavLMForCTC(config)
    model.save_pretrained(tmp_path)
    encoder = SpeechEncoder.from_source(tmp_path, normalise_input=False)
    wav_1N = torch.randn(1, 4000)
    with torch.no_grad():
        expected = model.wavlm.eval()(wav_1N).last_hidden_state
    x_1TE, _ = encoder(wav_1N, [4000])
    assert (x_1TE - expected).abs().max() < 1e-5


def test_identity_is_the_content_s(tmp_path):
    """Identity is the content s."""
    make_waveform(tmp_path / "a")
    make_waveform(tmp_path / "b")
    first = SpeechEncoder.from_source(tmp_path / "a")
    again = SpeechEncoder.from_source(tmp_path / "b")
    assert first.identity() == again.identity()
    json.dumps(first.identity())
    half = SpeechEncoder.from_source(tmp_path / "a", dtype="bfloat16")
    normed = SpeechEncoder.from_source(tmp_path / "a", output_norm=True)
    assert first.identity() != half.identity()
    assert first.identity() != normed.identity()
    with torch.no_grad():
        next(again.core.parameters()).flatten()[3] += 1e-3
    del again.weights_hash
    assert first.identity() != again.identity()


def test_concatenation_pads_the_tail():
    """Concatenation pads the tail."""
    x_BTE = torch.arange(2 * 7 * 2, dtype=torch.float32).view(2, 7, 2) + 1
    x_BSE, tokens_B = concatenate_frames(x_BTE, torch.tensor([7, 4]), 3)
    assert x_BSE.shape == (2, 3, 6) and tokens_B.tolist() == [3, 2]
    assert x_BSE[0, 2].tolist() == [13, 14, 0, 0, 0, 0]
    # The second row holds values past its end: they are not seen.
    assert x_BSE[1, 1].tolist() == [21, 22, 0, 0, 0, 0]
    assert not x_BSE[1, 2].any()
    alone, tokens = concatenate_frames(x_BTE[1:, :4], torch.tensor([4]), 3)
    assert torch.equal(alone[0], x_BSE[1, :2]) and tokens.item() == 2
    same, _ = concatenate_frames(x_BTE, torch.tensor([7, 7]), 1)
    assert torch.equal(same, x_BTE)
    with pytest.raises(ValueError, match="k: 0"):
        concatenate_frames(x_BTE, torch.tensor([7, 4]), 0)


@pytest.mark.skipif(
    "SPEECHLLM_REAL" not in os.environ, reason="SPEECHLLM_REAL is not set"
)
# Of another number of frames, sums are rounded in another order.
@pytest.mark.parametrize("window, near", [("30s", 1e-5), ("own", 3e-5)])
def test_real_whisper_on_real_recordings(window, near):
    """Real whisper on real recordings."""
    from speechbrain_ext.data.audio import read_utterance

    real = Path(os.environ["SPEECHLLM_REAL"])
    encoder = SpeechEncoder.from_source(
        real / "models" / "whisper-tiny.en-encoder", window=window
    )
    paths = sorted((real / "LibriSpeech" / "test-other").rglob("*.flac"))[:2]
    wavs = [read_utterance(path) for path in paths]
    lengths = [len(wav_N) for wav_N in wavs]
    wav_BN = torch.nn.utils.rnn.pad_sequence(wavs, batch_first=True)
    x_BTE, frames_B = encoder(wav_BN, lengths)
    assert encoder.width == 384 and encoder.max_samples == 480000
    for row, wav_N in enumerate(wavs):
        alone, frames_1 = encoder(wav_N[None], [len(wav_N)])
        n = frames_1.item()
        assert n == frames_B[row] == -(-len(wav_N) // 320)
        scale = alone.abs().max()
        assert (x_BTE[row, :n] - alone[0]).abs().max() < near * scale


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("padded", [False, True])
def test_fused_attention_is_transformers_own(tmp_path, norm, padded):
    """Fused attention is transformers own."""
    folder = make_waveform(tmp_path, norm=norm)
    plain = WavLMModel.from_pretrained(folder).eval()
    fused = use_fused_attention(WavLMModel.from_pretrained(folder).eval())
    wav_BN, lengths_B = waves()
    mask_BN = None
    if padded:
        mask_BN = (torch.arange(wav_BN.shape[1]) < lengths_B[:, None]).long()
    with torch.no_grad():
        expected = plain(wav_BN, attention_mask=mask_BN).last_hidden_state
        x_BTE = fused(wav_BN, attention_mask=mask_BN).last_hidden_state
    torch.testing.assert_close(x_BTE, expected, rtol=1e-5, atol=1e-5)
    # The bias matters, so that the test can see it go wrong.
    with torch.no_grad():
        fused.encoder.layers[0].attention.rel_attn_embed.weight.mul_(2)
        other = fused(wav_BN, attention_mask=mask_BN).last_hidden_state
    assert (other - expected).abs().max() > 1e-3
    assert {*fused.state_dict()} == {*plain.state_dict()}


@pytest.mark.parametrize("kind", CLASSES)
def test_channels_last_is_transformers_own(tmp_path, monkeypatch, kind):
    """Channels last is transformers own."""
    folder = make_waveform(tmp_path, kind)
    plain = CLASSES[kind][0].from_pretrained(folder).eval()
    encoder = SpeechEncoder.from_source(folder)
    monkeypatch.setattr(waveform_convolutions, "DEVICES", ("cpu",))
    wav_BN, _ = waves()
    with torch.no_grad():
        expected = plain.feature_extractor(wav_BN)
        calls = []
        monkeypatch.setattr(
            waveform_convolutions.F,
            "conv2d",
            lambda *args, conv2d=torch.conv2d, **kwargs: calls.append(1)
            or conv2d(*args, **kwargs),
        )
        x_BCT = encoder.core.model.feature_extractor(wav_BN)
    torch.testing.assert_close(x_BCT, expected, rtol=1e-5, atol=1e-5)
    assert len(calls) == len(WAVEFORM["conv_dim"])


def peak_bytes(work):
    """Most bytes that some work held at a time."""
    with profile(profile_memory=True) as profiler:
        work()
    held, peak = 0, 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    return peak


@torch.no_grad()
def test_fused_attention_holds_one_large_tensor(tmp_path):
    """Fused attention holds one large tensor."""
    folder = make_waveform(tmp_path)
    h_BTE = torch.randn(8, 300, WAVEFORM["hidden_size"])
    real_BT = torch.arange(300) < torch.arange(230, 310, 10)[:, None]
    peaks = []
    for change in (lambda model: model, use_fused_attention):
        layers = change(WavLMModel.from_pretrained(folder).eval()).encoder
        peaks.append(
            peak_bytes(lambda: layers(h_BTE.clone(), attention_mask=real_BT))
        )
    plain, fused = peaks
    # 4 heads, fp32: five such tensors (and more) at once, and one.
    assert plain > 5 * (8 * 4 * 300**2 * 4) and fused <= 0.3 * plain


@pytest.mark.parametrize("name", ["wavlm-layer", "wavlm-group", "hubert-layer"])
def test_long_batches_are_encoded_in_parts(tmp_path, monkeypatch, name):
    """Long batches are encoded in parts."""
    encoder = SpeechEncoder.from_source(make(tmp_path, name))
    wav_BN, lengths_B = waves()
    expected, frames_B = encoder(wav_BN, lengths_B)
    sizes = []
    encoder.core.model.register_forward_hook(
        lambda module, args, output: sizes.append(len(args[0]))
    )
    monkeypatch.setitem(MOST_BYTES, "cpu", 3 * 4 * wav_BN.shape[1])
    x_BTE, parts_B = encoder(wav_BN, lengths_B)
    assert sizes == [3, 3, 2] and parts_B.tolist() == frames_B.tolist()
    torch.testing.assert_close(x_BTE, expected, rtol=1e-5, atol=1e-5)
