"""A training step without masks beside one whose padding is masked."""

from unittest import mock

from benchmarks.common import (
    calls,
    peak_of,
    same_gradients,
    script,
    tiers,
    time_and_memory,
)
from benchmarks.models import projector_step, random_speech_llm, training_batch
from speechbrain_ext.model.prompt import Sequence

SIZES = tiers(
    layers=(4, 1),
    width=(512, 64),
    vocabulary=(1000, 300),
    features=(64, 8),
    rows=(4, 3),
    speech=(600, 14),
    prompt=(10, 3),
    target=(100, 5),
)


def make(sizes):
    """A speech LLM whose projector is trained, and a batch."""
    return random_speech_llm(sizes), training_batch(sizes)


def peer_step(model, batch):
    """The same as `projector_step`, mask and positions given."""
    with mock.patch.object(Sequence, "causal_inputs", Sequence.as_inputs):
        return projector_step(model, batch)


STEPS = {"ours": projector_step, "peer": peer_step}


def check(sizes):
    """Same loss, same gradients."""
    made = make(sizes)
    parameters = [*made[0].projector.parameters()]
    same_gradients(parameters, calls(STEPS, made), rtol=1e-4, atol=1e-6)


def peak(side, sizes):
    """Peak memory of one step in MB."""
    return peak_of(lambda: make(sizes), lambda made: STEPS[side](*made))


def rows(sizes, tier):
    """Time and memory."""
    positions = sizes["speech"] + sizes["prompt"] + sizes["target"]
    yield from time_and_memory(
        "training_attention",
        tier,
        "training step, padding on the right without a mask{}; peer: masked",
        calls(STEPS, make(sizes)),
        5,
        ("at least 1", "at most 1"),
        sizes=f"{sizes['layers']} layers, {sizes['width']} wide, four heads to "
        f"a key, {sizes['rows']} rows of up to {positions} positions",
    )


if __name__ == "__main__":
    script("training_attention", SIZES, check, rows)
