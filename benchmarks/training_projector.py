"""A projector's training step beside logits at all positions.

Both run the same frozen decoder; the peer computes logits at speech and
prompt positions too, and lets the loss ignore them.
"""

from benchmarks.common import (
    calls,
    peak_of,
    peaks,
    row_of,
    same_gradients,
    script,
    tiers,
    timed,
)

import torch  # isort: skip

from benchmarks.models import projector_step, random_speech_llm, training_batch
from speechbrain_ext.model.prompt import IGNORE

# cases: layers, width, pairs.
SIZES = tiers(
    cases=([(4, 256, 5), (28, 256, 3)], [(2, 32, 1)]),
    vocabulary=(151_936, 400),
    features=(640, 24),
    rows=(4, 3),
    speech=(140, 14),
    prompt=(10, 3),
    target=(24, 5),
)
NOTE = (
    "The head is all that can be saved here: of a step's matrix products it "
    "is {share:.0%} for the peer, so {floor:.2f}x is what the count of "
    "operations allows, plus what reading and writing the peer's logits "
    "costs. With few layers or narrow ones the same saving is most of the "
    "step (the row above); for a 7B decoder it is a tenth of the time, and "
    "of the memory {memory:.1f} GB for a batch of 16 with 200 positions."
)


def make(sizes, case=0):
    """A speech LLM of a case's sizes whose projector is trained, and a batch."""
    layers, width, _ = sizes["cases"][case]
    model = random_speech_llm({**sizes, "layers": layers, "width": width})
    return model, training_batch(sizes)


def all_logits_loss(lm, sequence):
    """The loss from logits at all positions: what ours is held against."""
    logits_BQV = lm(**sequence.as_inputs(), use_cache=False).logits
    return torch.nn.functional.cross_entropy(
        logits_BQV.flatten(0, 1).float(),
        sequence.labels_BQ.flatten(),
        ignore_index=IGNORE,
    )


def peer_step(model, batch):
    """The same as `projector_step`, from logits at all positions."""
    model.projector.zero_grad(set_to_none=True)
    loss = all_logits_loss(model.decoder.lm, model.sequence(*batch))
    loss.backward()
    return loss.item()


STEPS = {"ours": projector_step, "peer": peer_step}


def check(sizes):
    """Same loss, same gradient."""
    made = make(sizes)
    parameters = [*made[0].projector.parameters()]
    same_gradients(parameters, calls(STEPS, made), rtol=1e-3, atol=1e-5)


def peak(side, sizes):
    """Peak memory of one step in MB."""
    return peak_of(lambda: make(sizes), lambda made: STEPS[side](*made))


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
    name = "projector training step, {} layers{}; peer: logits at all positions"
    told = (
        f"vocabulary {sizes['vocabulary']:,}, batch {sizes['rows']}, "
        f"{sizes['speech']} speech, {sizes['prompt']} prompt and "
        f"{sizes['target']} target tokens"
    )
    for case, (layers, width, repeats) in enumerate(sizes["cases"]):
        made = make(sizes, case)
        yield timed(
            name.format(layers, ""),
            calls(STEPS, made),
            repeats,
            "at least 3",
            sizes=f"{layers} layers, {width} wide, {told}",
            note=note_of(sizes, made[0]),
        )
    layers, width, _ = sizes["cases"][0]
    yield row_of(
        name.format(layers, ", peak memory"),
        *peaks("training_projector", tier),
        "at most 0.5",
        unit="MB",
        sizes=f"{layers} layers, {width} wide, {told}; weights included",
    )


if __name__ == "__main__":
    script("training_projector", SIZES, check, rows)
