"""Training: the loss, the schedule, clipping, and going on after a stop.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
import resource
import shutil

import pytest
import torch
from speech_llm_fixtures import (
    make_brain,
    make_dataset,
    make_decoder,
    weights_of,
)
from speechbrain.dataio.batch import PaddedBatch

from speechbrain_ext.data.batches import targets_of, true_lengths
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.training.steps import step_factor

BLOCK = Block(1, 2)


@pytest.fixture(scope="module")
def folder(decoder_folders):
    """One kind is enough where the decoder's kind plays no part."""
    return decoder_folders["qwen2"]


def train(brain, valid=True, size=10):
    """Train."""
    train_set = make_dataset(brain.model.prompt, size)
    valid_set = make_dataset(brain.model.prompt, 5, seed=9)
    brain.fit(train_set, valid_set if valid else None)
    return weights_of(brain)


def same(a, b, exact=True):
    """Same."""
    assert a.keys() == b.keys()
    for name in a:
        if exact:
            assert torch.equal(a[name], b[name]), name
        else:
            torch.testing.assert_close(
                a[name], b[name], atol=1e-5, rtol=1e-5, msg=name
            )


def test_the_schedule():
    """The schedule."""
    factors = [step_factor(s, 10, 2, 4) for s in range(10)]
    expected = [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]
    assert factors == pytest.approx(expected)
    assert [step_factor(s, 3, 0, 0) for s in range(3)] == [1, 1, 1]


def test_each_part_has_its_own_rate_and_follows_the_schedule(folder):
    """Each part has its own rate and follows the schedule."""
    brain = make_brain(
        folder, BLOCK, "both", lr_projector=1e-3, lr_adapter=4e-2
    )
    seen = []
    step = brain.optimizers_step

    def spy(*args):
        """Spy."""
        step(*args)
        groups = brain.optimizer.param_groups
        seen.append([group["lr"] for group in groups])
        sizes = [len(group["params"]) for group in groups]
        assert sizes == [4, 6]

    brain.optimizers_step = spy
    train(brain)
    for number, rates in enumerate(seen):
        factor = step_factor(number, 8, 2, 3)
        assert rates == pytest.approx([1e-3 * factor, 4e-2 * factor])
    assert len(seen) == 8


def test_training_learns(folder):
    """Training learns."""
    brain = make_brain(folder, steps=60, valid_interval=20)
    train(brain, size=4)
    losses = [entry["train_loss"] for entry in brain.history]
    assert [entry["step"] for entry in brain.history] == [20, 40, 60]
    assert losses[-1] < 0.8 * losses[0]
    assert all(entry["valid_loss"] > 0 for entry in brain.history)


@pytest.mark.parametrize("strategy", ["projector", "decoder", "both"])
def test_nothing_else_moves(folder, strategy):
    """Nothing else moves."""
    brain = make_brain(folder, BLOCK, strategy)
    before = {n: p.clone() for n, p in brain.model.named_parameters()}
    train(brain, valid=False)
    ours = {n for n, _ in brain.trainable.named()}
    for name, parameter in brain.model.named_parameters():
        assert torch.equal(parameter, before[name]) != (name in ours), name


def test_unhealed_and_untrained_runs_just_evaluate(folder, tmp_path):
    """Unhealed and untrained runs just evaluate."""
    for strategy, steps in (("none", 8), ("both", 0)):
        brain = make_brain(
            folder, BLOCK, strategy, tmp_path / strategy, steps=steps
        )
        before = {n: p.clone() for n, p in brain.model.named_parameters()}
        train(brain)
        assert brain.optimizer_step == 0 and brain.history == []
        for name, parameter in brain.model.named_parameters():
            assert torch.equal(parameter, before[name])
        rows = brain.decode(make_dataset(brain.model.prompt, 5))
        assert len(rows) == 5


def test_the_loss_is_the_mean_over_the_steps_target_tokens(folder):
    """Whatever the rows and however they are spread over batches."""
    brain = make_brain(folder)
    data = make_dataset(brain.model.prompt, 6)
    rows = [data[i] for i in range(6)]
    expected = torch.tensor(0.0)
    tokens = 0
    with torch.no_grad():
        for row in rows:
            batch = PaddedBatch([row])
            logits, labels, _ = brain.compute_forward(batch, None)
            log_probs = logits.log_softmax(-1)
            expected -= log_probs[range(len(labels)), labels].sum()
            tokens += len(targets_of(batch)[0])
    expected /= tokens
    brain.nonfinite_count = 0
    for split in ([6], [1, 5], [2, 3, 1]):
        parts, first = [], 0
        for size in split:
            parts.append(PaddedBatch(rows[first : first + size]))
            first += size
        other = make_brain(folder)
        other.nonfinite_count = 0
        other.init_optimizers()
        loss = other.fit_step(parts)
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        valid = make_brain(folder, test_batch_size=max(split)).validate(data)
        assert valid == pytest.approx(expected.item(), rel=1e-5)


def test_each_row_knows_its_speaker(folder):
    """Each row of answers and of losses knows its speaker."""
    brain = make_brain(folder, test_batch_size=2)
    data = make_dataset(brain.model.prompt, 5)
    said = dict(zip(data.data_ids, ["ann", "", "unknown", "bob", None]))
    for name, who in said.items():
        if who is not None:
            data.data[name]["spk_id"] = who
    brain.validate(data)
    for rows in (brain.decode(data), brain.losses):
        assert [row["id"] for row in rows] == data.data_ids
        assert [row["speaker"] for row in rows] == [
            "ann",
            None,
            None,
            "bob",
            None,
        ]


@pytest.mark.parametrize("size", [1, 3, 6])
def test_each_utterance_has_the_loss_it_has_alone(folder, size):
    """Each utterance has the loss it has alone."""
    data = make_dataset(make_brain(folder).model.prompt, 6)
    brain = make_brain(folder, test_batch_size=size)
    mean = brain.validate(data)
    assert [row["id"] for row in brain.losses] == data.data_ids
    for i, row in enumerate(brain.losses):
        batch = PaddedBatch([data[i]])
        with torch.no_grad():
            logits, labels, _ = brain.compute_forward(batch, None)
        alone = torch.nn.functional.cross_entropy(
            logits, labels, reduction="sum"
        )
        assert row["loss"] == pytest.approx(alone.item(), rel=1e-5)
        assert row["tokens"] == len(labels)
    tokens = sum(row["tokens"] for row in brain.losses)
    assert mean == sum(row["loss"] for row in brain.losses) / tokens


def test_accumulated_batches_are_one_large_batch(folder):
    """Accumulated batches are one large batch."""
    # 3 does not divide the data: what is left at an epoch's end counts too.
    whole = train(make_brain(folder, BLOCK, "both", batch_size=6, dropout=0.0))
    parts = make_brain(
        folder,
        BLOCK,
        "both",
        batch_size=2,
        dropout=0.0,
        grad_accumulation_factor=3,
    )
    same(train(parts), whole, exact=False)


def test_batches_are_pooled_by_the_decoders_positions(
    folder, tmp_path, monkeypatch
):
    """Less padding, from the same utterances, and in order after a stop."""
    # Three of these frames are a speech token of the fixtures' features.
    monkeypatch.setattr("speechbrain_ext.training.steps.FRAME_RATE", 12)

    def batches_of(kept=None, **changes):
        """The batches that a training sees."""
        options = dict(batch_size=2, valid_interval=8, **changes)
        brain = make_brain(folder, BLOCK, "both", kept, **options)
        fit_step, seen = brain.fit_step, []
        brain.fit_step = lambda b: seen.extend(b) or fit_step(b)
        train(brain, valid=False, size=40)
        return seen

    def padding(batches):
        """Positions of the decoder that are computed for nothing."""
        sizes = [
            true_lengths(b.features) + true_lengths(b.target_ids)
            for b in batches
        ]
        return sum(int(len(s) * s.max() - s.sum()) for s in sizes)

    drawn, pooled = batches_of(length_pool=1), batches_of(length_pool=4)
    names = [sorted(i for b in one for i in b.id) for one in (drawn, pooled)]
    assert names[0] == names[1]
    assert padding(pooled) < 0.5 * padding(drawn)
    batches_of(tmp_path, length_pool=4, steps=5)
    rest = batches_of(tmp_path, length_pool=4)
    assert [b.id for b in rest] == [b.id for b in pooled[5:]]


def test_batches_of_some_seconds_train_as_batches_of_a_count(folder, tmp_path):
    """Where all are of one length, to the bit; and they go on after a stop."""
    pytest.importorskip("speechbrain_ext.data.seconds")

    def trained(kept=None, stop=None, **changes):
        """Weights after a training on utterances of 3 s."""
        changes = {"length_pool": 1, "valid_interval": 8, **changes}
        brain = make_brain(folder, BLOCK, "both", kept, **changes)
        data = make_dataset(brain.model.prompt, 40)
        for row in data.data.values():
            row["duration"] = 3.0
        brain.optimizer_step_limit = stop
        brain.fit(data, None)
        return weights_of(brain)

    whole = trained(batch_size=2)
    same(trained(batch_size=9, batch_seconds=6.0), whole)
    trained(tmp_path, stop=5, batch_seconds=6.0)
    same(trained(tmp_path, batch_seconds=6.0), whole)


def test_all_gradients_are_clipped_together(folder, monkeypatch):
    """All gradients are clipped together."""
    brain = make_brain(folder, BLOCK, "both", max_grad_norm=1e-3)
    norms = []
    step = torch.optim.Adam.step

    def spy(optimizer, *args, **kwargs):
        """Spy."""
        grads = [p.grad for g in optimizer.param_groups for p in g["params"]]
        assert len(grads) == 10
        norms.append(torch.stack([g.norm() for g in grads]).norm().item())
        return step(optimizer, *args, **kwargs)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    train(brain)
    assert norms == pytest.approx([1e-3] * 8, rel=1e-3)


@pytest.mark.parametrize("fused", [False, True])
def test_a_step_that_is_no_number_is_told_and_leaves_no_trace(
    folder, caplog, fused
):
    """Looked at on the host, or left out by Adam itself, as on a GPU."""
    pytest.importorskip("speechbrain_ext.training.left_out")
    brain = make_brain(folder, BLOCK, "both", valid_interval=8, dropout=0.0)
    brain.fused = fused
    step, objectives, traces = (
        brain.optimizers_step,
        brain.compute_objectives,
        [],
    )

    def trace():
        """All that a step changes."""
        moments = brain.optimizer.state_dict()["state"].values()
        state = [v.clone() for one in moments for v in one.values()]
        return [*weights_of(brain).values(), *state]

    def spy(*args):
        """Keep what was there before and after."""
        before = trace()
        step(*args)
        traces.append((before, trace()))

    def poisoned(predictions, batch, stage):
        """No number in the fourth step."""
        loss = objectives(predictions, batch, stage)
        return loss * float("nan") if len(traces) == 3 else loss

    brain.optimizers_step, brain.compute_objectives = spy, poisoned
    with caplog.at_level("WARNING"):
        train(brain, valid=False)
    assert "Step 4: the loss is nan." in caplog.text
    for number, (before, after) in enumerate(traces):
        alike = len(before) == len(after) and all(
            map(torch.equal, before, after)
        )
        assert alike is (number == 3)
    assert brain.optimizer.param_groups[0]["fused"] is (fused or None)
    assert brain.history[0]["train_loss"] > 0


def test_a_checkpoint_goes_from_one_kind_of_device_to_another(folder, tmp_path):
    """Adam's step is fused where this process has it so."""
    for fused, steps in ((False, 4), (True, 6), (False, 8)):
        brain = make_brain(folder, BLOCK, "both", tmp_path, steps=steps)
        brain.fused = fused
        weights = train(brain)
        assert brain.optimizer_step == steps
        groups = brain.optimizer.param_groups
        assert {group["fused"] for group in groups} == {fused or None}
    assert all(value.isfinite().all() for value in weights.values())


def test_one_all_reduce_for_all_gradients_and_the_loss(folder, monkeypatch):
    """And two processes' step is that of one with both batches."""
    data = make_dataset(make_brain(folder).model.prompt, 6)
    rows = [data[i] for i in range(6)]
    # Processes have as many utterances, but not as many tokens.
    shares = PaddedBatch(rows[:3]), PaddedBatch(rows[3:])
    assert len({int(true_lengths(b.target_ids).sum()) for b in shares}) == 2
    sent = []

    def step_of(batches, all_reduce=None):
        """A step's loss, its gradients as they are clipped, and the weights."""
        brain = make_brain(folder, BLOCK, "both", dropout=0.0)
        brain.init_optimizers()
        if all_reduce:
            brain.world_size = 2
            monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
        for _, parameter in brain.trainable.named():
            if not parameter.any():  # LoRA's B: A has no gradient else
                parameter.data += 0.1
        kept = []
        clip = torch.nn.utils.clip_grad_norm_

        def spy(parameters, most):
            """Keep the gradients."""
            kept.extend(p.grad.clone() for p in parameters)
            return clip(parameters, most)

        with monkeypatch.context() as patch:
            patch.setattr(torch.nn.utils, "clip_grad_norm_", spy)
            loss = brain.fit_step(batches)
        return [loss, *kept, *weights_of(brain).values()]

    other = lambda flat: sent.append(flat.clone())  # noqa: E731
    step_of([shares[1]], other)
    ours = lambda flat: (sent.append(None), flat.add_(sent[0]))  # noqa: E731
    found = step_of([shares[0]], ours)
    assert len(sent) == 2  # one each
    whole = step_of(list(shares))
    assert len(whole) > 20
    # Adam's first step makes what is small in a gradient large.
    for two, one in zip(found, whole, strict=True):
        torch.testing.assert_close(two, one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strategy", ["both", "bridge"])
def test_a_step_waits_for_nothing(folder, monkeypatch, strategy):
    """Nothing is read back from the device: on "meta" there is no value."""
    if strategy == "bridge":
        pytest.importorskip("speechbrain_ext.healing.bridge")
    brain = make_brain(folder, BLOCK, strategy)
    data = make_dataset(brain.model.prompt, 6)
    parts = [PaddedBatch([data[i] for i in some]) for some in ([0, 1, 2], [3])]
    names = {id(p): name for name, p in brain.model.named_parameters()}
    brain.model.to("meta")  # makes new parameters
    brain.device, moved = "meta", dict(brain.model.named_parameters())
    for part, pairs in brain.trainable.parts.items():
        pairs = [(name, moved[names[id(p)]]) for name, p in pairs]
        brain.trainable.parts[part] = pairs
    brain.init_optimizers()
    # Its own look at the positions, of which none are given.
    monkeypatch.setattr(
        "transformers.masking_utils.find_packed_sequence_indices",
        lambda positions: None,
    )
    found = []
    brain._step_unless = found.append  # Adam has no such device
    loss = brain.fit_step(parts)
    assert loss.is_meta and found[0].is_meta and found[0].dtype == torch.bool
    assert brain.optimizer_step == 1
    with pytest.raises(RuntimeError, match="meta"):
        loss.item()


def test_batches_for_a_gpu_are_pinned(folder):
    """What is to be moved without waiting lies in pinned memory."""
    brain = make_brain(folder)
    data = make_dataset(brain.model.prompt, 6)
    assert not brain._loader(data, [[0, 1]]).pin_memory
    brain.device = "cuda:0"
    assert brain._loader(data, [[0, 1]]).pin_memory


def test_a_loss_that_is_no_number_does_not_spoil_the_weights(folder, tmp_path):
    """A loss that is no number does not spoil the weights."""
    brain = make_brain(folder, BLOCK, "both", tmp_path)
    objectives = brain.compute_objectives
    bad = {3}

    def sometimes(predictions, batch, stage):
        """Sometimes."""
        loss = objectives(predictions, batch, stage)
        training = torch.is_grad_enabled()
        poison = training and (brain.optimizer_step in bad or bad == {None})
        return loss * float("nan") if poison else loss

    brain.compute_objectives = sometimes
    weights = train(brain)
    assert all(value.isfinite().all() for value in weights.values())
    assert brain.optimizer_step == 8
    assert all(e["valid_loss"] < 1e3 for e in brain.history)
    # One bad batch is passed over; nothing but bad ones is an error.
    brain = make_brain(folder, BLOCK, "both", tmp_path / "b")
    objectives = brain.compute_objectives
    brain.compute_objectives = sometimes
    bad = {None}
    with pytest.raises(ValueError, match="not finite"):
        train(brain)
    assert all(v.isfinite().all() for v in weights_of(brain).values())


@pytest.mark.parametrize("stop", [1, 2, 4, 5, 7])
def test_a_stopped_training_goes_on_to_the_same_weights(folder, tmp_path, stop):
    """A stopped training goes on to the same weights."""
    expected = make_brain(folder, BLOCK, "both", tmp_path / "whole")
    weights = train(expected)
    first = make_brain(folder, BLOCK, "both", tmp_path / "stopped")
    after = first._after_step

    def stopping(steps, valid_set):
        """Stopping."""
        if first.optimizer_step == stop:
            raise KeyboardInterrupt
        after(steps, valid_set)

    first._after_step = stopping
    with pytest.raises(KeyboardInterrupt):
        train(first)
    again = make_brain(folder, BLOCK, "both", tmp_path / "stopped")
    if stop > 2:  # there is a checkpoint, with its own random state
        torch.manual_seed(99)
    same(train(again), weights)
    assert again.history == expected.history
    # Dropout in the adapter is at work: the random state does matter.
    still = make_brain(folder, BLOCK, "both", dropout=0.0)
    assert not torch.equal(
        train(still)["projector.layers.0.weight"],
        weights["projector.layers.0.weight"],
    )


def test_more_processes_go_on_than_were_saved(folder, tmp_path):
    """More processes go on than were saved."""
    make_brain(folder, BLOCK, "both", tmp_path, steps=4)
    first = make_brain(folder, BLOCK, "both", tmp_path, steps=4)
    train(first)
    drawn = []
    for rank in (0, 1, 2, 1):
        again = make_brain(folder, BLOCK, "both", tmp_path)
        again.on_fit_start()
        again.rank, again.hparams.steps = rank, 5
        again.checkpointer = None
        again._steps = lambda *_: drawn.append(torch.rand(4)) or []
        again.fit(make_dataset(again.model.prompt))
    # The first goes on with its own numbers, the others with others'.
    torch.set_rng_state(first.random_states[0]["torch"])
    assert torch.equal(drawn[0], torch.rand(4))
    assert torch.equal(drawn[1], drawn[3])
    assert not torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[1], drawn[2])


def test_a_finished_training_is_not_trained_again(folder, tmp_path):
    """A finished training is not trained again."""
    first = make_brain(folder, BLOCK, "both", tmp_path)
    weights = train(first)
    again = make_brain(folder, BLOCK, "both", tmp_path)
    again.fit_step = None
    same(train(again), weights)
    assert again.history == first.history
    assert again.train_seconds == first.train_seconds


def told_losses(brain, *losses):
    """Validation losses as given, in place of the real ones."""
    real, told = brain.validate, iter(losses)

    def validate(dataset):
        """Validate."""
        real(dataset)
        return next(told)

    brain.validate = validate
    return brain


@pytest.mark.parametrize("stop", [None, 2, 4, 6])
def test_the_best_checkpoint_is_kept_and_used(folder, tmp_path, stop):
    """A loss that rises at the end leaves the step before; a stop too."""
    pytest.importorskip("speechbrain_ext.training.keep_best")
    options = dict(keep="best", valid_interval=2)
    place, losses = tmp_path / "best", [3.0, 2.0, 2.0, 4.0]

    def brain():
        """A brain that goes on in the same folder."""
        return make_brain(folder, BLOCK, "both", place, **options)

    short = make_brain(folder, BLOCK, "both", tmp_path / "short", **options)
    short.optimizer_step_limit = 4
    expected = train(told_losses(short, 3.0, 2.0))
    first = told_losses(brain(), *losses)
    if stop:
        first.optimizer_step_limit = stop
        train(first)
        first = told_losses(brain(), *losses[stop // 2 :])
    train(first)
    assert [entry["step"] for entry in first.history] == [2, 4, 6, 8]
    assert len(checkpoints(place)) == 2
    last = weights_of(first)
    assert first.use_best() == 4 and first.losses is None
    same(weights_of(first), expected)
    with pytest.raises(AssertionError):
        same(last, expected)
    # And a later start, whose newest checkpoint is the last step's.
    again = brain()
    same(train(again), last)
    assert again.use_best() == 4
    same(weights_of(again), expected)


@pytest.mark.parametrize("losses", [[3.0, 2.0], [float("nan"), 2.0]])
def test_the_last_step_may_be_the_best(folder, tmp_path, losses):
    """Its own losses are those of the weights that stay."""
    pytest.importorskip("speechbrain_ext.training.keep_best")
    options = dict(keep="best", valid_interval=4)
    brain = make_brain(folder, BLOCK, "both", tmp_path, **options)
    weights = train(told_losses(brain, *losses))
    assert len(checkpoints(tmp_path)) == 1
    assert brain.use_best() == 8 and brain.losses
    same(weights_of(brain), weights)


def test_the_last_step_is_kept_where_nothing_is_said(folder, tmp_path):
    """One checkpoint, whatever the losses."""
    pytest.importorskip("speechbrain_ext.training.keep_best")
    brain = make_brain(folder, BLOCK, "both", tmp_path, valid_interval=2)
    train(told_losses(brain, 1.0, 2.0, 3.0, 4.0))
    assert len(checkpoints(tmp_path)) == 1
    assert brain.use_best() == 8


def checkpoints(folder):
    """Checkpoints."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir())


def test_a_checkpoint_holds_only_what_is_trained(folder, tmp_path):
    """A checkpoint holds only what is trained."""
    brain = make_brain(folder, BLOCK, "both", tmp_path)
    weights = train(brain)
    [name] = checkpoints(tmp_path)
    state = torch.load(tmp_path / name / "trained.ckpt")
    assert state.keys() == weights.keys()
    trained = sum(v.numel() for v in weights.values())
    size = sum(f.stat().st_size for f in (tmp_path / name).iterdir())
    # Weights, two moments of Adam, and some words about each.
    assert size < 3 * 4 * trained + 60_000


@pytest.mark.parametrize("part", ["brain", "trained", "optimizer"])
def test_stopped_in_the_middle_of_saving(folder, tmp_path, monkeypatch, part):
    """A checkpoint is there whole or not at all."""
    weights = train(make_brain(folder, BLOCK, "both", tmp_path / "whole"))
    save = torch.save
    saved = []

    def stopping(value, path, *args, **kwargs):
        """Stopping."""
        if part in str(path):
            saved.append(path)
            if len(saved) == 3:
                raise KeyboardInterrupt
        return save(value, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(make_brain(folder, BLOCK, "both", tmp_path / "stopped"))
    monkeypatch.undo()
    again = make_brain(folder, BLOCK, "both", tmp_path / "stopped")
    again.on_fit_start()
    assert again.optimizer_step == 4
    again = make_brain(folder, BLOCK, "both", tmp_path / "stopped")
    same(train(again), weights)


def test_what_a_kill_left_behind_is_no_checkpoint(folder, tmp_path):
    """What a kill left behind is no checkpoint."""
    brain = make_brain(folder, BLOCK, "both", tmp_path)
    weights = train(brain)
    [name] = checkpoints(tmp_path)
    torn = tmp_path / name.replace("CKPT", "unfinished")
    shutil.copytree(tmp_path / name, torn)
    os.remove(torn / "trained.ckpt")
    again = make_brain(folder, BLOCK, "both", tmp_path, steps=10)
    train(again)
    assert again.optimizer_step == 10
    [name] = checkpoints(tmp_path)
    assert name.startswith("CKPT")
    assert weights.keys() == weights_of(again).keys()


def test_no_space_left_while_saving(folder, tmp_path):
    """The checkpoint before is still there, and training goes on from it."""
    pytest.importorskip("speechbrain_ext.runs.disks")
    weights = train(make_brain(folder, BLOCK, "both", tmp_path / "whole"))
    brain = make_brain(folder, BLOCK, "both", tmp_path / "full")
    after = brain._after_step
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(steps, valid_set):
        """Filling."""
        if brain.optimizer_step == 6:
            resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
        after(steps, valid_set)

    brain._after_step = filling
    try:
        with pytest.raises(
            OSError, match="could not be.*Free some space.*full"
        ):
            train(brain)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    again = make_brain(folder, BLOCK, "both", tmp_path / "full")
    again.on_fit_start()
    assert again.optimizer_step == 4
    again = make_brain(folder, BLOCK, "both", tmp_path / "full")
    same(train(again), weights)


def test_a_checkpoint_of_another_shape_is_refused(folder, tmp_path):
    """A checkpoint of another shape is refused."""
    train(make_brain(folder, BLOCK, "both", tmp_path / "a"))
    brain = make_brain(folder, BLOCK, "projector", tmp_path / "a")
    with pytest.raises(ValueError, match="another model.*not trained here"):
        train(brain)
    wide = make_decoder("qwen2", tmp_path / "wide", hidden_size=64)
    brain = make_brain(wide, BLOCK, "both", tmp_path / "a")
    with pytest.raises(ValueError, match="has shape .*(Give|remove)"):
        train(brain)


def test_bfloat16_trains_and_keeps_full_precision_weights(folder):
    """Bfloat16 trains and keeps full precision weights."""
    brain = make_brain(
        folder, BLOCK, "both", precision="bf16", eval_precision="bf16"
    )
    weights = train(brain)
    assert {v.dtype for v in weights.values()} == {torch.float32}
    exact = train(make_brain(folder, BLOCK, "both"))
    far = max((weights[n] - exact[n]).abs().max() for n in weights)
    assert 0 < far < 0.2


def test_half_precision_wants_a_gpu(folder):
    """Half precision wants a gpu."""
    with pytest.raises(ValueError, match="fp16"):
        make_brain(folder, precision="fp16")


def test_decoding_gives_every_row_in_order(folder):
    """Decoding gives every row in order."""
    rows = {}
    for size in (1, 3, 10):
        brain = make_brain(folder, test_batch_size=size)
        data = make_dataset(brain.model.prompt, 10)
        rows[size] = brain.decode(data)
        assert [row["id"] for row in rows[size]] == list(data.data_ids)
        assert not brain.modules.training
    assert rows[1] == rows[3] == rows[10]
    assert [row["reference"] for row in rows[1]] == [
        data.data[i]["target"] for i in data.data_ids
    ]
    assert len({row["hypothesis"] for row in rows[1]}) > 2


def test_limits_follow_the_duration(folder):
    """Limits follow the duration."""
    brain = make_brain(folder, max_new_tokens=20, max_tokens_per_second=10)
    items = [{"id": "a", "duration": d} for d in (0.1, 1.01, 60.0)]
    assert brain.limits(PaddedBatch(items)).tolist() == [8, 11, 20]


def test_workers_change_nothing(folder):
    """Workers change nothing."""
    weights = train(make_brain(folder, BLOCK, "both"))
    many = make_brain(folder, BLOCK, "both", num_workers=1)
    same(train(many), weights)
