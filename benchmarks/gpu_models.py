"""The models that `benchmarks.gpu` measures, random, in the paper's sizes."""

from benchmarks.common import tiers

import torch  # isort: skip
from transformers import AutoModelForCausalLM, WavLMConfig, WavLMModel

from benchmarks.models import (
    JOINED,
    PUBLISHED,
    published_config,
    qwen2_config,
    wavlm_config,
    wrapped,
)
from speechbrain_ext.layers import Block
from speechbrain_ext.layers.pruned_config import pruned_config
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.model.speech_llm import Projector, SpeechLLM
from speechbrain_ext.tiny_models import WAVLM

WAVLM_LARGE = wavlm_config(1024, 24, 16, conv_bias=False)
TINY_WAVLM = WavLMConfig(**WAVLM)
TIERS = tiers(
    "cpu",
    decoders=(
        {name: published_config(name) for name in PUBLISHED},
        {"tiny": qwen2_config(5, 64, 300, tied=False)},
    ),
    encoder=(WAVLM_LARGE, TINY_WAVLM),
    decoded=(("Llama-3.1-8B", "Qwen2.5-7B"), ("tiny",)),
    trained=(("Qwen2.5-7B", "Llama-3.2-1B"), ("tiny",)),
    exact=("Qwen2.5-7B", "tiny"),
    removed=((0, 13), (0, 2)),
    batches=((1, 8, 32), (1, 3)),
    seconds=(15, 1),
    long_seconds=(35, 1),
    tokens=(50, 5),
    prompt=(8, 3),
    training_batch=(16, 2),
    copy_bytes=(2**31, 2**20),
    repeats=(2, 1),
    sentences=(24, 2),
)


class _NoText:
    """Stands for a tokenizer where no text is made."""

    eos_token_id = None


def build(name, removed, tier, device, dtype=torch.bfloat16):
    """A random speech LLM with some of its decoder's layers removed."""
    config = tier["decoders"][name]
    start = config.num_hidden_layers - 2 - removed
    block = Block(start, removed) if removed else None
    torch.manual_seed(0)
    with torch.device(device):
        lm = AutoModelForCausalLM.from_config(
            pruned_config(config, block),
            dtype=dtype,
            trust_remote_code=False,
        )
        wavlm = WavLMModel(tier["encoder"]).to(dtype)
        projector = Projector(
            wavlm.config.hidden_size * JOINED, lm.config.hidden_size
        )
    # One of WavLM's parameters is born on the CPU, whatever the device.
    wavlm = wavlm.to(device)
    lm.generation_config.eos_token_id = None
    encoder = wrapped(wavlm)
    prompt_ids = torch.arange(2, 2 + tier["prompt"])
    prompt = Prompt(prompt_ids[:0], prompt_ids, None)
    decoder = Decoder(lm.eval(), _NoText(), name)
    return SpeechLLM(encoder, projector, decoder, prompt, JOINED).eval()
