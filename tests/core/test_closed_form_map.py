"""The closed-form map: numpy's ridge solution, however the states come.

Authors
 * The speechbrain_ext authors, 2026
"""

import numpy as np
import pytest
import torch
from speech_llm_fixtures import WORDS, make_dataset, make_features, make_model
from test_healing import BLOCK, logits_of

from speechbrain_ext.healing import heal
from speechbrain_ext.healing.bridge import bridges_of
from speechbrain_ext.healing.closed_form import (
    fit_in_sequence,
    held_out_loss,
    position_weights,
)
from speechbrain_ext.healing.presets import Healing
from speechbrain_ext.layers.linear_map import LinearMap, MapSums, fit_map
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.streams import states_at
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.prompt import IGNORE
from speechbrain_ext.training.whole_model import pruned_twin, some_of

WIDTH = 32


def numpy_ridge(x, y, strength, weights=None, bias=True):
    """W and b, from the normal equations of centred states."""
    weights = np.ones(len(x)) if weights is None else weights
    mean_x = mean_y = 0
    if bias:
        mean_x = np.average(x, axis=0, weights=weights)
        mean_y = np.average(y, axis=0, weights=weights)
    root = np.sqrt(weights / weights.sum())[:, None]
    x, y = root * (x - mean_x), root * (y - mean_y)
    ridge = strength * np.mean(np.sum(x * x, axis=0))
    # As least squares with more rows, not as the sums that are tested.
    rows = np.concatenate([x, np.sqrt(ridge) * np.eye(x.shape[1])])
    right = np.concatenate([y, np.zeros((x.shape[1], y.shape[1]))])
    weight = np.linalg.lstsq(rows, right, rcond=None)[0].T
    return weight, mean_y - weight @ np.broadcast_to(mean_x, x.shape[1])


def sequences(model, sizes=(9, 5, 12, 7, 8, 3, 10, 6), batch=8, seed=0):
    """Assembled rows with targets, in batches, in this order."""
    random = np.random.default_rng(seed)
    x_BSF, tokens_B = make_features(sizes, seed=seed + 20)
    targets = [
        model.prompt.encode_target(
            " ".join(random.choice(WORDS, size=n % 5 + 2))
        )
        for n in sizes
    ]
    rows = []
    for first in range(0, len(sizes), batch):
        part = slice(first, first + batch)
        longest = max(sizes[part])
        row = model.sequence(
            x_BSF[part, :longest], tokens_B[part], targets[part]
        )
        # What the whole model says is right: coming nearer to it pays.
        with torch.no_grad():
            logits = model.decoder.target_logits(row)[0]
        row.labels_BQ[row.labels_BQ != IGNORE] = logits.argmax(-1)
        rows.append(row)
    return rows


@pytest.fixture
def pair(source):
    """A whole and a pruned model in float64, so that only sums differ."""
    return double_pair(source, BLOCK)


def double_pair(source, removed):
    """Double pair."""
    torch.manual_seed(0)
    whole = make_model(source).eval().double()
    whole.requires_grad_(False)
    return whole, pruned_twin(whole, removed).eval()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strength", [1e-4, 0.1])
def test_numpys_solution_on_the_same_states(pair, strength, bias):
    """Numpys solution on the same states."""
    whole, pruned = pair
    rows = sequences(whole)
    before, after, real = [], [], []
    for row in rows:
        before.append(states_at(pruned.decoder, 1, row)[0])
        after.append(states_at(whole.decoder, 3, row)[0])
        real.append(row.mask_BQ)
    gap = fit_map(before, after, strength, real, bias)
    keep = [m.bool().numpy() for m in real]
    x = np.concatenate([b.numpy()[k] for b, k in zip(before, keep)])
    y = np.concatenate([a.numpy()[k] for a, k in zip(after, keep)]) - x
    assert len(x) > 2 * WIDTH
    weight, shift = numpy_ridge(x, y, strength, bias=bias)
    np.testing.assert_allclose(gap.weight_DD.numpy(), weight, atol=1e-8)
    if bias:
        np.testing.assert_allclose(gap.bias_D.numpy(), shift, atol=1e-8)
    else:
        assert gap.bias_D is None
    mapped = gap(before[0]).numpy()
    shift = shift if bias else 0
    by_hand = before[0].numpy() + before[0].numpy() @ weight.T + shift
    np.testing.assert_allclose(mapped, by_hand, atol=1e-8)


def test_positions_count_as_they_weigh():
    """Positions count as they weigh."""
    random = np.random.default_rng(1)
    x, y = random.normal(size=(2, 90, 5))
    weights = random.uniform(0, 3, size=90)
    weights[::4] = 0
    tensors = [torch.tensor(v) for v in (x, x + y, weights)]
    gap = fit_map(*tensors[:2], 0.01, tensors[2])
    weight, shift = numpy_ridge(x, y, 0.01, weights)
    np.testing.assert_allclose(gap.weight_DD.numpy(), weight, atol=1e-8)
    np.testing.assert_allclose(gap.bias_D.numpy(), shift, atol=1e-8)
    # Twice the weight is the position twice.
    double = torch.ones(90).double()
    double[:7] = 2
    again = torch.cat([tensors[0], tensors[0][:7]])
    after = torch.cat([tensors[1], tensors[1][:7]])
    one = fit_map(*tensors[:2], 0.01, double)
    two = fit_map(again, after, 0.01)
    torch.testing.assert_close(one.weight_DD, two.weight_DD)


def test_endless_ridge_is_no_map_and_none_is_the_truth():
    """Endless ridge is no map and none is the truth."""
    torch.manual_seed(0)
    x = torch.randn(200, 6).double()
    true = LinearMap(torch.randn(6, 6).double(), torch.randn(6).double())
    gap = fit_map(x, true(x), 1e-12)
    torch.testing.assert_close(gap.weight_DD, true.weight_DD)
    torch.testing.assert_close(gap.bias_D, true.bias_D)
    assert fit_map(x, true(x), 1e12).weight_DD.abs().max() < 1e-9


def fit(whole, pruned, rows, **options):
    """Fit."""
    settings = dict(layers=[1], held_out=rows, strengths=[0.01])
    settings.update(options)
    return fit_in_sequence(whole.decoder, pruned.decoder, rows=rows, **settings)


@pytest.mark.parametrize("form", ["module", "folded"])
def test_batches_order_and_padding_do_not_matter(pair, form):
    """Batches order and padding do not matter."""
    whole, pruned = pair
    sizes = (9, 5, 12, 7, 8, 3, 10, 6)
    together = sequences(whole, sizes)
    alone = sequences(whole, sizes, batch=1)[::-1]
    lefts = sequences(whole, sizes, batch=3)
    expected = fit(whole, pruned, together, form=form)[1]
    for rows in (alone, lefts):
        found = fit(whole, pruned, rows, form=form, held_out=together)[1]
        assert found.positions == expected.positions
        torch.testing.assert_close(
            found.map.weight_DD, expected.map.weight_DD, atol=1e-8, rtol=1e-8
        )
    assert expected.map.weight_DD.abs().max() > 1e-3


@pytest.mark.parametrize("removed", [BLOCK, {1, 3}], ids=str)
@pytest.mark.parametrize("form", ["module", "folded"])
def test_both_decoders_are_left_as_they_were(source, removed, form):
    """Both decoders are left as they were."""
    whole, pruned = double_pair(source, removed)
    rows = sequences(whole)
    layers = [1, 2] if removed == {1, 3} else [1]
    with torch.no_grad():
        before = logits_of(pruned.float()), logits_of(whole.float())
        whole.double(), pruned.double()
        fit(whole, pruned, rows, layers=layers, form=form)
        assert torch.equal(logits_of(pruned.float()), before[0])
        assert torch.equal(logits_of(whole.float()), before[1])


def ready(whole, pruned, name, removed, **options):
    """Fit what a preset wants, heal with it; gives model and fits."""
    healing, rows = Healing.of(name), sequences(whole)
    bridge = healing.bridge
    form = "folded" if bridge["form"] == "folded" else "module"
    layers = options.pop("layers", [1])
    fits = fit(
        whole,
        pruned,
        rows,
        layers=layers,
        form=form,
        rank=bridge["rank"],
        **options,
    )
    maps = {index: one.map for index, one in fits.items()}
    heal(pruned, removed, healing, verbose=False, maps=maps)
    return pruned.eval(), fits


@pytest.mark.parametrize("removed", [BLOCK, {1, 3}], ids=str)
def test_folded_is_the_module_on_the_mlp_before(source, removed):
    """Folded is the module on the mlp before."""
    whole, pruned = double_pair(source, removed)
    layers = [1, 2] if removed == {1, 3} else [1]
    twin = pruned_twin(whole, removed).eval()
    model, fits = ready(whole, pruned, "map_folded", removed, layers=layers)
    for index, one in fits.items():
        assert one.map.bias_D is None
        weight = one.map.weight_DD.float().double()

        def step(mlp, args, output, weight=weight):
            """Step."""
            return output + output @ weight.T

        mlp = twin.decoder.lm.model.layers[index - 1].mlp
        mlp.register_forward_hook(step)
    rows = sequences(whole)
    with torch.no_grad():
        folded = model.decoder.target_logits(rows[0])[0]
        module = twin.decoder.target_logits(rows[0])[0]
        torch.testing.assert_close(folded, module, atol=1e-9, rtol=1e-9)
        # Shared with the whole model, but not changed there.
        assert sorted(model.decoder.folded) == layers
        first = whole.decoder.lm.model.layers[0].mlp.down_proj.weight
        mine = model.decoder.lm.model.layers[0].mlp.down_proj.weight
        assert (first != mine).any()
        norm = "lm.model.norm.weight"
        shared = dict(whole.decoder.named_parameters())[norm]
        assert dict(model.decoder.named_parameters())[norm] is shared


def test_the_mlps_map_is_fitted_on_the_mlps_output(pair):
    """Against numpy: what the layer before lacks, from what its MLP says."""
    whole, pruned = pair
    rows = sequences(whole)
    found = fit(whole, pruned, rows, form="folded")[1]
    (row,) = rows
    before, m = states_at(pruned.decoder, 1, row, mlp=True)
    after = states_at(whole.decoder, 3, row)[0]
    real = row.mask_BQ.bool()
    y = (after - before)[real].numpy()
    weight, _ = numpy_ridge(m[real].numpy(), y, 0.01, bias=False)
    assert found.strength == 0.01
    np.testing.assert_allclose(found.map.weight_DD.numpy(), weight, atol=1e-8)


def test_the_fixed_bridge_is_the_map(pair):
    """The fixed bridge is the map."""
    whole, pruned = pair
    (row,) = sequences(whole)
    twin = pruned_twin(whole, BLOCK).eval()
    model, fits = ready(whole, pruned, "map", BLOCK)
    gap = fits[1].map

    def step(layer, args):
        """Step."""
        return (gap(args[0]), *args[1:])

    twin.decoder.lm.model.layers[1].register_forward_pre_hook(step)
    with torch.no_grad():
        torch.testing.assert_close(
            model.decoder.target_logits(row)[0],
            twin.decoder.target_logits(row)[0],
            atol=1e-4,
            rtol=1e-4,
        )
    assert not any(p.requires_grad for p in model.parameters())


def test_a_later_gap_sees_the_maps_before_it(source):
    """A later gap sees the maps before it."""
    removed = {1, 3}
    whole, pruned = double_pair(source, removed)
    rows = sequences(whole)
    fits = fit(whole, pruned, rows, layers=[1, 2], strengths=[1e-3])
    twin = pruned_twin(whole, removed).eval()
    gap = fits[1].map

    def step(layer, args):
        """Step."""
        return (gap(args[0]), *args[1:])

    twin.decoder.lm.model.layers[1].register_forward_pre_hook(step)
    (row,) = rows
    real = row.mask_BQ.bool()
    x = states_at(twin.decoder, 2, row)[0][real].numpy()
    y = states_at(whole.decoder, 4, row)[0][real].numpy() - x
    weight, _ = numpy_ridge(x, y, 1e-3)
    found = fits[2].map.weight_DD.numpy()
    # The bridge keeps float32 where this is float64.
    np.testing.assert_allclose(found, weight, atol=1e-4)
    alone = fit(whole, pruned, rows, layers=[2], strengths=[1e-3])[2]
    assert np.abs(alone.map.weight_DD.numpy() - found).max() > 1e-2


def test_the_ridge_is_chosen_on_held_out_data(pair):
    """The ridge is chosen on held out data."""
    whole, pruned = pair
    rows, held_out = sequences(whole), sequences(whole, seed=5)
    strengths = [1e-6, 1e-2, 1.0]
    found = fit(whole, pruned, rows, held_out=held_out, strengths=strengths)[1]
    assert set(found.losses) == {None, *strengths}
    assert found.strength == min(found.losses, key=found.losses.get)
    for strength, loss in found.losses.items():
        twin = pruned_twin(whole, BLOCK).eval()
        if strength is not None:
            one = fit(whole, twin, rows, strengths=[strength])[1].map
            maps = {1: one}
            heal(twin, BLOCK, "map", verbose=False, maps=maps)
        assert held_out_loss(twin.decoder, held_out) == pytest.approx(loss)
    # Other data to judge by, other losses; the fit itself is the same.
    other = fit(whole, pruned, rows, held_out=rows, strengths=strengths)[1]
    assert other.losses != found.losses
    assert other.positions == found.positions


def test_where_no_map_helps_none_is_taken(pair):
    """Held-out targets that the pruned model itself finds most likely."""
    whole, pruned = pair
    rows = sequences(whole)
    held_out = sequences(whole, seed=5)
    for row in held_out:
        wanted = row.labels_BQ != IGNORE
        logits = pruned.decoder.target_logits(row)[0]
        row.labels_BQ[wanted] = logits.argmax(-1)
    found = fit(whole, pruned, rows, held_out=held_out, strengths=[1e-3])[1]
    assert found.strength is None and not found.map.weight_DD.any()


@pytest.mark.parametrize("rank", [2, 31])
def test_a_map_of_low_rank_is_the_nearest_one(rank):
    """A map of low rank is the nearest one."""
    torch.manual_seed(0)
    x = torch.randn(400, WIDTH).double() @ torch.randn(WIDTH, WIDTH).double()
    y = torch.randn(400, WIDTH).double()
    sums = MapSums(WIDTH)
    sums.add(x, y)
    gap = sums.solve(0.01)
    low = gap.lowered(rank, sums.covariance())
    assert torch.linalg.matrix_rank(low.weight_DD) == rank
    torch.testing.assert_close(low.up_DR @ low.down_RD, low.weight_DD)
    # Eckart and Young: what W says on the centred states, cut by its SVD.
    centred = x - x.mean(0)
    said = centred @ gap.weight_DD.T
    u, s, v = torch.linalg.svd(said, full_matrices=False)
    best = (u[:, :rank] * s[:rank]) @ v[:rank]
    torch.testing.assert_close(centred @ low.weight_DD.T, best)


def test_a_trained_bridge_starts_from_the_map(pair):
    """A trained bridge starts from the map."""
    whole, pruned = pair
    own = {"bridge": {"rank": 4, "start": "map", "form": "trained"}}
    model, fits = ready(whole, pruned, Healing.of("mine", own), BLOCK)
    (bridge,) = bridges_of(model.decoder).values()
    assert bridge.up.requires_grad and bridge.up.shape == (WIDTH, 4)
    low = fits[1].map
    torch.testing.assert_close(
        (bridge.up @ bridge.down).double(), low.weight_DD, atol=1e-5, rtol=1e-4
    )
    torch.testing.assert_close(
        bridge.bias.double(), low.bias_D, atol=1e-5, rtol=1e-4
    )
    with pytest.raises(ValueError, match="was not fitted for the layers"):
        heal(pruned_twin(whole, BLOCK), BLOCK, "map")


def test_too_little_data_is_refused_with_the_numbers(pair):
    """Too little data is refused with the numbers."""
    whole, pruned = pair
    rows = sequences(whole, sizes=(2, 3))
    positions = int(sum(row.mask_BQ.sum() for row in rows))
    assert positions < 2 * WIDTH
    said = f"at least 64 positions, .* there are {positions} .*2 utterances"
    with pytest.raises(ValueError, match=said):
        fit(whole, pruned, rows)
    with pytest.raises(ValueError, match="there are 9"):
        fit_map(torch.rand(9, 8), torch.rand(9, 8))
    with pytest.raises(ValueError, match="no held-out target"):
        fit(whole, pruned, sequences(whole), held_out=[])


def test_target_positions_alone(pair):
    """Target positions alone."""
    whole, pruned = pair
    (row,) = sequences(whole)
    weights = position_weights(row, "target")
    assert weights.sum() == (row.labels_BQ != IGNORE).sum() < row.mask_BQ.sum()
    found = fit(whole, pruned, [row], positions="target")[1]
    assert found.positions == int(weights.sum())
    with pytest.raises(ValueError, match="none of all, target"):
        position_weights(row, "first")


@pytest.mark.parametrize("removed", [BLOCK, {0, 2}], ids=str)
def test_a_twin_is_the_pruned_model(source, removed):
    """A twin is the pruned model."""
    whole = make_model(source)
    ours, theirs = pruned_twin(whole, removed), make_model(source, removed)
    assert ours.decoder.kept == theirs.decoder.kept
    assert ours.decoder.kept == Removal.of(removed, 5).kept
    theirs.projector.load_state_dict(whole.projector.state_dict())
    with torch.no_grad():
        assert torch.equal(logits_of(ours.eval()), logits_of(theirs.eval()))
    mine = {id(p) for p in ours.decoder.parameters()}
    assert mine < {id(p) for p in whole.decoder.parameters()}
    assert not mine & {id(p) for p in ours.projector.parameters()}
    assert drop_layers(whole.decoder.lm, removed) is not ours.decoder.lm


def test_some_of_a_set(decoder_folders):
    """Some of a set."""
    model = make_model(decoder_folders["qwen2"])
    dataset = make_dataset(model.prompt, 10)
    few = some_of(dataset, 4, seed=1)
    assert len(few) == 4 and len(set(few.data_ids)) == 4
    assert few.data_ids == some_of(dataset, 4, seed=1).data_ids
    assert few.data_ids != some_of(dataset, 4, seed=2).data_ids
    assert some_of(dataset, 99).data_ids == dataset.data_ids
