"""Rules that judge layers by the loss behind a map, against doing it by hand.

Authors
 * The speechbrain_ext authors, 2026
"""

import itertools

import pytest
import torch
from speech_llm_fixtures import make_decoder
from transformers import AutoModelForCausalLM

from speechbrain_ext.layers.linear_map import fit_map
from speechbrain_ext.layers.removal import Block, Removal
from speechbrain_ext.layers.rules import (
    RIDGE,
    RULES,
    GapMaps,
    choose_plans,
    halves,
)
from speechbrain_ext.layers.search import (
    RuleData,
    candidate_losses,
    text_labels,
)
from speechbrain_ext.layers.surgery import drop_layers

DEPTH = 5
LENGTHS = [12, 9, 16, 12, 14, 10, 15, 16, 9, 13, 16, 11, 12, 14]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder."""
    folder = tmp_path_factory.mktemp("five") / "llama"
    return make_decoder("llama", folder, num_hidden_layers=DEPTH)


@pytest.fixture
def model(folder):
    """Model."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    # Layers that do something, each another thing.
    torch.manual_seed(2)
    for index, layer in enumerate(model.model.layers):
        torch.nn.init.normal_(layer.mlp.down_proj.weight, std=0.3 + 0.1 * index)
    return model


@pytest.fixture
def rows():
    """Rows."""
    torch.manual_seed(1)
    return [torch.randint(5, 200, (n,)) for n in LENGTHS]


def data_of(rows, size=4, side="left"):
    """Data of."""
    batches = []
    for start in range(0, len(rows), size):
        some = rows[start : start + size]
        pad = dict(batch_first=True, padding_side=side)
        ids = torch.nn.utils.rnn.pad_sequence(some, padding_value=7, **pad)
        ones = [torch.ones_like(row) for row in some]
        mask = torch.nn.utils.rnn.pad_sequence(ones, **pad)
        labels = text_labels(ids, mask)
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        batches.append(batch)
    return RuleData(batches, {"model": "five"})


def stream(lm, row, layer):
    """The stream before a layer, one row alone."""
    return lm(input_ids=row[None], output_hidden_states=True).hidden_states[
        layer
    ][0]


@torch.no_grad()
def by_hand(model, rows, gone):
    """Loss behind maps: fitted on even rows in sequence, scored on odd."""
    lm = drop_layers(model, gone)
    kept = [i for i in range(DEPTH) if i not in gone]
    for new, old in enumerate(kept):
        if old == (kept[new - 1] + 1 if new else 0):
            continue
        fit_on = rows[::2]
        before = torch.cat([stream(lm, row, new) for row in fit_on])
        after = torch.cat([stream(model, row, old) for row in fit_on])
        gap_map = fit_map(before, after, RIDGE)
        lm.model.layers[new].register_forward_pre_hook(
            lambda m, a, gap_map=gap_map: (gap_map(a[0]), *a[1:])
        )
    total = count = 0
    for row in rows[1::2]:
        logits = lm(input_ids=row[None]).logits[0, :-1]
        total += torch.nn.functional.cross_entropy(
            logits, row[1:], reduction="sum"
        ).item()
        count += len(row) - 1
    return total / count


@pytest.mark.parametrize("size", [1, 2])
def test_map_run_is_fitting_and_scoring_by_hand(model, rows, size):
    """Map run is fitting and scoring by hand."""
    runs = [tuple(range(s, s + size)) for s in range(DEPTH - size)]
    tried = [by_hand(model, rows, gone) for gone in runs]
    plan = RULES["map-run"](model, data_of(rows), size)
    assert plan.layers == runs[tried.index(min(tried))]
    assert plan.value == pytest.approx(min(tried), rel=1e-5)
    assert (plan.rule, plan.about["fitted_on"]) == ("map-run", 7)


def test_map_greedy_is_fitting_and_scoring_by_hand(model, rows):
    """Map greedy is fitting and scoring by hand."""
    removed, losses = [], []
    for _ in range(3):
        left = [i for i in range(DEPTH - 1) if i not in removed]
        tried = [by_hand(model, rows, sorted([*removed, i])) for i in left]
        losses.append(min(tried))
        removed.append(left[tried.index(min(tried))])
    plan = RULES["map-greedy"](model, data_of(rows), 3)
    assert plan.about["order"] == removed
    assert plan.about["losses"] == pytest.approx(losses, rel=1e-5)


@torch.no_grad()
def test_where_layers_do_nothing_the_map_is_the_identity(model, rows):
    """Two layers that pass the stream on score as greedy-runs scores them."""
    for layer in model.model.layers[1:3]:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    fitting, judging = halves(data_of(rows))
    gap_map = GapMaps(model, fitting)(Removal((1, 2), DEPTH), Block(1, 2))
    assert gap_map.weight_DD.abs().max() < 1e-9
    assert gap_map.bias_D.abs().max() < 1e-9
    maps, run = GapMaps(model, fitting), [(1, 2), (0, 1)]
    mapped, _ = candidate_losses(model, judging, run, at_gap=maps)
    plain, _ = candidate_losses(model, judging, run)
    assert mapped[0] == pytest.approx(plain[0], rel=1e-6)
    assert mapped[1] != pytest.approx(plain[1], rel=1e-3)


@pytest.mark.parametrize("name", ["map-run", "map-greedy"])
def test_batches_and_padding_do_not_matter(model, rows, name):
    """Batches and padding do not matter."""
    expected = RULES[name](model, data_of(rows, 1), 2)
    for size, side in itertools.product((3, 14), ("left", "right")):
        plan = RULES[name](model, data_of(rows, size, side), 2)
        assert plan.layers == expected.layers
        assert plan.value == pytest.approx(expected.value, rel=1e-5)


@pytest.mark.parametrize("name", ["map-run", "map-greedy"])
def test_several_sizes_share_their_maps_and_come_to_the_same(model, rows, name):
    """Several sizes share their maps and come to the same."""
    data = data_of(rows)
    for plan in choose_plans(name, model, data, [1, 2, 3]):
        alone = RULES[name](model, data, plan.size)
        assert (plan.layers, plan.value) == (alone.layers, alone.value)


@pytest.mark.parametrize("name", ["map-run", "map-greedy"])
def test_too_few_data_are_refused(model, rows, name):
    """Too few data are refused."""
    with pytest.raises(ValueError, match="Too few data.*: 3 "):
        RULES[name](model, data_of(rows[:7]), 1)
    with pytest.raises(ValueError, match="positions"):
        RULES[name](model, data_of([row[:4] for row in rows]), 1)
    data = data_of(rows)
    for batch in data.batches:
        del batch["labels"]
    with pytest.raises(ValueError, match="nothing to predict"):
        RULES[name](model, data, 1)
