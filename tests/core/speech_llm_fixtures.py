"""Tiny models of the real kinds and a tiny corpus, for all tests."""

import os

# Before torch and transformers are imported, by whichever test comes first.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
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

torch.set_num_threads(1)

LAYERS = 5
END, BEGIN = "<|end|>", "<|begin|>"
CHAT = (
    "{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|answer|>{% endif %}"
)
WORDS = "one two three four five six seven red blue green cat dog".split()
SIZES = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.18,
    max_position_embeddings=512,
)
# Kind: model class, configuration class, tied, begins with a BOS token.
KINDS = {
    "qwen2": (Qwen2ForCausalLM, Qwen2Config, True, False),
    "llama": (LlamaForCausalLM, LlamaConfig, False, True),
}
WAVLM = dict(
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    conv_dim=(8, 8),
    conv_kernel=(400, 3),
    conv_stride=(160, 2),
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
    feat_extract_norm="layer",
    do_stable_layer_norm=True,
    initializer_range=0.2,
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
    max_source_positions=100,
    vocab_size=20,
    pad_token_id=0,
    bos_token_id=0,
    eos_token_id=0,
    decoder_start_token_id=0,
    init_std=0.2,
)


def make_tokenizer(begins):
    """A byte-level BPE, with or without a token at the beginning."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = [END, BEGIN, "<|user|>", "<|answer|>"]
    trainer = BpeTrainer(
        vocab_size=290,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([" ".join(WORDS), " a: b"] * 3, trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{BEGIN} $A",
            special_tokens=[(BEGIN, tokenizer.token_to_id(BEGIN))],
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=END,
        bos_token=BEGIN if begins else None,
        chat_template=CHAT,
    )


def make_decoder(kind, folder, seed=0, **changes):
    """Save a tiny causal LM with its tokenizer; gives the folder (str)."""
    model_class, config_class, tied, begins = KINDS[kind]
    tokenizer = make_tokenizer(begins)
    settings = {**SIZES, "tie_word_embeddings": tied, **changes}
    config = config_class(
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=None,
        **settings,
    )
    torch.manual_seed(seed)
    model = model_class(config)
    # Norms and biases are born as ones and zeros, which hide mistakes.
    for name, parameter in model.named_parameters():
        if "norm" in name or "bias" in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def make_encoder(kind, folder):
    """Save a tiny speech encoder; gives the folder (str)."""
    torch.manual_seed(1)
    if kind == "wavlm":
        model = WavLMModel(WavLMConfig(**WAVLM))
        extractor = Wav2Vec2FeatureExtractor(
            do_normalize=True, return_attention_mask=True
        )
    else:
        model = WhisperModel(WhisperConfig(**WHISPER))
        extractor = WhisperFeatureExtractor(feature_size=16, chunk_length=2)
    model.save_pretrained(folder)
    extractor.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def decoder_folders(tmp_path_factory):
    """Kind to the folder of a tiny causal LM; read only."""
    top = tmp_path_factory.mktemp("decoders")
    return {kind: make_decoder(kind, top / kind) for kind in KINDS}


@pytest.fixture(scope="session")
def encoder_folders(tmp_path_factory):
    """Kind to the folder of a tiny speech encoder; read only."""
    top = tmp_path_factory.mktemp("encoders")
    return {k: make_encoder(k, top / k) for k in ("wavlm", "whisper")}


@pytest.fixture(params=sorted(KINDS))
def kind(request):
    """Qwen2 and Llama in turn."""
    return request.param


@pytest.fixture
def source(kind, decoder_folders):
    """Folder of a tiny causal LM of this kind."""
    return decoder_folders[kind]


def write_corpus(top, splits, seed=0):
    """Tones and noise in LibriSpeech's layout; gives its folder (str)."""
    random = np.random.default_rng(seed)
    for number, (split, size) in enumerate(splits.items()):
        chapter = f"{number + 1}-10"
        folder = Path(top) / split / str(number + 1) / "10"
        folder.mkdir(parents=True)
        lines = []
        for index in range(size):
            name = f"{chapter}-{index:04d}"
            samples = int(random.uniform(0.25, 0.9) * 16000)
            time = np.arange(samples) / 16000
            pitch = random.uniform(100, 2000)
            wav = 0.3 * np.sin(2 * np.pi * pitch * time)
            wav += 0.05 * random.standard_normal(samples)
            soundfile.write(str(folder / f"{name}.flac"), wav, 16000)
            said = random.choice(WORDS, size=random.integers(1, 4))
            lines.append(f"{name} {' '.join(said).upper()}\n")
        (folder / f"{chapter}.trans.txt").write_text("".join(lines))
    return str(top)


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A tiny corpus in LibriSpeech's layout; read only."""
    top = tmp_path_factory.mktemp("corpus") / "LibriSpeech"
    splits = {"train-clean-100": 10, "dev-clean": 5, "test-clean": 6}
    return write_corpus(top, {**splits, "test-other": 3})


PROMPT = "{speech}\nsay: {target}"


def make_model(source, removed=None, encoder=None, width=12, **options):
    """A tiny speech LLM on features of some width, or with an encoder."""
    from speechbrain_ext.model.decoder import Decoder
    from speechbrain_ext.model.prompt import Prompt
    from speechbrain_ext.model.speech_llm import (
        Projector,
        SpeechLLM,
        SpeechMarkers,
    )

    decoder = Decoder.from_source(
        source,
        removed,
        options.get("dtype", "float32"),
        gradient_checkpointing=options.get("gradient_checkpointing", False),
    )
    prompt = Prompt.from_template(
        decoder.tokenizer, PROMPT, options.get("chat_template", False)
    )
    if encoder is not None:
        width = encoder.width * 3
    torch.manual_seed(5)
    markers = options.get("markers", False)
    return SpeechLLM(
        encoder,
        Projector(width, decoder.width),
        decoder,
        prompt,
        3,
        SpeechMarkers(decoder.width) if markers else None,
    )


def make_features(sizes, width=12, seed=3):
    """Random features padded to the longest, and their true lengths."""
    torch.manual_seed(seed)
    rows = [2 * torch.randn(size, width) for size in sizes]
    x_BSF = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return x_BSF, torch.tensor(sizes)


TRAINING = dict(
    seed=7,
    steps=8,
    warmup_steps=2,
    warmdown_steps=3,
    lr_projector=1e-2,
    lr_adapter=1e-2,
    lr_bridge=1e-2,
    adam_betas=[0.9, 0.999],
    max_grad_norm=1.0,
    batch_size=4,
    batch_seconds=None,
    length_pool=1,
    test_batch_size=3,
    grad_accumulation_factor=1,
    valid_interval=4,
    checkpoint_interval=2,
    num_workers=0,
    max_new_tokens=12,
    max_tokens_per_second=12,
    precision="fp32",
    noprogressbar=True,
)


def make_dataset(prompt, size=10, seed=0, width=12):
    """Random features of mixed lengths with targets of mixed lengths."""
    import speechbrain as sb

    random = np.random.default_rng(seed)
    rows, features = {}, {}
    for index in range(size):
        name = f"u{index:02d}"
        tokens = int(random.integers(1, 8))
        said = random.choice(WORDS, size=random.integers(1, 7))
        rows[name] = {"duration": tokens / 4, "target": " ".join(said)}
        values = 2 * random.standard_normal((tokens, width))
        features[name] = torch.tensor(values, dtype=torch.float32)
    items = [
        {"func": features.get, "takes": "id", "provides": "features"},
        {
            "func": prompt.encode_target,
            "takes": "target",
            "provides": "target_ids",
        },
    ]
    keys = ["id", "duration", "target", "features", "target_ids"]
    return sb.dataio.dataset.DynamicItemDataset(rows, items, keys)


def make_brain(source, removed=None, strategy=None, folder=None, **changes):
    """A tiny speech LLM's Brain; a baseline where there is no strategy."""
    from speechbrain_ext.healing import Lora, heal
    from speechbrain_ext.healing.apply import train_parts
    from speechbrain_ext.training.checkpoints import AtomicCheckpointer

    torch.manual_seed(11)
    model = make_model(source, removed)
    lora = Lora(rank=2, dropout=changes.pop("dropout", 0.1))
    if strategy is None:
        trainable = train_parts(model, True, verbose=False)
    else:
        trainable = heal(model, removed, strategy, lora, verbose=False)
    hparams = {**TRAINING, **changes}
    checkpointer = None
    if folder is not None:
        checkpointer = AtomicCheckpointer(str(folder))
    options = {"device": "cpu"}
    return brain_class()(model, trainable, hparams, options, checkpointer)


def brain_class():
    """A Brain with the loss of the recipes, written down once more."""
    from speechbrain_ext.data.batches import targets_of
    from speechbrain_ext.training.brain import SpeechLLMBrain

    class Brain(SpeechLLMBrain):
        """Brain."""

        def compute_forward(self, batch, stage):
            """Compute forward."""
            inputs = (*self.speech_of(batch), targets_of(batch))
            teacher_NV = self.teacher_logits(inputs, stage)
            return *self.modules.model(*inputs), teacher_NV

        def compute_objectives(self, predictions, batch, stage):
            """Compute objectives."""
            logits_NV, labels_N, teacher_NV = predictions
            if teacher_NV is not None:
                return self.distillation.loss(logits_NV, teacher_NV, labels_N)
            return torch.nn.functional.cross_entropy(
                logits_NV.float(), labels_N, reduction="sum"
            )

    return Brain


def weights_of(brain):
    """Name to value of everything that a Brain trains."""
    return {n: p.detach().clone() for n, p in brain.trainable.named()}
