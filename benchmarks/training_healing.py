"""A decoder-only healing step beside gradients through the whole decoder.

With a frozen projector nothing below the receiving layer needs a gradient.
The peer computes them down to the embeddings all the same, as a model does
whose inputs are made to need one (what PEFT and gradient checkpointing ask
for by default).
"""

from benchmarks.common import paired, row_of, script

import torch  # isort: skip

from benchmarks.models import random_decoder, speech_llm, training_batch
from speechbrain_ext.healing.apply import heal
from speechbrain_ext.healing.lora import Lora
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import Decoder

SIZES = {
    "full": dict(
        layers=28,
        width=256,
        block=Block(16, 8),
        vocabulary=151_936,
        features=640,
        rows=4,
        speech=140,
        target=24,
        repeats=7,
    ),
    "tiny": dict(
        layers=6,
        width=32,
        block=Block(3, 2),
        vocabulary=400,
        features=24,
        rows=2,
        speech=9,
        target=4,
        repeats=1,
    ),
}


def make_model(sizes):
    """A pruned speech LLM with LoRA on its receiving layer."""
    whole = random_decoder(sizes["layers"], sizes["width"], sizes["vocabulary"])
    lm = drop_layers(whole.lm, sizes["block"])
    model = speech_llm(sizes["features"], Decoder(lm, whole.tokenizer))
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
    """The trained parameters, ours and the peer's step."""
    model, parameters = make_model(sizes)
    batch = training_batch(sizes)
    ours = lambda: step(model, parameters, batch, False)  # noqa: E731
    peer = lambda: step(model, parameters, batch, True)  # noqa: E731
    return parameters, ours, peer


def check(sizes):
    """Same loss, same gradients of what is trained."""
    parameters, ours, peer = two_ways(sizes)
    found = []
    for side in (ours, peer):
        loss = side()
        found.append([torch.tensor(loss)] + [p.grad for p in parameters])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-6)
    assert all(gradient.abs().max() > 0 for gradient in found[0][1:])


def rows(sizes, tier):
    """One row."""
    _, ours, peer = two_ways(sizes)
    block = sizes["block"]
    kept = sizes["layers"] - block.size
    yield row_of(
        "decoder-only healing step; peer: gradients down to the embeddings",
        *paired(ours, peer, sizes["repeats"]),
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
