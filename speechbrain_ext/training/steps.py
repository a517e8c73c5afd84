"""What an optimiser's step is made of: its rate, and its mean over processes."""

from __future__ import annotations

import torch

from speechbrain_ext.data.batches import StepBatchSampler
from speechbrain_ext.data.sets import groups_of, positions_of, seconds_of
from speechbrain_ext.later import later
from speechbrain_ext.training.processes import meet

# Of the paper's encoders, in Hz.
FRAME_RATE = 50


def step_factor(step: int, steps: int, warmup: int, warmdown: int) -> float:
    """Learning rate of a step, as a fraction of the peak."""
    up = (step + 1) / warmup if step < warmup else 1.0
    left = steps - step
    down = left / warmdown if left < warmdown else 1.0
    return min(up, down)


def sampler_of(brain, train_set, steps: int) -> StepBatchSampler:
    """The batches that a Brain has still to take, on this process."""
    # Cached features come without an encoder's class to ask.
    rate = getattr(brain.model.encoder, "frame_rate", FRAME_RATE)
    options = dict(
        start=brain.optimizer_step,
        accumulation=brain.grad_accumulation_factor,
        rank=brain.rank,
        world_size=brain.world_size,
        seed=brain.hparams.seed,
        groups=groups_of(train_set),
        pool=brain.hparams.length_pool,
        length_of=positions_of(train_set, rate / brain.model.downsampling),
    )
    size, seconds = len(train_set), brain.hparams.batch_seconds
    if seconds:
        filled = later("data.seconds", "batch_seconds")
        return filled.SecondsBatchSampler(
            size, seconds, steps, seconds_of(train_set), **options
        )
    count = brain.hparams.batch_size
    return StepBatchSampler(size, count, steps, **options)


class JoinedSteps:
    """What the processes tell each other in a step, in one all-reduce."""

    def __init__(self):
        # Of the last two steps, as losses are read a step later: whether one
        # was asked to stop, and this process's own loss.
        self.asked, self.own = [], []

    def join(self, loss, gradients, weight, asked):
        """Loss and gradients become their mean over all processes."""
        flag = torch.full_like(loss, float(asked))
        norms = torch._foreach_norm(gradients)
        self.own = [*self.own[-1:], loss + 0 * sum(norms)]
        self.asked = [*self.asked[-1:], flag]
        meet()
        mean_over_ranks([loss, flag, *gradients], weight)

    def is_stop(self) -> bool:
        """Whether all stop now: one was asked to, by the step before."""
        return len(self.asked) > 1 and self.asked[0].item() > 0

    def is_finite(self) -> bool:
        """Whether this process's own losses and gradients are numbers."""
        return all(one.isfinite().item() for one in self.own)


def mean_over_ranks(tensors, weight):
    """Each tensor's mean over all processes, in its place, by one all-reduce.

    Arguments
    ---------
    tensors : list of torch.Tensor
        Of any shapes, on one device.
    weight : float
        How much this process's count.
    """
    ones = torch.ones_like(tensors[-1]).reshape(-1)[:1]
    flat = torch.cat([*(one.reshape(-1) for one in tensors), ones])
    torch.distributed.all_reduce(flat.mul_(weight))
    flat.div_(flat[-1].clone())
    parts = flat[:-1].split([one.numel() for one in tensors])
    for one, part in zip(tensors, parts):
        one.copy_(part.view_as(one))
