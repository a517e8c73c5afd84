"""Tiny models of the real kinds, made on the spot, for examples and tests.

Random weights, a vocabulary of single bytes, no download: they show that data
flow through the very code of the large models, and learn nothing useful.
"""

import os
import tempfile

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)

END = "<|end|>"
DECODERS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config),
    "llama": (LlamaForCausalLM, LlamaConfig),
}
WAVLM = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    # One stride of 320 samples, as the large ones have, at little cost.
    conv_dim=(8, 8),
    conv_kernel=(400, 3),
    conv_stride=(160, 2),
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    vocab_size=8,
)
WHISPER = dict(
    d_model=16,
    encoder_layers=1,
    decoder_layers=1,
    encoder_attention_heads=2,
    decoder_attention_heads=2,
    encoder_ffn_dim=24,
    decoder_ffn_dim=24,
    num_mel_bins=16,
    vocab_size=20,
    pad_token_id=0,
    bos_token_id=0,
    eos_token_id=0,
    decoder_start_token_id=0,
)


def tiny_tokenizer():
    """A tokenizer of single bytes with an end token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([END, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END)


def tiny_decoder(folder=None, kind="qwen2", layers=4):
    """Save a tiny causal LM with its tokenizer.

    Arguments
    ---------
    folder : str or None
        Where to; None: a new folder for temporary files.
    kind : str
        "qwen2" or "llama".
    layers : int
        Its depth.

    Returns
    -------
    str
        The folder.
    """
    folder = folder or tempfile.mkdtemp()
    model_class, config_class = DECODERS[kind]
    tokenizer = tiny_tokenizer()
    config = config_class(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        # Large enough that a projector can steer what is said.
        initializer_range=0.2,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=None,
    )
    torch.manual_seed(0)
    model_class(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tiny_encoder(folder=None, kind="wavlm"):
    """Save a tiny speech encoder with its feature extractor.

    Arguments
    ---------
    folder : str or None
        Where to; None: a new folder for temporary files.
    kind : str
        "wavlm" or "whisper" (5 seconds an utterance).

    Returns
    -------
    str
        The folder.
    """
    folder = folder or tempfile.mkdtemp()
    torch.manual_seed(1)
    if kind == "wavlm":
        model = WavLMModel(WavLMConfig(**WAVLM))
        extractor = Wav2Vec2FeatureExtractor(
            do_normalize=True, return_attention_mask=True
        )
    else:
        config = WhisperConfig(max_source_positions=250, **WHISPER)
        model = WhisperModel(config)
        extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=5)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


def tiny_speech_llm(kind="qwen2", layers=4, removed=None):
    """A tiny speech LLM: encoder, projector and decoder, joined."""
    from speechbrain_ext.model.decoder import Decoder
    from speechbrain_ext.model.encoder import SpeechEncoder
    from speechbrain_ext.model.prompt import Prompt
    from speechbrain_ext.model.speech_llm import Projector, SpeechLLM

    with tempfile.TemporaryDirectory() as top:
        source = tiny_encoder(os.path.join(top, "encoder"))
        encoder = SpeechEncoder.from_source(source, "wavlm")
        source = tiny_decoder(os.path.join(top, "decoder"), kind, layers)
        decoder = Decoder.from_source(source, removed)
    prompt = Prompt.from_template(decoder.tokenizer, "{speech} say: {target}")
    torch.manual_seed(2)
    projector = Projector(3 * encoder.width, decoder.width)
    return SpeechLLM(encoder, projector, decoder, prompt, 3)
