"""Rules choose what a brute-force search over pruned models chooses.

Authors
 * The speechbrain_ext authors, 2026
"""

import itertools

import pytest
import torch
from speech_llm_fixtures import make_decoder, make_features, make_model
from transformers import AutoModelForCausalLM

from speechbrain_ext.healing.lora import MLP, add_adapter
from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.rules import (
    RULES,
    Rule,
    best_run,
    choose_plans,
    find_rule,
    one_by_one,
    search_passes,
    stream_cosines,
)
from speechbrain_ext.layers.search import (
    Budget,
    RuleData,
    candidate_losses,
    text_labels,
)
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.training.choose_layers import text_batches

DEPTH = 6
LENGTHS = [9, 4, 12, 7, 5]
# Rules that fit maps want more data: test_map_rules.py.
PLAIN = [name for name in RULES if not name.startswith("map-")]
LOOKING = [name for name in RULES if RULES[name].needs]
SEARCHED = [name for name in PLAIN if name in LOOKING]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Kind to a causal LM of six layers; Qwen2's later ones slide."""
    top = tmp_path_factory.mktemp("six")
    more = {
        "qwen2": dict(
            use_sliding_window=True, sliding_window=4, max_window_layers=3
        ),
        "llama": {},
    }
    return {
        kind: make_decoder(kind, top / kind, num_hidden_layers=DEPTH, **changes)
        for kind, changes in more.items()
    }


@pytest.fixture
def model(kind, folders):
    """Model."""
    return AutoModelForCausalLM.from_pretrained(folders[kind]).eval()


def rows_of(lengths, seed=0):
    """Rows of."""
    torch.manual_seed(seed)
    return [torch.randint(5, 200, (n,)) for n in lengths]


def make_batch(rows, side="right"):
    """Make batch."""
    pad = dict(batch_first=True, padding_side=side)
    ids = torch.nn.utils.rnn.pad_sequence(rows, padding_value=7, **pad)
    mask = torch.nn.utils.rnn.pad_sequence(
        [torch.ones_like(row) for row in rows], **pad
    )
    labels = text_labels(ids, mask)
    # The first tokens of a row are a prompt: nothing has to predict them.
    first = mask.argmax(dim=1, keepdim=True)
    labels[torch.arange(ids.shape[1])[None] < first + 2] = -100
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.fixture
def data():
    """Data."""
    return RuleData([make_batch(rows_of(LENGTHS))], {"model": "six"})


@torch.no_grad()
def loss_of(lm, rows):
    """Mean loss of a model, row by row without padding."""
    total = count = 0
    for row in rows:
        labels = make_batch([row])["labels"]
        logits = lm(input_ids=row[None]).logits
        total += torch.nn.functional.cross_entropy(
            logits[0], labels[0], ignore_index=-100, reduction="sum"
        ).item()
        count += (labels != -100).sum().item()
    return total / count


def brute(model, sets):
    """Loss of each pruned model."""
    rows = rows_of(LENGTHS)
    return [loss_of(drop_layers(model, gone), rows) for gone in sets]


# -- the search is the brute-force one ---------------------------------------


@pytest.mark.parametrize("removed", [(), (3,), (0, 2)])
def test_losses_are_those_of_the_pruned_models(model, data, removed):
    """Losses are those of the pruned models."""
    left = [i for i in range(DEPTH - 1) if i not in removed]
    candidates = [(i,) for i in left] + [tuple(left[:2]), (left[0], left[-1])]
    losses, _ = candidate_losses(model, data, candidates, removed)
    expected = brute(model, [[*removed, *c] for c in candidates])
    torch.testing.assert_close(
        torch.tensor(losses), torch.tensor(expected), rtol=2e-6, atol=0
    )
    # The candidates can be told apart at that accuracy.
    assert max(expected) - min(expected) > 1e-2


def test_greedy_layers_is_a_brute_force_search(model, data):
    """Greedy layers is a brute force search."""
    removed, losses = [], []
    for _ in range(3):
        left = [i for i in range(DEPTH - 1) if i not in removed]
        tried = brute(model, [[*removed, i] for i in left])
        losses.append(min(tried))
        removed.append(left[tried.index(min(tried))])
    plan = RULES["greedy-layers"](model, data, 3)
    assert plan.about["order"] == removed
    assert plan.about["losses"] == pytest.approx(losses, rel=2e-6)
    assert plan.value == plan.about["losses"][-1]
    assert plan.layers == tuple(sorted(removed))


@pytest.mark.parametrize("size", [1, 2, 4])
def test_greedy_runs_is_a_brute_force_search(model, data, size):
    """Greedy runs is a brute force search."""
    runs = [Block(start, size) for start in range(DEPTH - size)]
    tried = brute(model, runs)
    plan = RULES["greedy-runs"](model, data, size)
    assert plan.layers == runs[tried.index(min(tried))].removed
    assert plan.value == pytest.approx(min(tried), rel=2e-6)


@pytest.mark.parametrize("name", SEARCHED)
def test_batches_and_padding_do_not_matter(model, name):
    """Rows alone, padded on either side, on ids or embeddings."""
    rows = rows_of(LENGTHS)
    alone = RuleData([make_batch([row]) for row in rows])
    expected = RULES[name](model, alone, 2)
    for split, side in itertools.product((2, 5), ("left", "right")):
        batches = [
            make_batch(rows[i : i + split], side)
            for i in range(0, len(rows), split)
        ]
        for batch in batches:
            ids = batch.pop("input_ids")
            batch["inputs_embeds"] = model.model.embed_tokens(ids).detach()
        plan = RULES[name](model, RuleData(batches), 2)
        assert plan.layers == expected.layers
        assert plan.value == pytest.approx(expected.value, rel=1e-5)


def test_speech_and_prompt_are_searched_as_the_model_reads_them(folders):
    """The loss of a speech LLM on what its own `sequence` makes."""
    source = folders["llama"]
    model = make_model(source)
    x_BSF, tokens_B = make_features([3, 1, 5, 2])
    targets = [torch.tensor(t) for t in ([9, 8, 7], [5], [6, 6], [11, 3])]
    sequence = model.sequence(x_BSF, tokens_B, targets)
    batch = {**sequence.as_inputs(), "labels": sequence.labels_BQ}
    data = RuleData([{k: v.detach() for k, v in batch.items()}])
    losses, _ = candidate_losses(model.decoder, data, [(1,), (3, 4)], [0])
    for loss, removed in zip(losses, ([0, 1], [0, 3, 4])):
        pruned = make_model(source, removed)
        logits_NV, labels_N = pruned(x_BSF, tokens_B, targets)
        expected = torch.nn.functional.cross_entropy(logits_NV, labels_N)
        assert loss == pytest.approx(expected.item(), rel=2e-6)


def test_what_is_done_at_a_gap_is_done_wherever_one_is(model, data):
    """A map at each gap, also one that a candidate widens on either side."""

    def at_gap(removed, gap):
        """At gap."""
        factor = 1 + 0.1 * gap.start + 0.03 * gap.size
        return lambda h_BQD: h_BQD * factor

    def by_hand(gone):
        """By hand."""
        lm = drop_layers(model, gone)
        kept = [i for i in range(DEPTH) if i not in gone]
        for new, old in enumerate(kept):
            before = kept[new - 1] if new else -1
            if old == before + 1:
                continue
            done = at_gap(gone, Block(before + 1, old - before - 1))
            lm.model.layers[new].register_forward_pre_hook(
                lambda m, a, done=done: (done(a[0]), *a[1:])
            )
        return loss_of(lm, rows_of(LENGTHS))

    candidates = [(0,), (1,), (3,), (4,)]
    losses, _ = candidate_losses(model, data, candidates, (2,), at_gap)
    expected = [by_hand(sorted([2, *c])) for c in candidates]
    assert losses == pytest.approx(expected, rel=5e-6)
    plain, _ = candidate_losses(model, data, candidates, (2,))
    assert losses != pytest.approx(plain, rel=1e-3)
    # Both searches take it.
    run = best_run(model, data, 2, at_gap)
    assert run.value == pytest.approx(by_hand(run.layers), rel=5e-6)
    plan = one_by_one(model, data, 3, at_gap)
    assert plan.value == pytest.approx(by_hand(plan.layers), rel=5e-6)


def test_an_adapter_is_searched_with(folders, data):
    """PEFT's layers are layers; nothing of the search stays on them."""
    decoder = Decoder.from_source(folders["qwen2"])
    add_adapter(decoder, MLP, [1, 3])
    torch.manual_seed(0)
    for name, parameter in decoder.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    decoder.train()
    [loss], _ = candidate_losses(decoder, data, [(2, 3)])
    assert decoder.training and decoder.lm.training
    assert not any(
        layer._forward_pre_hooks for layer in decoder.lm.model.layers
    )
    merged = decoder.adapter.merge_and_unload().eval()
    assert loss == pytest.approx(brute(merged, [[2, 3]])[0], rel=1e-5)


# -- cost ---------------------------------------------------------------------


def test_layers_before_a_candidate_are_run_once(model, data):
    """Counted at the layers themselves, and told by the plan."""
    calls = []
    for layer in model.model.layers:
        layer.mlp.register_forward_hook(lambda *a: calls.append(1))
    plan = RULES["greedy-layers"](model, data, 3)
    assert len(calls) == search_passes(DEPTH, 3) == 21 + 15 + 10
    assert plan.about["layer_passes"] == len(calls) * len(LENGTHS)
    assert plan.about["seconds"] > 0


def test_sizes_share_their_search(model, data):
    """Sizes share their search."""
    calls = []
    model.model.layers[0].mlp.register_forward_hook(lambda *a: calls.append(1))
    plans = list(choose_plans("greedy-layers", model, data, [3, 1, 3]))
    together = len(calls)
    calls.clear()
    alone = RULES["greedy-layers"](model, data, 3)
    assert [plan.size for plan in plans] == [1, 3]
    assert together == len(calls)
    assert plans[1].layers == alone.layers
    # What a plan takes by itself, whatever it was chosen with.
    passes = [p.about["layer_passes"] for p in (plans[1], alone)]
    assert passes[0] == passes[1]
    # Nothing of one model is left for another.
    assert data.memory is None


def test_only_targets_reach_the_head(model, data):
    """Only targets reach the head."""
    seen = []
    model.lm_head.register_forward_hook(lambda m, a, o: seen.append(len(a[0])))
    RULES["greedy-runs"](model, data, 4)
    assert seen == [data.targets] * 2


def test_budgets(model, data):
    """Budgets."""
    calls = []
    model.model.layers[0].register_forward_hook(lambda *a: calls.append(1))
    whole = search_passes(DEPTH, 2) * len(LENGTHS)
    data.budget = Budget(layer_passes=whole - 1)
    with pytest.raises(ValueError, match=f"takes {whole} layer passes.*fewer"):
        RULES["greedy-layers"](model, data, 2)
    assert not calls  # said before anything was run
    data.budget = Budget(layer_passes=whole)
    assert RULES["greedy-layers"](model, data, 2).size == 2
    data.budget = Budget(seconds=0.0)
    for name in ("greedy-layers", "greedy-runs", "block-influence"):
        with pytest.raises(ValueError, match="seconds, over its budget"):
            RULES[name](model, data, 2)


# -- the other rules ----------------------------------------------------------


@torch.no_grad()
def influence(model, rows, size):
    """1 less the mean cosine over runs of a size, one position at a time."""
    sums, count = torch.zeros(DEPTH - size, dtype=torch.float64), 0
    for row in rows:
        states = model(row[None], output_hidden_states=True).hidden_states
        for start in range(DEPTH - size):
            a, b = states[start][0].double(), states[start + size][0].double()
            sums[start] += torch.cosine_similarity(a, b, dim=-1).sum()
        count += len(row)
    return 1 - sums / count


def test_block_influence(model, data):
    """Block influence."""
    each = influence(model, rows_of(LENGTHS), 1)
    plan = RULES["block-influence"](model, data, 2)
    assert plan.layers == tuple(sorted(each.argsort()[:2].tolist()))
    assert plan.value == pytest.approx(
        each.sort()[0][:2].mean().item(), abs=1e-6
    )
    for size in (1, 2, 3, 5):
        runs = influence(model, rows_of(LENGTHS), size)
        plan = RULES["block-influence-run"](model, data, size)
        assert (plan.start, plan.size) == (int(runs.argmin()), size)
        assert plan.value == pytest.approx(runs.min().item(), abs=1e-6)


def test_looking_at_streams_needs_no_gradient(model, data):
    """Embeddings may come from what is trained."""
    (batch,) = data.batches
    embeds_BQD = model.model.embed_tokens(batch.pop("input_ids"))
    batch["inputs_embeds"] = embeds_BQD.detach().requires_grad_()
    cosine_LL, _ = stream_cosines(model, data)
    assert not cosine_LL.requires_grad


def test_angular_is_the_tables_path(model, data):
    """Angular is the tables path."""
    table = measure(model, data.batches)
    for given in (None, table):
        data.table = given
        for plan, block in zip(
            choose_plans("angular", model, data, range(1, DEPTH)),
            table.path(),
        ):
            assert plan.layers == block.removed
            distance = table.distances[block.size - 1, block.start]
            assert plan.value == pytest.approx(distance)
    empty = RuleData([], table=RedundancyTable(*[table.distances] * 2, 1))
    with pytest.raises(ValueError, match="Too few data.*1 sequences"):
        RULES["angular"](model, empty, 2)


def test_rules_that_look_at_nothing(model):
    """Rules that look at nothing."""
    nothing = RuleData([], seed=3)
    for size in range(1, DEPTH):
        deepest, even, drawn = (
            RULES[name](model, nothing, size)
            for name in ("deepest", "even", "random")
        )
        assert deepest.layers == tuple(range(DEPTH - 1 - size, DEPTH - 1))
        assert even.size == drawn.size == size
        gaps = torch.tensor(even.layers).diff()
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
        again = RULES["random"](model, RuleData([], seed=3), size)
        assert drawn.layers == again.layers
    drawn = {
        RULES["random"](model, RuleData([], seed=seed), 3).layers
        for seed in range(20)
    }
    assert len(drawn) > 5


# -- every rule ---------------------------------------------------------------


@pytest.mark.parametrize("name", PLAIN)
def test_every_rule_keeps_the_last_layer_and_says_so(model, data, name):
    """Every rule keeps the last layer and says so."""
    choose = find_rule(name)
    assert choose(model, data, DEPTH - 1).layers == tuple(range(DEPTH - 1))
    plan = choose(model, data, 2)
    assert (plan.rule, plan.num_layers, plan.model) == (name, DEPTH, "six")
    assert (plan.value is None) == (name not in LOOKING)
    for size in (0, -1, DEPTH, DEPTH + 3):
        with pytest.raises(ValueError, match="choose 1 to 5"):
            choose(model, data, size)


@pytest.mark.parametrize("name", SEARCHED)
def test_too_few_data_are_refused(model, data, name):
    """Too few data are refused."""
    for rows in ([], rows_of([5, 6, 7])):
        few = RuleData([make_batch(rows)] if rows else [])
        with pytest.raises(ValueError, match=f"Too few data.*: {len(rows)} "):
            RULES[name](model, few, 2)
    for batch in data.batches:
        del batch["labels"]
    if name.startswith("greedy"):
        with pytest.raises(ValueError, match="nothing to predict"):
            RULES[name](model, data, 2)
    else:
        assert RULES[name](model, data, 2).size == 2


def test_a_candidate_that_is_not_there_is_refused(model, data):
    """A candidate that is not there is refused."""
    for candidates in ([(2,)], [()], [(17,)]):
        with pytest.raises(ValueError, match="still there"):
            candidate_losses(model, data, candidates, (2,))
    with pytest.raises(ValueError, match="must stay to receive"):
        candidate_losses(model, data, [(DEPTH - 1,)])


def test_a_loss_that_is_no_number_is_refused(model, data):
    """Without layer 1 this model's numbers have no end."""

    def at_gap(removed, gap):
        """At gap."""
        factor = float("nan") if gap.start == 1 else 1.0
        return lambda h_BQD: h_BQD * factor

    with pytest.raises(ValueError, match="1 of 2 are not a number"):
        candidate_losses(model, data, [(1,), (2,)], at_gap=at_gap)


@pytest.mark.parametrize("name", LOOKING)
def test_states_that_overflow_are_refused_with_the_mend(folders, name):
    """Weights that float32 bears and float16 does not, as some models are."""
    model = AutoModelForCausalLM.from_pretrained(folders["llama"]).eval()
    with torch.no_grad():
        for part in ("up_proj", "down_proj"):
            weight = getattr(model.model.layers[3].mlp, part).weight
            weight *= 3e4 / weight.abs().max()
    data = RuleData([make_batch(rows_of([20] * 16))])
    for dtype in (torch.float32, torch.bfloat16):
        assert RULES[name](model.to(dtype), data, 2).size == 2
    half = model.to(torch.float16)
    assert all(part.isfinite().all() for part in half.parameters())
    with pytest.raises(ValueError, match="use bfloat16 or float32"):
        RULES[name](half, data, 2)


def test_a_new_rule_is_one_function(model, monkeypatch):
    """A new rule is one function."""

    def mine(model, data, size):
        """Mine."""
        return data.plan(model, range(size), 0.5)

    own = Rule("mine", mine, "the first layers", needs=None)
    monkeypatch.setitem(RULES, "mine", own)
    [plan] = choose_plans("mine", model, RuleData([], {"task": "ASR"}), [2])
    assert (plan.rule, plan.layers, plan.value) == ("mine", (0, 1), 0.5)
    assert plan.data == {"task": "ASR"}
    with pytest.raises(ValueError, match="'theirs' is none of angular,.*mine"):
        find_rule("theirs")


def test_texts_have_labels_of_their_own(folders):
    """Texts have labels of their own."""
    decoder = Decoder.from_source(folders["qwen2"])
    prompt = Prompt.from_template(decoder.tokenizer, "{speech} say: {target}")
    texts = ["one two", "cat", "red dog", "x y"]
    data = RuleData(list(text_batches(decoder, prompt, texts, 2)))
    targets = sum(len(prompt.encode_target(text)) for text in texts)
    # Without a first token nothing predicts a text's beginning.
    assert data.targets == targets - len(texts)
    assert RULES["greedy-layers"](decoder, data, 2).size == 2
