"""Batches of similar length beside batches as they are drawn.

Lengths like LibriSpeech's: most of 13 to 17 s, the rest from 2 s on, and
tokens of the target that scatter about those of the length.
"""

import functools

from benchmarks.common import counted, same_gradients, script, tiers, timed

import torch  # isort: skip

from benchmarks.models import random_speech_llm
from speechbrain_ext.data.batches import StepBatchSampler
from speechbrain_ext.data.seconds import SecondsBatchSampler

SIZES = tiers(
    utterances=(281_241, 400),  # LibriSpeech's 960 hours
    batch=(16, 4),
    pool=(64, 8),
    steps=(640, 16),
    layers=(2, 1),
    width=(192, 32),
    vocabulary=(2000, 300),
    features=(64, 8),
    prompt=(10, 10),
    trained=(16, 4),
    scale=(0.25, 0.1),
    seconds=(200.0, 50.0),
)
# Speech and target tokens a second.
SPEECH, TARGET = 10, 3.3


@functools.cache
def lengths(count):
    """Speech and target tokens of some utterances (two int64 tensors)."""
    random = torch.Generator().manual_seed(1)
    long = 14.8 + torch.randn(count, generator=random)
    short = 2 + 12 * torch.rand(count, generator=random)
    is_long = torch.rand(count, generator=random) < 0.62
    seconds = torch.where(is_long, long.clamp(max=17), short)
    pace = (0.15 * torch.randn(count, generator=random)).exp()
    target = (seconds * TARGET * pace).round().clamp(min=1)
    return (seconds * SPEECH).ceil().long(), target.long()


def batches(sizes, pool, steps, by_seconds=False):
    """Batches of a count or of a budget of seconds (list of lists)."""
    speech, target = lengths(sizes["utterances"])
    own = {"seed": 1, "pool": pool}
    own["length_of"] = (speech + target).tolist().__getitem__
    count = sizes["utterances"]
    if by_seconds:
        seconds = (speech / SPEECH).tolist().__getitem__
        budget = sizes["seconds"], steps, seconds
        return list(SecondsBatchSampler(count, *budget, **own))
    return list(StepBatchSampler(count, sizes["batch"], steps, **own))


def each_batch(sizes, found):
    """Positions that each batch takes, and the real ones among them."""
    speech, target = lengths(sizes["utterances"])
    # The end token is predicted and never read.
    own = speech + sizes["prompt"] + target - 1
    each = [own[batch] for batch in found]
    return [(len(b) * int(b.max()), int(b.sum())) for b in each]


def positions(sizes, found):
    """Positions that batches take, and the real ones among them."""
    return [float(sum(part)) for part in zip(*each_batch(sizes, found))]


def largest(sizes, found):
    """Positions of the largest batch over the mean batch's (float)."""
    taken = [one for one, _ in each_batch(sizes, found)]
    return max(taken) * len(taken) / sum(taken)


def training(sizes):
    """The model, and steps over the same utterances in either way's batches.

    Lengths are a part of the utterances' own.
    """
    model = random_speech_llm(sizes)
    speech, target = (
        (sizes["scale"] * of).ceil().long()
        for of in lengths(sizes["utterances"])
    )

    def step(batch):
        """A batch's summed loss; gradients are added."""
        some = torch.Generator().manual_seed(0)
        x_SF = torch.randn(200, sizes["features"], generator=some)
        longest = int(speech[batch].max())
        # An utterance's own features and target, in whatever batch it is.
        x_BSF = torch.stack([x_SF.roll(i, 0)[:longest] for i in batch])
        targets = [
            torch.arange(i, i + int(target[i])) % sizes["vocabulary"]
            for i in batch
        ]
        logits_NV, labels_N = model(x_BSF, speech[batch], targets)
        loss = torch.nn.functional.cross_entropy(
            logits_NV, labels_N, reduction="sum"
        )
        loss.backward()
        return loss.item()

    def steps(some):
        """The summed loss of some batches."""
        return sum(step(batch) for batch in some)

    count = sizes["trained"]
    found = (batches(sizes, pool, count) for pool in (count, 1))
    return model, [functools.partial(steps, some) for some in found]


def check(sizes):
    """The same utterances, the same loss and gradients of them all."""
    ours, drawn = (
        batches(sizes, pool, sizes["steps"]) for pool in (sizes["pool"], 1)
    )
    assert sorted(sum(ours, [])) == sorted(sum(drawn, [])) and ours != drawn
    model, sides = training(sizes)
    parameters = [*model.projector.parameters()]
    same_gradients(parameters, sides, rtol=1e-3, atol=1e-2)


def rows(sizes, tier):
    """Positions over the real ones, then the time of a few steps."""
    told = (
        f"{sizes['steps']} steps of batch {sizes['batch']}, lengths like "
        f"LibriSpeech's, length_pool {sizes['pool']}"
    )
    budget = f"{told}; {sizes['seconds']:.0f} s a batch, padding included"
    pool, steps = sizes["pool"], sizes["steps"]
    alike, drawn = (batches(sizes, one, steps) for one in (pool, 1))
    by_seconds = batches(sizes, pool, steps, by_seconds=True)
    taken, real = positions(sizes, alike)
    yield counted(
        "positions of the decoder in batches of similar length; peer: the "
        "real ones",
        taken,
        real,
        "at most 1.03",
        told,
    )
    yield counted(
        "positions of the decoder in batches of similar length; peer: batches "
        "as drawn",
        taken,
        positions(sizes, drawn)[0],
        "at least 1.25",
        told,
    )
    yield counted(
        "positions of the largest batch over the mean one's, batch_seconds; "
        "peer: batch_size",
        *(largest(sizes, found) for found in (by_seconds, alike)),
        "at least 1.2",
        budget,
    )
    yield counted(
        "positions of the decoder in batches of some seconds; peer: the real "
        "ones",
        *positions(sizes, by_seconds),
        "at most 1.03",
        budget,
    )
    yield timed(
        "projector training in batches of similar length; peer: batches as "
        "drawn",
        training(sizes)[1],
        3,
        "at least 1.15",
        sizes=f"{sizes['trained']} steps of batch {sizes['batch']}, one pool, "
        f"{sizes['scale']} of the lengths; {sizes['layers']} layers, "
        f"{sizes['width']} wide",
    )


if __name__ == "__main__":
    script("padding", SIZES, check, rows)
