"""A training step without masks beside one whose padding is masked."""

from unittest import mock

from benchmarks.common import paired, peak_of, peaks, row_of, script

import torch  # isort: skip

from benchmarks.models import random_decoder, speech_llm, training_batch
from speechbrain_ext.model.prompt import Sequence

SIZES = {
    "full": dict(
        layers=4,
        width=512,
        vocabulary=1000,
        features=64,
        rows=4,
        speech=600,
        prompt=10,
        target=100,
    ),
    "tiny": dict(
        layers=1,
        width=64,
        vocabulary=300,
        features=8,
        rows=3,
        speech=14,
        prompt=3,
        target=5,
    ),
}


def make(sizes):
    """A speech LLM whose projector is trained, and a batch."""
    decoder = random_decoder(
        sizes["layers"], sizes["width"], sizes["vocabulary"]
    )
    model = speech_llm(sizes["features"], decoder, sizes["prompt"])
    return model, training_batch(sizes)


def our_step(model, batch):
    """Loss and gradients."""
    model.projector.zero_grad(set_to_none=True)
    logits_NV, labels_N = model(*batch)
    loss = torch.nn.functional.cross_entropy(logits_NV, labels_N)
    loss.backward()
    return loss.item()


def peer_step(model, batch):
    """The same, mask and positions given."""
    with mock.patch.object(Sequence, "causal_inputs", Sequence.as_inputs):
        return our_step(model, batch)


STEPS = {"ours": our_step, "peer": peer_step}


def check(sizes):
    """Same loss, same gradients."""
    model, batch = make(sizes)
    found = []
    for step in STEPS.values():
        loss = torch.tensor(step(model, batch))
        gradients = [p.grad.clone() for p in model.projector.parameters()]
        found.append([loss, *gradients])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)
    assert found[0][1].abs().max() > 0


def peak(side, sizes):
    """Peak memory of one step in MB."""
    return peak_of(lambda: make(sizes), lambda made: STEPS[side](*made))


def rows(sizes, tier):
    """Time and memory."""
    model, batch = make(sizes)
    positions = sizes["speech"] + sizes["prompt"] + sizes["target"]
    told = (
        f"{sizes['layers']} layers, {sizes['width']} wide, four heads to a "
        f"key, {sizes['rows']} rows of up to {positions} positions"
    )
    yield row_of(
        "training step, padding on the right without a mask; peer: masked",
        *paired(
            lambda: our_step(model, batch), lambda: peer_step(model, batch), 5
        ),
        "at least 1",
        sizes=told,
    )
    yield row_of(
        "training step, padding on the right without a mask, peak memory; "
        "peer: masked",
        *peaks("training_attention", ("ours", "peer"), tier),
        "at most 1",
        unit="MB",
        sizes=told,
    )


if __name__ == "__main__":
    script("training_attention", SIZES, check, rows)
