"""Batches of similar length beside batches as they are drawn.

Lengths like LibriSpeech's: most of 13 to 17 s, the rest from 2 s on, and
tokens of the target that scatter about those of the length.
"""

from benchmarks.common import paired, row_of, script

import torch  # isort: skip

from benchmarks.models import random_decoder, speech_llm
from speechbrain_ext.data.batches import StepBatchSampler
from speechbrain_ext.data.seconds import SecondsBatchSampler

SIZES = {
    "full": dict(
        utterances=281_241,  # LibriSpeech's 960 hours
        batch=16,
        pool=64,
        steps=640,
        layers=2,
        width=192,
        vocabulary=2000,
        features=64,
        trained=16,
        scale=0.25,
        seconds=200.0,
    ),
    "tiny": dict(
        utterances=400,
        batch=4,
        pool=8,
        steps=16,
        layers=1,
        width=32,
        vocabulary=300,
        features=8,
        trained=4,
        scale=0.1,
        seconds=50.0,
    ),
}
# Speech and target tokens a second; tokens of the prompt.
SPEECH, TARGET, PROMPT = 10, 3.3, 10


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


def batches(sizes, pool, steps):
    """Batches of some steps of the utterances (list of lists)."""
    speech, target = lengths(sizes["utterances"])
    positions = (speech + target).tolist()
    sampler = StepBatchSampler(
        sizes["utterances"],
        sizes["batch"],
        steps,
        seed=1,
        pool=pool,
        length_of=positions.__getitem__,
    )
    return list(sampler)


def by_seconds(sizes):
    """Batches of as many steps, each of a budget of seconds."""
    speech, target = lengths(sizes["utterances"])
    sampler = SecondsBatchSampler(
        sizes["utterances"],
        sizes["seconds"],
        sizes["steps"],
        (speech / SPEECH).tolist().__getitem__,
        seed=1,
        pool=sizes["pool"],
        length_of=(speech + target).tolist().__getitem__,
    )
    return list(sampler)


def each_batch(sizes, found):
    """Positions that each batch takes, and the real ones among them."""
    speech, target = lengths(sizes["utterances"])
    # The end token is predicted and never read.
    own = speech + PROMPT + target - 1
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
    """A step over a batch of the utterances, shortened (callable)."""
    decoder = random_decoder(
        sizes["layers"], sizes["width"], sizes["vocabulary"]
    )
    model = speech_llm(sizes["features"], decoder, PROMPT)
    speech, target = (
        (sizes["scale"] * of).ceil().long()
        for of in lengths(sizes["utterances"])
    )

    def step(batch):
        """Summed loss of a batch; gradients are added."""
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

    return model, step


def trained(sizes):
    """The same utterances in either way's batches."""
    pool = sizes["trained"]
    return batches(sizes, pool, pool), batches(sizes, 1, pool)


def check(sizes):
    """The same utterances, the same loss and gradients of them all."""
    ours, drawn = (
        batches(sizes, pool, sizes["steps"]) for pool in (sizes["pool"], 1)
    )
    assert sorted(sum(ours, [])) == sorted(sum(drawn, [])) and ours != drawn
    model, step = training(sizes)
    found = []
    for side in trained(sizes):
        model.zero_grad()
        loss = sum(step(batch) for batch in side)
        gradients = [p.grad.clone() for p in model.projector.parameters()]
        found.append([torch.tensor(loss), *gradients])
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-2)


def rows(sizes, tier):
    """Positions over the real ones, then the time of a few steps."""
    ours = batches(sizes, sizes["pool"], sizes["steps"])
    drawn = batches(sizes, 1, sizes["steps"])
    (ours, real), (drawn, _) = (positions(sizes, b) for b in (ours, drawn))
    told = (
        f"{sizes['steps']} steps of batch {sizes['batch']}, lengths like "
        f"LibriSpeech's, length_pool {sizes['pool']}"
    )
    yield row_of(
        "positions of the decoder in batches of similar length; peer: the "
        "real ones",
        [ours],
        [real],
        "at most 1.03",
        unit="",
        sizes=told,
    )
    yield row_of(
        "positions of the decoder in batches of similar length; peer: batches "
        "as drawn",
        [ours],
        [drawn],
        "at least 1.25",
        unit="",
        sizes=told,
    )
    yield from rows_by_seconds(sizes, told)
    yield row_of_training(sizes)


def rows_by_seconds(sizes, told):
    """The same where a batch holds some seconds and no count."""
    ours = by_seconds(sizes)
    counted = batches(sizes, sizes["pool"], sizes["steps"])
    budget = f"{told}; {sizes['seconds']:.0f} s a batch, padding included"
    yield row_of(
        "positions of the largest batch over the mean one's, batch_seconds; "
        "peer: batch_size",
        [largest(sizes, ours)],
        [largest(sizes, counted)],
        "at least 1.2",
        unit="",
        sizes=budget,
    )
    ours, real = positions(sizes, ours)
    yield row_of(
        "positions of the decoder in batches of some seconds; peer: the real "
        "ones",
        [ours],
        [real],
        "at most 1.03",
        unit="",
        sizes=budget,
    )


def row_of_training(sizes):
    """The time of a few steps."""
    _, step = training(sizes)
    ours, drawn = trained(sizes)
    return row_of(
        "projector training in batches of similar length; peer: batches as "
        "drawn",
        *paired(
            lambda: [step(batch) for batch in ours],
            lambda: [step(batch) for batch in drawn],
            3,
        ),
        "at least 1.15",
        sizes=f"{sizes['trained']} steps of batch {sizes['batch']}, one pool, "
        f"{sizes['scale']} of the lengths; {sizes['layers']} layers, "
        f"{sizes['width']} wide",
    )


if __name__ == "__main__":
    script("padding", SIZES, check, rows)
