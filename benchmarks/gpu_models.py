"""The models that `benchmarks.gpu` measures, random, in the paper's sizes."""

import torch
from transformers import AutoModelForCausalLM, WavLMModel

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

WAVLM_LARGE = wavlm_config(1024, 24, 16, conv_bias=False)
TINY_WAVLM = wavlm_config(
    16,
    1,
    2,
    conv_dim=(8, 8),
    conv_kernel=(400, 3),
    conv_stride=(160, 2),
    num_conv_pos_embeddings=8,
    num_conv_pos_embedding_groups=2,
)
TIERS = {
    "full": dict(
        decoders={name: published_config(name) for name in PUBLISHED},
        encoder=WAVLM_LARGE,
        decoded=("Llama-3.1-8B", "Qwen2.5-7B"),
        trained=("Qwen2.5-7B", "Llama-3.2-1B"),
        exact="Qwen2.5-7B",
        removed=(0, 13),
        batches=(1, 8, 32),
        seconds=15,
        long_seconds=35,
        tokens=50,
        prompt=8,
        training_batch=16,
        copy_bytes=2**31,
        repeats=2,
        sentences=24,
    ),
    "cpu": dict(
        decoders={"tiny": qwen2_config(5, 64, 300, tied=False)},
        encoder=TINY_WAVLM,
        decoded=("tiny",),
        trained=("tiny",),
        exact="tiny",
        removed=(0, 2),
        batches=(1, 3),
        seconds=1,
        long_seconds=1,
        tokens=5,
        prompt=3,
        training_batch=2,
        copy_bytes=2**20,
        repeats=1,
        sentences=2,
    ),
}


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
