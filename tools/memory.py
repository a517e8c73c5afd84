"""Memory and time of the paper's six backbones, computed from their shapes.

``python tools/memory.py`` prints the tables of docs/gpu.md. What is assumed
stands above each; benchmarks/README.md has what one H100 measured on two of
them.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from speechllm.report.tables import markdown_table  # noqa: E402

GIB = 2**30
# WavLM-Large in 16 bit, and what a step of it computes.
ENCODER = 315_500_000
SPEECH_HZ, FRAME_HZ = 10, 50
# A training step of the recipe: 16 utterances of 15 s with 40 tokens of text.
BATCH, SECONDS, TEXT = 16, 15, 40
STEPS = 60_000
# One H100: the rate at which it copies (measured, benchmarks/README.md), and
# 40 % of its 989 TFLOPS in bfloat16.
COPIES, FLOPS = 2936e9, 0.4 * 989e12


@dataclass(frozen=True)
class Shape:
    """A decoder's shape, as its config.json says, and the paper's depth."""

    name: str
    vocab: int
    width: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    tied: bool
    removed: int
    bias: bool = False

    @property
    def kv(self) -> int:
        """Width of keys, and of values."""
        return self.width // self.heads * self.kv_heads

    @property
    def layer(self) -> int:
        """Values of one layer."""
        matrices = 2 * self.width**2 + 2 * self.width * self.kv
        biases = (self.width + 2 * self.kv) * self.bias
        return matrices + biases + 3 * self.width * self.mlp + 2 * self.width

    def values(self, removed: int = 0) -> int:
        """Values of the model without some layers."""
        tables = self.vocab * self.width * (1 if self.tied else 2)
        return (self.layers - removed) * self.layer + tables + self.width


def qwen(name, *sizes, tied, removed):
    """A Qwen2.5: biases on queries, keys and values."""
    return Shape(f"Qwen2.5-{name}", *sizes, tied, removed, bias=True)


# fmt: off
SHAPES = [
    qwen("1.5B", 151_936, 1536, 8960, 28, 12, 2, tied=True, removed=7),
    qwen("3B", 151_936, 2048, 11_008, 36, 16, 2, tied=True, removed=11),
    qwen("7B", 152_064, 3584, 18_944, 28, 28, 4, tied=False, removed=8),
    Shape("Llama-3.2-1B", 128_256, 2048, 8192, 16, 32, 8, True, 1),
    Shape("Llama-3.2-3B", 128_256, 3072, 8192, 28, 24, 8, True, 11),
    Shape("Llama-3.1-8B", 128_256, 4096, 14_336, 32, 32, 8, False, 14),
]
# fmt: on


def decoding(shape: Shape, removed: int = 0, batch: int = 1) -> float:
    """Bytes while decoding: weights, encoder, projector, keys and values."""
    tokens = SECONDS * SPEECH_HZ + 2 * TEXT
    cache = 2 * (shape.layers - removed) * shape.kv * tokens * batch
    weights = shape.values(removed) + ENCODER + projector(shape)
    return 2.0 * (weights + cache)


def projector(shape: Shape) -> int:
    """Values of Linear, GELU, Linear from five frames to the LLM."""
    return (5 * 1024 + shape.width + 2) * shape.width


def training(shape: Shape, checkpointing: bool = False) -> float:
    """Bytes of a step that trains the projector below a frozen decoder."""
    tokens = BATCH * (SECONDS * SPEECH_HZ + TEXT)
    # Frozen matrices keep no input: of a layer the MLP's three products,
    # queries, keys, values and their sum stay in 16 bit, two norms in 32 bit.
    layer = 2 * (3 * shape.mlp + 2 * shape.width + 2 * shape.kv)
    layer += 16 * shape.width
    kept = 2 * shape.width * shape.layers + layer
    kept = kept if checkpointing else layer * shape.layers
    # Logits at text positions: 16 bit, 32 bit and their gradient.
    logits = BATCH * TEXT * shape.vocab * (2 + 4 + 4)
    weights = 2 * (shape.values() + ENCODER)
    # The projector in 32 bit, its gradient and Adam's two moments.
    return weights + tokens * kept + logits + 16 * projector(shape)


def step_seconds(shape: Shape) -> float:
    """Seconds of that step: forward, and the gradient down to the speech."""
    tokens = BATCH * (SECONDS * SPEECH_HZ + TEXT)
    decoder = 4 * shape.layers * shape.layer * tokens
    head = 4 * shape.vocab * shape.width * BATCH * TEXT
    encoder = 2 * ENCODER * BATCH * SECONDS * FRAME_HZ
    return (decoder + head + encoder) / FLOPS


def token_ms(shape: Shape, removed: int = 0) -> float:
    """Milliseconds a token, if reading the weights were all there is."""
    read = (shape.layers - removed) * shape.layer + shape.vocab * shape.width
    return 2e3 * read / COPIES


def tables() -> str:
    """Both tables with what they assume, as Markdown."""
    use = [
        [
            s.name + (f", {n} of {s.layers} removed" if n else ""),
            f"{s.values(n) / 1e9:.2f}",
            f"{2 * s.values(n) / GIB:.1f}",
            f"{decoding(s, n) / GIB:.1f}",
            f"{decoding(s, n, 32) / GIB:.1f}",
            f"{token_ms(s, n):.1f}",
        ]
        for s in SHAPES
        for n in (0, s.removed)
    ]
    train = [
        [
            s.name,
            f"{training(s) / GIB:.0f}",
            f"{training(s, True) / GIB:.0f}",
            f"{step_seconds(s):.2f}",
            f"{STEPS * step_seconds(s) / 3600:.1f}",
        ]
        for s in SHAPES
    ]
    heads = (
        ["decoder", "10^9 values", "weights, GiB", "decoding one, GiB"]
        + ["decoding 32, GiB", "ms a token, at least"],
        ["decoder", "a step, GiB", "with checkpointing, GiB"]
        + ["s a step, at least", f"hours of {STEPS:,} steps, at least"],
    )
    return (
        "**Computed, not measured.** Decoding: bfloat16, WavLM-Large and the "
        f"projector beside it, utterances of {SECONDS} s, a cache of "
        f"{SECONDS * SPEECH_HZ + 2 * TEXT} tokens. A token takes at least as "
        "long as reading the weights once takes an H100 (2,936 GB/s); "
        "`--decode_static True` measured 1.4 times that, the plain way about "
        f"5 times.\n\n{markdown_table(heads[0], use)}\n"
        "**Computed, not measured.** Training the projector: bfloat16, "
        f"{BATCH} utterances of {SECONDS} s with {TEXT} tokens of text, the "
        "encoder in the step without gradient, logits at the text alone; an "
        "H100 at 40 % of its 989 TFLOPS. Healing trains as long a step, for a "
        f"tenth of the steps.\n\n{markdown_table(heads[1], train)}"
    )


if __name__ == "__main__":
    print(tables())
