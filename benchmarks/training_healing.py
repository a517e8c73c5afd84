"""A decoder-only healing step beside gradients through the whole decoder.

With a frozen projector nothing below the receiving layer needs a gradient.
The peer computes them down to the embeddings all the same, as a model does
whose inputs are made to need one (what PEFT and gradient checkpointing ask
for by default).
"""

import functools

from benchmarks.common import same_gradients, script, tiers, timed

import torch  # isort: skip

from benchmarks.models import random_decoder, speech_llm, training_batch
from speechbrain_ext.healing.apply import heal
from speechbrain_ext.healing.lora import Lora
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import Decoder

SIZES = tiers(
    layers=(28, 6),
    width=(256, 32),
    block=(Block(16, 8), Block(3, 2)),
    vocabulary=(151_936, 400),
    features=(640, 24),
    rows=(4, 2),
    speech=(140, 9),
    prompt=(4, 4),
    target=(24, 4),
    repeats=(7, 1),
)


def make_model(sizes):
    """A pruned speech LLM with LoRA on its receiving layer."""
    whole = random_decoder(sizes)
    decoder = Decoder(drop_layers(whole.lm, sizes["block"]), whole.tokenizer)
    model = speech_llm(sizes["features"], decoder, sizes["prompt"])
    lora = Lora(dropout=0.0)
    trainable = heal(model, sizes["block"], "decoder", lora, verbose=False)
    for name, parameter in trainable.named():
        # At zero one factor's gradient is zero: nothing could be compared.
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    return model, [parameter for _, parameter in trainable.named()]


def step(model, parameters, batch, whole_way):
    """One step's loss and gradients."""
    for parameter in parameters:
        parameter.grad = None
    sequence = model.sequence(*batch)
    if whole_way:
        sequence.embeds_BQD.requires_grad_(True)
    logits_NV, labels_N = model.decoder.target_logits(sequence)
    loss = torch.nn.functional.cross_entropy(logits_NV, labels_N)
    loss.backward()
    if whole_way:
        assert sequence.embeds_BQD.grad is not None
    return loss.item()


def two_ways(sizes):
    """The trained parameters; ours and the peer's step."""
    model, parameters = make_model(sizes)
    given = step, model, parameters, training_batch(sizes)
    return parameters, [functools.partial(*given, way) for way in (False, True)]


def check(sizes):
    """Same loss, same gradients of what is trained."""
    same_gradients(*two_ways(sizes), rtol=1e-4, atol=1e-6)


def rows(sizes, tier):
    """One row."""
    block = sizes["block"]
    kept = sizes["layers"] - block.size
    yield timed(
        "decoder-only healing step; peer: gradients down to the embeddings",
        two_ways(sizes)[1],
        sizes["repeats"],
        "at least 1.5",
        sizes=f"{kept} of {sizes['layers']} layers, {sizes['width']} wide, "
        f"layers {block.start} to {block.receiving - 1} removed, "
        f"vocabulary {sizes['vocabulary']:,}, batch {sizes['rows']}",
        note="Forward through all kept layers is needed either way; only "
        f"{kept - block.start} of the {kept} backward passes are left, so "
        f"{2 * kept / (2 * kept - block.start):.2f}x is the count's limit "
        "for this block.",
    )


if __name__ == "__main__":
    script("training_healing", SIZES, check, rows)
