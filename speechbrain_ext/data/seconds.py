"""Batches that are filled up to a budget of seconds."""

import itertools

import torch

from speechbrain_ext.data.batches import LEAST_POOLS, StepBatchSampler


class SecondsBatchSampler(StepBatchSampler):
    """The same, each batch filled up to a budget of seconds.

    Seconds of the longest utterance times utterances: what a batch takes in
    memory, padding included. An utterance that is longer is a batch by
    itself. How many steps a pool makes follows from the lengths in it: a run
    that goes on deals all pools before out again, which reads no file.

    Arguments
    ---------
    size : int
        Utterances there are.
    seconds : float
        The budget of one batch.
    steps : int
        Steps of the training.
    seconds_of : callable
        An utterance's index to its seconds.
    **options
        As `StepBatchSampler` takes them; `pool` is how many steps' seconds
        are sorted by `length_of` together.
    """

    def __init__(self, size, seconds, steps, seconds_of, **options):
        super().__init__(size, 1, steps, **options)
        self.seconds, self.seconds_of = seconds, seconds_of
        self.length_of = self.length_of or seconds_of
        self.pool = options.get("pool", 1)

    def __iter__(self):
        steps = itertools.islice(self._all(), self.start, self.steps)
        for batches in steps:
            yield from batches[self.rank :: self.world_size]

    def _all(self):
        """The batches of each step, on all processes, without an end."""
        places = itertools.count()
        # Batches that were one too few for a step, their utterances.
        left = []
        for number in itertools.count():
            batches = list(self._cut(left + self._drawn(places, left)))
            random = self._generator(~number)
            # Whichever: always the shortest, they would never be seen.
            order = torch.randperm(len(batches), generator=random).tolist()
            more = set(order[: len(batches) % self.in_step])
            left = [i for at in sorted(more) for i in batches[at]]
            kept = [b for at, b in enumerate(batches) if at not in more]
            steps = [
                kept[first : first + self.in_step]
                for first in range(0, len(kept), self.in_step)
            ]
            for at in torch.randperm(len(steps), generator=random).tolist():
                yield steps[at]

    def _drawn(self, places, left):
        """Utterances that make a pool full, with those left of the last."""
        row, step = [], self.seconds * self.in_step

        def seconds(index):
            """No utterance counts for more than a batch."""
            return min(self.seconds_of(index), self.seconds)

        full = sum(map(seconds, left))
        while full < self.pool * step:
            if len(row) >= self.size // LEAST_POOLS and full >= step:
                break
            row.append(self._utterance(next(places)))
            full += seconds(row[-1])
        return row

    def _cut(self, row):
        """Batches of utterances of similar length, each in the row's order."""
        batch, longest = [], 0.0
        for place in sorted(
            range(len(row)), key=lambda place: self.length_of(row[place])
        ):
            longest = max(longest, self.seconds_of(row[place]))
            if batch and longest * (len(batch) + 1) > self.seconds:
                yield [row[place] for place in sorted(batch)]
                batch, longest = [], self.seconds_of(row[place])
            batch.append(place)
        if batch:
            yield [row[place] for place in sorted(batch)]
