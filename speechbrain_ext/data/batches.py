"""Which utterances make up which step, and what a batch holds."""

import torch
from speechbrain.dataio.batch import PaddedData

from speechbrain_ext.later import later

# Pools of lengths that an epoch has at least: with fewer, the same utterances
# would meet in a batch again and again.
LEAST_POOLS = 4


class StepBatchSampler(torch.utils.data.Sampler):
    """Shuffled batches that follow from the step's number alone.

    Step s takes its utterances from an endless row of fresh permutations, so
    there is no short batch at an epoch's end, a run that was stopped goes on
    without any state, and P processes with accumulation over M batches see in
    step s what one process with P * M sees. `groups` tells which utterances
    are read together: see `row_groups.by_group`.

    With `length_of`, an utterance's index to its length, the utterances of
    `pool` steps are sorted by length and dealt out again, so that those of
    one step, on whichever process, are about as long as each other. Which
    step of the pool takes which is drawn anew.
    """

    def __init__(
        self,
        size,
        batch_size,
        steps,
        start=0,
        accumulation=1,
        rank=0,
        world_size=1,
        seed=0,
        groups=None,
        pool=1,
        length_of=None,
    ):
        if size < 1:
            raise ValueError("No utterance to train on: the data are empty.")
        self.size = size
        self.batch_size = batch_size
        self.steps = steps
        self.start = start
        self.accumulation = accumulation
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.groups = groups
        self.in_step = batch_size * world_size * accumulation
        most = size // (self.in_step * LEAST_POOLS)
        self.pool = 1 if length_of is None else max(min(pool, most), 1)
        self.length_of = length_of
        self._epoch = None
        self._order = None
        self._pooled = None, None

    def __len__(self):
        return max(self.steps - self.start, 0) * self.accumulation

    def __iter__(self):
        for step in range(self.start, self.steps):
            row, size = self._step(step), self.batch_size
            batches = [row[f : f + size] for f in range(0, len(row), size)]
            yield from batches[self.rank :: self.world_size]

    def _step(self, step):
        """The utterances of a step, on all processes (list of int)."""
        number, place = divmod(step, self.pool)
        if self._pooled[0] != number:
            self._pooled = number, self._dealt(number)
        return self._pooled[1][place]

    def _dealt(self, number):
        """The utterances of each step of a pool (list of lists)."""
        size = self.pool * self.in_step
        row = [self._utterance(number * size + i) for i in range(size)]
        if self.pool == 1:
            return [row]
        row.sort(key=self.length_of)
        order = torch.randperm(self.pool, generator=self._generator(~number))
        return [
            row[first : first + self.in_step]
            for first in (order * self.in_step).tolist()
        ]

    def _generator(self, number):
        """Random numbers of an epoch, or, negative, of a pool."""
        seed = (self.seed * 1_000_003 + number) % 2**63
        return torch.Generator().manual_seed(seed)

    def _utterance(self, place):
        """The utterance at a place of the endless row of permutations."""
        epoch, place = divmod(place, self.size)
        if epoch != self._epoch:
            generator = self._generator(epoch)
            if self.groups is None:
                self._order = torch.randperm(self.size, generator=generator)
            else:
                rows = later("data.row_groups", "groups")
                self._order = rows.by_group(self.groups, generator)
            self._epoch = epoch
        return int(self._order[place])


def by_duration(durations, batch_size, rank=0, world_size=1):
    """Batches of similar length for evaluation, this process's share.

    Longest first: memory that suffices for the first batch suffices. Every
    utterance is in exactly one batch of exactly one process.

    Arguments
    ---------
    durations : list of float
        Of each utterance, in any unit.
    batch_size : int
        Utterances per batch.
    rank, world_size : int
        This process and how many there are.

    Returns
    -------
    list of list of int
    """
    order = sorted(range(len(durations)), key=lambda i: (-durations[i], i))
    batches = [
        order[first : first + batch_size]
        for first in range(0, len(order), batch_size)
    ]
    return batches[rank::world_size]


def to_device(batch, device):
    """Move a batch; its lengths are kept on the host too, in `on_host`.

    Python reads them, and would wait for all that the device has to do. From
    pinned memory the move itself waits for nothing.
    """
    padded = {
        key: value.lengths
        for key, value in vars(batch).items()
        if isinstance(value, PaddedData)
    }
    batch = batch.to(device, non_blocking=True)
    for key, lengths in padded.items():
        moved = batch[key].lengths
        if moved is not lengths:
            moved.on_host = lengths
    return batch


def true_lengths(padded):
    """Lengths in items of a SpeechBrain `PaddedData` (int64, shape ``[B]``).

    On the host after `to_device`.
    """
    longest = padded.data.shape[1]
    lengths = getattr(padded.lengths, "on_host", padded.lengths)
    return (lengths.double() * longest).round().long()


def targets_of(batch):
    """A batch's target ids, a tensor for each utterance, without padding.

    Arguments
    ---------
    batch : speechbrain.dataio.batch.PaddedBatch
        With target_ids.

    Returns
    -------
    list of torch.Tensor
    """
    ids = batch.target_ids
    return [
        row[:length]
        for row, length in zip(ids.data, true_lengths(ids).tolist())
    ]
