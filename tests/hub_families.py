"""A tiny model with random weights, and its processor, of each speech LLM.

The real classes with small numbers; nothing is downloaded. A family of the
table without a maker here fails the tests that walk over the table.
"""

import functools

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, WhisperFeatureExtractor

from speechbrain_ext.layers.nested import SPEECH

LAYERS, WIDTH = 4, 32
END, PAD, AUDIO = "<|end|>", "<|pad|>", "<|audio|>"
MARKS = ("<|audio_bos|>", "<|audio_eos|>")
OTHERS = ("<|image|>", "<|video|>", "<|vision_bos|>", "<|vision_eos|>")
CHAT = (
    "{% for message in messages %}{{ message.role }}: "
    "{% for part in message.content %}"
    "{% if part.type == 'audio' %}" + AUDIO + "{% elif part.type == 'text' %}"
    "{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
TEXT = dict(
    hidden_size=WIDTH,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=512,
    initializer_range=0.2,
    pad_token_id=1,
    bos_token_id=0,
    eos_token_id=0,
    tie_word_embeddings=False,
)
# A window of two seconds in place of 30.
WHISPER = dict(
    num_mel_bins=16,
    num_hidden_layers=2,
    encoder_layers=2,
    num_attention_heads=2,
    encoder_attention_heads=2,
    # GLM-ASR joins as many frames as its encoder's MLP is wider.
    intermediate_size=64,
    encoder_ffn_dim=64,
    hidden_size=16,
    d_model=16,
    max_source_positions=100,
)


@functools.cache
def tokenizer():
    """A tokenizer of single bytes, with the marks that processors want."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    names = [END, PAD, AUDIO, *MARKS, *OTHERS]
    vocabulary = {token: i for i, token in enumerate([*names, *alphabet])}
    bare = Tokenizer(models.BPE(vocabulary, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    extra = dict(
        audio_token=AUDIO,
        audio_bos_token=MARKS[0],
        audio_eos_token=MARKS[1],
        image_token=OTHERS[0],
        video_token=OTHERS[1],
        vision_bos_token=OTHERS[2],
        vision_eos_token=OTHERS[3],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens=extra,
        chat_template=CHAT,
    )


def size():
    """Entries of the vocabulary."""
    return len(tokenizer())


def audio_id():
    """The token that stands for sound."""
    return tokenizer().convert_tokens_to_ids(AUDIO)


def whisper_features(**more):
    """A Whisper feature extractor with a window of two seconds."""
    return WhisperFeatureExtractor(feature_size=16, chunk_length=2, **more)


def text_config(kind="qwen2", **more):
    """The decoder's configuration."""
    return dict(TEXT, vocab_size=size(), model_type=kind, **more)


def config_of(name, **parts):
    """A model's configuration, of its own class."""
    return transformers.CONFIG_MAPPING[name](**parts)


def whisper_kind(name, encoder, text="qwen2", processor="", **more):
    """A maker of what has an encoder of Whisper's kind."""

    def make():
        config = config_of(
            name,
            text_config=text_config(text),
            audio_config=dict(WHISPER, model_type=encoder),
            audio_token_id=audio_id(),
        )
        made = getattr(transformers, processor)(
            whisper_features(), tokenizer(), chat_template=CHAT, **more
        )
        return config, made

    return make


def granite(name):
    """A maker of Granite Speech's kind."""

    def make():
        config = config_of(
            name,
            text_config=text_config(
                "granite",
                logits_scaling=3.0,
                embedding_multiplier=2.0,
                residual_multiplier=0.5,
            ),
            encoder_config=dict(
                model_type=f"{name}_encoder",
                input_dim=160,
                num_layers=2,
                hidden_dim=16,
                feedforward_mult=2,
                num_heads=2,
                output_dim=8,
                context_size=20,
                max_pos_emb=32,
            ),
            projector_config=dict(
                model_type="blip_2_qformer",
                hidden_size=16,
                encoder_hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=24,
            ),
            audio_token_index=audio_id(),
            has_lora_adapter=False,
            tie_word_embeddings=False,
        )
        features = transformers.GraniteSpeechFeatureExtractor()
        processor = transformers.GraniteSpeechProcessor(
            features, tokenizer(), audio_token=AUDIO, chat_template=CHAT
        )
        return config, processor

    return make


def qwen3_asr():
    """Qwen3-ASR: chunks of a second, 13 tokens each."""
    config = config_of(
        "qwen3_asr",
        text_config=text_config("qwen3"),
        audio_config=dict(
            model_type="qwen3_asr_encoder",
            num_mel_bins=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=24,
            d_model=16,
            output_dim=WIDTH,
            downsample_hidden_size=8,
        ),
        audio_token_id=audio_id(),
        tie_word_embeddings=False,
    )
    features = transformers.Qwen3ASRFeatureExtractor(feature_size=16)
    processor = transformers.Qwen3ASRProcessor(
        features, tokenizer(), chat_template=CHAT
    )
    return config, processor


def fun_asr():
    """Fun-ASR-Nano: SAN-M encoder and adaptor."""
    config = config_of(
        "fun_asr_nano",
        text_config=text_config("qwen3"),
        audio_config=dict(
            model_type="fun_asr_nano_encoder",
            num_mel_bins=16,
            hidden_size=16,
            num_attention_heads=2,
            intermediate_size=24,
            num_hidden_layers=2,
            num_timestamp_prediction_layers=1,
        ),
        adaptor_config=dict(
            hidden_size=WIDTH,
            intermediate_size=WIDTH // 4,
            num_attention_heads=2,
            num_hidden_layers=1,
            projector_hidden_size=24,
        ),
        audio_token_id=audio_id(),
        tie_word_embeddings=False,
    )
    features = transformers.FunAsrNanoFeatureExtractor(feature_size=16)
    processor = transformers.FunAsrNanoProcessor(
        features, tokenizer(), chat_template=CHAT, audio_token=AUDIO
    )
    return config, processor


def omniasr():
    """Omnilingual ASR: an encoder of wav2vec 2.0's kind."""
    kernel, stride = [400, 3], [160, 2]
    config = config_of(
        "omniasr",
        text_config=text_config("llama"),
        audio_config=dict(
            model_type="omniasr_audio",
            hidden_size=16,
            conv_dim=[8, 8],
            conv_kernel=kernel,
            conv_stride=stride,
            num_attention_heads=2,
            num_hidden_layers=2,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            intermediate_size=24,
        ),
        audio_token_id=audio_id(),
        bos_token_id=0,
        eos_token_id=0,
    )
    features = transformers.OmniASRFeatureExtractor()
    processor = transformers.OmniASRProcessor(
        features,
        tokenizer(),
        chat_template=CHAT,
        audio_token=AUDIO,
        conv_kernel=kernel,
        conv_stride=stride,
    )
    return config, processor


def moss():
    """MOSS-Transcribe-Diarize."""
    config = config_of(
        "moss_transcribe_diarize",
        text_config=text_config("qwen3"),
        audio_config=dict(WHISPER, model_type="moss_transcribe_diarize_audio"),
        audio_token_id=audio_id(),
        audio_chunk_size=32000,
        tie_word_embeddings=False,
    )
    features = transformers.MossTranscribeDiarizeFeatureExtractor(
        feature_size=16, chunk_length=2
    )
    processor = transformers.MossTranscribeDiarizeProcessor(
        features,
        tokenizer(),
        chat_template=CHAT,
        audio_token=AUDIO,
        audio_bos_token=MARKS[0],
        audio_eos_token=MARKS[1],
    )
    return config, processor


def vibevoice():
    """VibeVoice-ASR: two tokenizers of sound, added up."""
    encoder = dict(
        model_type="vibevoice_acoustic_tokenizer_encoder",
        num_filters=4,
        downsampling_ratios=[8, 20, 20],
        depths=[1, 1, 1, 1],
        ffn_expansion=2,
        # It would draw noise, and say something else each time.
        vae_std=0.0,
    )
    config = config_of(
        "vibevoice_asr",
        text_config=text_config("qwen2"),
        acoustic_tokenizer_encoder_config=dict(encoder, hidden_size=8),
        semantic_tokenizer_encoder_config=dict(encoder, hidden_size=12),
        audio_token_id=audio_id(),
        audio_bos_token_id=audio_id() + 1,
        audio_eos_token_id=audio_id() + 2,
    )
    features = transformers.VibeVoiceAcousticTokenizerFeatureExtractor()
    processor = transformers.VibeVoiceAsrProcessor(
        features,
        tokenizer(),
        chat_template=CHAT,
        audio_token=AUDIO,
        audio_bos_token=MARKS[0],
        audio_eos_token=MARKS[1],
    )
    return config, processor


def omni(name, **text):
    """A maker of an Omni model's thinker."""

    def make():
        audio = dict(
            num_mel_bins=16,
            encoder_layers=2,
            encoder_attention_heads=2,
            encoder_ffn_dim=24,
            d_model=16,
            output_dim=WIDTH,
            n_window=50,
            max_source_positions=64,
            downsample_hidden_size=8,
        )
        vision = dict(
            depth=1,
            hidden_size=16,
            intermediate_size=24,
            num_heads=2,
            out_hidden_size=WIDTH,
            deepstack_visual_indexes=[0],
        )
        tok = tokenizer()
        ids = dict(
            audio=tok.convert_tokens_to_ids(AUDIO),
            image=tok.convert_tokens_to_ids(OTHERS[0]),
            video=tok.convert_tokens_to_ids(OTHERS[1]),
        )
        rope = dict(
            rope_type="default", rope_theta=10000.0, mrope_section=[2, 1, 1]
        )
        own = {**TEXT, "vocab_size": size(), "rope_parameters": rope, **text}
        config = config_of(
            name,
            text_config=own,
            audio_config=audio,
            vision_config=vision,
            **{f"{kind}_token_id": value for kind, value in ids.items()},
            audio_start_token_id=ids["audio"] + 1,
            audio_end_token_id=ids["audio"] + 2,
            vision_start_token_id=tok.convert_tokens_to_ids(OTHERS[2]),
            vision_end_token_id=tok.convert_tokens_to_ids(OTHERS[3]),
        )
        kind = "Qwen2_5OmniProcessor"
        if "moe" in name:
            kind = "Qwen3OmniMoeProcessor"
        processor = getattr(transformers, kind)(
            transformers.Qwen2VLImageProcessor(),
            transformers.Qwen2VLVideoProcessor(),
            whisper_features(),
            tok,
            chat_template=CHAT,
        )
        return config, processor

    return make


def voxtral():
    """Voxtral, with a tokenizer whose marks stand where Mistral's do."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    marks += [f"[SPARE_{i}]" for i in range(len(marks), 24)]
    marks += ["[AUDIO]", "[BEGIN_AUDIO]", "[TRANSCRIBE]"]
    vocabulary = {token: i for i, token in enumerate([*marks, *alphabet])}
    bare = Tokenizer(models.BPE(vocabulary, []))
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    own = PreTrainedTokenizerFast(
        tokenizer_object=bare,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<unk>",
        additional_special_tokens=marks[3:],
    )
    config = config_of(
        "voxtral",
        text_config={**text_config("llama"), "vocab_size": len(own)},
        # Four frames are joined; the processor counts on windows of 30 s.
        audio_config={
            **WHISPER,
            "model_type": "voxtral_encoder",
            "max_source_positions": 1500,
        },
        audio_token_id=24,
    )
    features = WhisperFeatureExtractor(feature_size=16)
    return config, transformers.VoxtralProcessor(features, own)


def phi4():
    """Phi-4-multimodal: the decoder has the encoders inside."""
    config = config_of(
        "phi4_multimodal",
        **{k: v for k, v in TEXT.items() if k != "head_dim"},
        vocab_size=size(),
        audio_config=dict(
            hidden_size=16,
            intermediate_size=24,
            num_blocks=2,
            num_attention_heads=2,
            ext_pw_out_channel=16,
            depthwise_separable_out_channel=16,
            input_size=80,
            nemo_conv_channels=8,
            audio_token_id=audio_id(),
            bias_max_distance=20,
        ),
        vision_config=dict(
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=28,
            crop_size=28,
            patch_size=14,
            image_token_id=audio_id() + 3,
        ),
    )
    features = transformers.Phi4MultimodalFeatureExtractor()
    processor = transformers.Phi4MultimodalProcessor(
        transformers.Phi4MultimodalImageProcessor(),
        features,
        tokenizer(),
        chat_template=CHAT,
    )
    return config, processor


MAKERS = {
    "audioflamingo3": whisper_kind(
        "audioflamingo3",
        "audioflamingo3_encoder",
        processor="AudioFlamingo3Processor",
        audio_token=AUDIO,
    ),
    "fun_asr_nano": fun_asr,
    "glmasr": whisper_kind(
        "glmasr",
        "glmasr_encoder",
        "llama",
        processor="GlmAsrProcessor",
        audio_token=AUDIO,
    ),
    "granite_speech": granite("granite_speech"),
    "granite_speech_plus": granite("granite_speech_plus"),
    "moss_transcribe_diarize": moss,
    "musicflamingo": whisper_kind(
        "musicflamingo",
        "audioflamingo3_encoder",
        processor="MusicFlamingoProcessor",
        audio_token=AUDIO,
        audio_bos_token=MARKS[0],
        audio_eos_token=MARKS[1],
    ),
    "omniasr": omniasr,
    "phi4_multimodal": phi4,
    "qwen2_5_omni_thinker": omni("qwen2_5_omni_thinker"),
    "qwen2_audio": whisper_kind(
        "qwen2_audio",
        "qwen2_audio_encoder",
        processor="Qwen2AudioProcessor",
    ),
    "qwen3_asr": qwen3_asr,
    "qwen3_omni_moe_thinker": omni(
        "qwen3_omni_moe_thinker",
        moe_intermediate_size=16,
        num_experts=4,
        num_experts_per_tok=2,
        decoder_sparse_step=1,
        mlp_only_layers=[1],
    ),
    "vibevoice_asr": vibevoice,
    "voxtral": voxtral,
}


def tiny(name):
    """A family's tiny model, and its processor."""
    if "omni_" in name or name == "phi4_multimodal":
        pytest.importorskip("torchvision", reason="its processor wants it")
    config, processor = MAKERS[name]()
    place = next(one for one in SPEECH if one.model_type == name)
    torch.manual_seed(0)
    model = getattr(transformers, place.model_class)._from_config(config)
    return model.eval(), processor


def sounds(count=4, rate=16000, seconds=(0.5, 0.7, 0.9, 0.6)):
    """A few short sounds of different lengths."""
    noise = np.random.default_rng(0)
    return [
        (0.1 * noise.standard_normal(int(one * rate))).astype(np.float32)
        for one in seconds[:count]
    ]
