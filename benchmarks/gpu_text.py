"""Which tokens come out: of recorded steps, and of batches of other sizes."""

from pathlib import Path

import torch

from benchmarks.gpu_models import build
from benchmarks.models import noise
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.model.decoding import greedy
from speechbrain_ext.model.prompt import Prompt, assemble
from speechbrain_ext.model.static_decoding import StaticDecoding
from speechllm import mini_world
from speechllm.mini_world.corpus.text import draw_sentences
from speechllm.mini_world.pretrain.noisy_text import TextTasks


@torch.no_grad()
def same_tokens(tier, clock):
    """Recorded steps against plain ones in fp32, where ties do not decide."""
    model = build(tier["exact"], 0, tier, clock.device, torch.float32)
    lm = model.decoder.lm
    found = {"decoder": tier["exact"], "tokens": tier["tokens"]}
    for batch in tier["batches"][:2]:
        wavs = noise(batch, tier["seconds"], 0.5, clock.device)
        features = model.features(*wavs)
        sequence = model.sequence(*features, side="left")
        limits_B = torch.full((batch,), tier["tokens"])
        plain, recorded = (
            greedy(lm, sequence, limits_B, [-1], static=static)
            for static in (None, StaticDecoding())
        )
        found[f"batch {batch}"] = plain == recorded
    return found


def read_sources(decoder, examples):
    """Sources and their prompts as rows to decode (Sequence)."""
    device = decoder.device
    prompts = [
        Prompt(
            torch.tensor([], dtype=torch.long),
            torch.tensor(example.prompt),
            decoder.tokenizer,
        )
        for example in examples
    ]
    sources = [
        decoder.embed(torch.tensor(example.source, device=device))
        for example in examples
    ]
    return assemble(prompts, sources, decoder.embed, side="left")


@torch.no_grad()
def batch_invariance(tier, clock):
    """Share of a mini decoder's translations that change with batch or way."""
    source = Path(mini_world.__file__).parent / "models/mini-qwen2"
    return {
        dtype: changed_rows(str(source), dtype, tier, clock)
        for dtype in ("float32", "bfloat16")
    }


def changed_rows(source, dtype, tier, clock):
    """`batch_invariance` in one type (dict)."""
    decoder = Decoder.from_source(source, dtype=dtype, device=clock.device)
    assert decoder.dtype == DTYPES[dtype]
    tasks = TextTasks(decoder.tokenizer, "dev-clean", 1, seed=1)
    examples = [
        tasks.example("to-german", "en", sentence, 1.0)
        for sentence in draw_sentences("dev-clean", tier["sentences"], seed=2)
    ]

    def said(size, static=None):
        decoder.static = static
        texts = []
        for first in range(0, len(examples), size):
            some = examples[first : first + size]
            limits_B = torch.full((len(some),), 60)
            texts += decoder.greedy(read_sources(decoder, some), limits_B)
        return texts

    alone, plain, recorded = said(1), said(8), said(8, StaticDecoding())
    return {
        "rows": len(examples),
        "right": share(alone, [example.target[:-1] for example in examples]),
        "changed_by_batch": 1 - share(alone, plain),
        "changed_by_recording": 1 - share(plain, recorded),
    }


def share(texts, others):
    """Of rows that are the same (float)."""
    pairs = list(zip(texts, others, strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)
