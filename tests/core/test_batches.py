"""Which utterances make up a step.

Authors
 * The speechbrain_ext authors, 2026
"""

import pytest
import torch
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.data.batches import (
    StepBatchSampler,
    by_duration,
    targets_of,
    to_device,
    true_lengths,
)


def steps_of(size=10, batch_size=4, steps=7, **options):
    """Steps of."""
    return list(StepBatchSampler(size, batch_size, steps, **options))


def test_every_epoch_is_a_fresh_permutation():
    """Every epoch is a fresh permutation."""
    places = sum(steps_of(steps=20, seed=3), [])
    epochs = [places[first : first + 10] for first in range(0, 80, 10)]
    assert all(sorted(epoch) == list(range(10)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 8
    assert all(len(batch) == 4 for batch in steps_of())


def test_the_seed_decides():
    """The seed decides."""
    assert steps_of(seed=1) == steps_of(seed=1) != steps_of(seed=2)


@pytest.mark.parametrize("start", [1, 3, 7, 9])
def test_a_stopped_run_goes_on_at_its_step(start):
    """A stopped run goes on at its step."""
    rest = StepBatchSampler(10, 4, 7, start=start, seed=5, accumulation=2)
    whole = steps_of(seed=5, accumulation=2)
    assert list(rest) == whole[2 * start :]
    assert len(rest) == len(whole[2 * start :])


@pytest.mark.parametrize("world, accumulation", [(2, 1), (2, 3), (3, 2)])
def test_processes_and_accumulation_share_a_step_alike(world, accumulation):
    """Processes and accumulation share a step alike."""
    alone = steps_of(accumulation=world * accumulation)
    shares = [
        steps_of(accumulation=accumulation, rank=rank, world_size=world)
        for rank in range(world)
    ]
    together = []
    for turn in zip(*shares):
        together += turn
    assert together == alone


LENGTHS = torch.rand(203, generator=torch.Generator().manual_seed(4)).tolist()
POOLED = dict(size=203, steps=60, pool=6, length_of=LENGTHS.__getitem__, seed=8)


def width_of(batch):
    """Longest length less shortest."""
    lengths = [LENGTHS[i] for i in batch]
    return max(lengths) - min(lengths)


def test_a_pool_holds_what_was_drawn_and_batches_alike():
    """A pool holds what was drawn, and its batches are alike in length."""
    pooled = steps_of(**POOLED)
    drawn = steps_of(size=203, steps=60, seed=8)
    for first in range(0, 60, 6):
        ours, theirs = (o[first : first + 6] for o in (pooled, drawn))
        assert sorted(sum(ours, [])) == sorted(sum(theirs, []))
        ranked = sorted(ours, key=lambda b: sum(LENGTHS[i] for i in b))
        ends = [
            (min(LENGTHS[i] for i in b), max(LENGTHS[i] for i in b))
            for b in ranked
        ]
        # No batch reaches into the lengths of the next.
        assert all(a[1] <= b[0] for a, b in zip(ends, ends[1:]))
    # So each is seen as often as any other, but for the epoch under way.
    counts = torch.bincount(torch.tensor(sum(pooled, [])), minlength=203)
    assert set(counts.tolist()) <= {1, 2}


def test_the_steps_of_a_pool_come_in_a_random_order():
    """Not the short ones first, and not the same in each pool."""
    means = [sum(LENGTHS[i] for i in b) / 4 for b in steps_of(**POOLED)]
    ranks = {
        tuple(torch.tensor(means[first : first + 6]).argsort().tolist())
        for first in range(0, 60, 6)
    }
    assert len(ranks) > 7
    # Any place in a pool has lengths of all kinds.
    for place in range(6):
        some = means[place::6]
        assert 0.25 < sum(some) / len(some) < 0.75


@pytest.mark.parametrize("start", [1, 5, 6, 7, 31])
def test_pools_stay_when_a_run_goes_on_or_is_shared_out(start):
    """They follow from seed and step, however the step is shared out."""
    whole = steps_of(**POOLED, accumulation=2)
    assert steps_of(**POOLED, accumulation=2, start=start) == whole[2 * start :]
    shares = [steps_of(**POOLED, rank=rank, world_size=2) for rank in (0, 1)]
    assert [b for step in zip(*shares) for b in step] == whole
    # Processes take batches of about one length, and wait for nobody.
    widths = [width_of(a + b) for a, b in zip(*shares)]
    assert sum(widths) / len(widths) < 0.3
    assert steps_of(**{**POOLED, "seed": 9}, accumulation=2) != whole


@pytest.mark.parametrize("size", [10, 39])
def test_a_small_set_is_not_sorted_whole(size):
    """Or the same utterances would meet again and again."""
    options = dict(size=size, steps=9, pool=64, length_of=lambda i: i)
    drawn = steps_of(size=size, steps=9)
    sampler = StepBatchSampler(batch_size=4, **options)
    assert sampler.pool == max(size // 16, 1)
    assert (steps_of(**options) == drawn) is (size == 10)


SECONDS = [20 * length for length in LENGTHS]


def filled(seconds=80.0, steps=60, lengths=SECONDS, **options):
    """Batches that a budget of seconds makes."""
    options = {"seed": 8, "pool": 6, **options}
    # Of a later slice.
    later = pytest.importorskip("speechbrain_ext.data.seconds")
    size, seconds_of = len(lengths), lengths.__getitem__
    return list(
        later.SecondsBatchSampler(size, seconds, steps, seconds_of, **options)
    )


@pytest.mark.parametrize("world", [1, 3])
def test_utterances_of_one_length_are_batched_as_by_a_count(world):
    """A budget of four of them is a count of four."""
    ours = filled(28.0, lengths=[7.0] * 203, pool=1, world_size=world)
    assert ours == steps_of(203, 4, 60, seed=8, world_size=world)


@pytest.mark.parametrize("pool", [1, 6, 1000])
def test_a_batch_stays_within_its_seconds_and_wastes_few(pool):
    """Padding included; many short utterances, few long ones."""
    batches = filled(pool=pool)
    each = [[SECONDS[i] for i in batch] for batch in batches]
    assert len(batches) == 60
    assert all(max(batch) * len(batch) <= 80 for batch in each)
    taken = sum(max(batch) * len(batch) for batch in each)
    # A pool's last batch may be small, and a pool of one step has but few.
    assert taken > (0.5 if pool == 1 else 0.8) * 60 * 80
    assert sum(map(sum, each)) > (0.6 if pool == 1 else 0.85) * taken
    sizes = {len(batch) for batch in batches}
    assert min(sizes) <= 5 and max(sizes) >= 8


@pytest.mark.parametrize("world", [1, 3])
def test_batches_by_seconds_leave_nobody_out(world):
    """Nor the shortest, and none is seen much more often."""
    shares = [
        filled(steps=400 // world, rank=rank, world_size=world)
        for rank in range(world)
    ]
    seen = torch.tensor([i for share in shares for b in share for i in b])
    counts = torch.bincount(seen, minlength=203)
    assert counts.min() >= counts.max() - 3 and counts.min() > 10


@pytest.mark.parametrize("start", [1, 6, 7, 31])
def test_batches_by_seconds_go_on_and_are_shared_out(start):
    """They follow from seed and step alone."""
    whole = filled(accumulation=2)
    assert filled(accumulation=2, start=start) == whole[2 * start :]
    shares = [filled(rank=rank, world_size=2) for rank in (0, 1)]
    assert [b for step in zip(*shares) for b in step] == whole
    # Processes take batches of about one length, and wait for nobody.
    means = [
        [sum(SECONDS[i] for i in batch) / len(batch) for batch in pair]
        for pair in zip(*shares)
    ]
    assert sum(abs(a - b) for a, b in means) / len(means) < 3
    assert filled(accumulation=2, seed=9) != whole


@pytest.mark.parametrize("budget", [1.0, 12.0])
def test_an_utterance_that_is_too_long_is_a_batch(budget):
    """And the others are as before."""
    batches = filled(budget, world_size=2, steps=40)
    long = {i for i, seconds in enumerate(SECONDS) if seconds > budget}
    found = [batch for batch in batches if long & set(batch)]
    assert found and all(len(batch) == 1 for batch in found)
    assert len(batches) == 40


def test_nothing_to_train_on_is_refused():
    """Nothing to train on is refused."""
    with pytest.raises(ValueError, match="data are empty"):
        StepBatchSampler(0, 4, 7)


@pytest.mark.parametrize("world", [1, 2, 3, 7])
def test_evaluation_sees_each_utterance_once(world):
    """Evaluation sees each utterance once."""
    torch.manual_seed(0)
    durations = torch.rand(17).tolist()
    shares = [by_duration(durations, 3, rank, world) for rank in range(world)]
    seen = [i for share in shares for batch in share for i in batch]
    assert sorted(seen) == list(range(17))
    for share in shares:
        order = [durations[i] for batch in share for i in batch]
        assert order == sorted(order, reverse=True)


@pytest.mark.parametrize("longest", [1, 7, 1000, 480000, 3_000_001])
def test_true_lengths_are_exact(longest):
    """True lengths are exact."""
    sizes = sorted({1, 2, longest // 3 or 1, longest - 1 or 1, longest})
    items = [{"id": str(n), "x": torch.zeros(n)} for n in sizes]
    batch = PaddedBatch(items)
    assert true_lengths(batch.x).tolist() == sizes


def test_targets_come_back_without_padding():
    """Targets come back without padding."""
    rows = [torch.arange(5), torch.arange(2), torch.tensor([9])]
    batch = PaddedBatch([{"id": "a", "target_ids": row} for row in rows])
    assert all(map(torch.equal, targets_of(batch), rows))


def test_lengths_stay_on_the_host():
    """They are read without a look at the device."""
    rows = [torch.ones(5), torch.ones(2)]
    batch = PaddedBatch([{"id": "a", "x": row} for row in rows])
    moved = to_device(batch, "meta")
    assert moved.x.data.is_meta and moved.x.lengths.is_meta
    assert true_lengths(moved.x).tolist() == [5, 2]
    assert moved.id == ["a", "a"]
