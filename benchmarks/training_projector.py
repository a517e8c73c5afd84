"""A projector's training step beside logits at all positions.

Both run the same frozen decoder; the peer computes logits at speech and
prompt positions too, and lets the loss ignore them.
"""

from benchmarks.common import paired, peak_of, peaks, row_of, script

import torch  # isort: skip

from benchmarks.models import (
    all_logits_loss,
    random_decoder,
    speech_llm,
    training_batch,
)

SIZES = {
    "full": dict(
        cases=[(4, 256, 5), (28, 256, 3)],
        vocabulary=151_936,
        features=640,
        rows=4,
        speech=140,
        prompt=10,
        target=24,
    ),
    "tiny": dict(
        cases=[(2, 32, 1)],
        vocabulary=400,
        features=24,
        rows=3,
        speech=14,
        prompt=3,
        target=5,
    ),
}
NOTE = (
    "The head is all that can be saved here: of a step's matrix products it "
    "is {share:.0%} for the peer, so {floor:.2f}x is what the count of "
    "operations allows, plus what reading and writing the peer's logits "
    "costs. With few layers or narrow ones the same saving is most of the "
    "step (the row above); for a 7B decoder it is a tenth of the time, and "
    "of the memory {memory:.1f} GB for a batch of 16 with 200 positions."
)


def make_model(sizes, layers, width):
    """A speech LLM whose projector is trained."""
    decoder = random_decoder(layers, width, sizes["vocabulary"])
    return speech_llm(sizes["features"], decoder, sizes["prompt"])


def our_step(model, batch):
    """Loss and gradients from logits at target positions."""
    model.projector.zero_grad(set_to_none=True)
    logits_NV, labels_N = model(*batch)
    loss = torch.nn.functional.cross_entropy(
        logits_NV.float(), labels_N, reduction="sum"
    )
    (loss / len(labels_N)).backward()
    return loss.item()


def peer_step(model, batch):
    """The same from logits at all positions."""
    model.projector.zero_grad(set_to_none=True)
    sequence = model.sequence(*batch)
    loss = all_logits_loss(model.decoder.lm, sequence)
    (loss / sum(map(len, batch[2]))).backward()
    return loss.item()


STEPS = {"ours": our_step, "peer": peer_step}


def check(sizes):
    """Same loss, same gradient."""
    layers, width, _ = sizes["cases"][0]
    model, batch = make_model(sizes, layers, width), training_batch(sizes)
    found = {}
    for side, step in STEPS.items():
        loss = step(model, batch)
        gradients = [p.grad.clone() for p in model.projector.parameters()]
        found[side] = [torch.tensor(loss)] + gradients
    torch.testing.assert_close(
        found["ours"], found["peer"], rtol=1e-3, atol=1e-5
    )
    assert found["ours"][1].abs().max() > 0


def peak(side, sizes):
    """Peak memory of one step in MB."""
    layers, width, _ = sizes["cases"][0]

    def prepare():
        return make_model(sizes, layers, width), training_batch(sizes)

    return peak_of(prepare, lambda made: STEPS[side](*made))


def note_of(sizes, model):
    """What the count of operations allows, in words."""
    lm = model.decoder.lm
    head = lm.lm_head.weight.numel()
    layers = sum(p.numel() for p in lm.model.layers.parameters())
    positions = sizes["speech"] + sizes["prompt"] + sizes["target"]
    whole = layers + head
    least = layers + head * sizes["target"] / positions
    return NOTE.format(
        share=head / whole,
        floor=whole / least,
        memory=16 * 200 * sizes["vocabulary"] * 4 * 2 / 1e9,
    )


def rows(sizes, tier):
    """Time for each geometry, memory for the first."""
    batch = training_batch(sizes)
    told = (
        f"vocabulary {sizes['vocabulary']:,}, batch {sizes['rows']}, "
        f"{sizes['speech']} speech, {sizes['prompt']} prompt and "
        f"{sizes['target']} target tokens"
    )
    for layers, width, repeats in sizes["cases"]:
        model = make_model(sizes, layers, width)
        yield row_of(
            f"projector training step, {layers} layers; peer: logits at all "
            "positions",
            *paired(
                lambda: our_step(model, batch),
                lambda: peer_step(model, batch),
                repeats,
            ),
            "at least 3",
            sizes=f"{layers} layers, {width} wide, {told}",
            note=note_of(sizes, model),
        )
    layers, width, _ = sizes["cases"][0]
    yield row_of(
        f"projector training step, {layers} layers, peak memory; peer: "
        "logits at all positions",
        *peaks("training_projector", ("ours", "peer"), tier),
        "at most 0.5",
        unit="MB",
        sizes=f"{layers} layers, {width} wide, {told}; weights included",
    )


if __name__ == "__main__":
    script("training_projector", SIZES, check, rows)
