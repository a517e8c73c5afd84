"""Rules that choose which layers of a decoder go.

A rule takes a decoder, a little data and a size, and gives a plan:
``RULES[name](model, data, size)``. A new rule is one function, and a line in
`RULES`:

>>> from speechbrain_ext.layers.rules import RULES, RuleData, rule
>>> @rule("shallowest", looks_at_data=False)
... def shallowest(model, data, size):
...     return data.plan(model, range(size))
>>> RULES["shallowest"] = shallowest
>>> from speechbrain_ext.tiny_models import tiny_speech_llm
>>> model = tiny_speech_llm(layers=4).decoder
>>> RULES["shallowest"](model, RuleData([]), 2).layers
(0, 1)
>>> del RULES["shallowest"]
"""

import functools
import random
from dataclasses import replace

import torch

from speechbrain_ext.layers.distances import measure
from speechbrain_ext.layers.finite import refuse_overflow
from speechbrain_ext.layers.linear_map import LEAST, fit_map
from speechbrain_ext.layers.removal import gaps
from speechbrain_ext.layers.residual import (
    Cost,
    clock,
    input_of,
    model_inputs,
    recorded,
)
from speechbrain_ext.layers.search import candidate_losses, identity
from speechbrain_ext.layers.surgery import base_model, causal_lm, drop_layers

# ----------------------------------------------------------------------------
# What every rule does before and after it chooses.


def rule(name, looks_at_data=True, needs_targets=False, positions=None):
    """Make a function a rule: its request is checked, its plan named.

    Arguments
    ---------
    name : str
        The rule's name, also in the plan.
    looks_at_data : bool
        Whether it needs data at all.
    needs_targets : bool
        Whether something has to be predicted.
    positions : callable or None
        The decoder to how many positions it needs; stays as an attribute.

    Returns
    -------
    callable
        Takes a function of model, `speechbrain_ext.layers.residual.RuleData` and
        size that gives a `speechbrain_ext.layers.plans.Plan`; gives one that checks
        these first.
    """

    def decorate(choose):
        @functools.wraps(choose)
        def checked(model, data, size):
            check_size(size, len(base_model(model).layers))
            if looks_at_data:
                data.check(needs_targets)
            return replace(choose(model, data, size), rule=name)

        checked.positions = positions
        return checked

    return decorate


def check_size(size, num_layers):
    """Refuse a number of layers that cannot go."""
    if not 1 <= size <= num_layers - 1:
        raise ValueError(
            f"prune_layers: {size}, but the decoder has {num_layers} layers "
            "and the last must stay to receive: choose 1 to "
            f"{num_layers - 1}."
        )


# ----------------------------------------------------------------------------
# Rules by how little layers change the residual stream.


@rule("angular")
def angular(model, data, size):
    """The paper's rule (Section 3.1): the block of least angular distance.

    The stream before a block and behind it, at each sequence's last token.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.layers.residual.RuleData
        With a table, or batches to measure one on.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.layers.plans.Plan
    """

    def make():
        seconds = clock()
        table = measure(model, data.watched("Angular distances"))
        return table, Cost(seconds(), table.num_layers * data.sequences)

    if data.table is None:
        table, cost = data.remember("table", make)
    else:
        table = data.table
        cost = Cost(table.provenance.get("seconds", 0.0))
    block = table.best(size)
    return data.plan(
        model,
        block.removed,
        float(table.distances[size - 1, block.start]),
        cost,
        value_is="angular distance",
        sequences=table.count,
    )


@torch.no_grad()
def stream_cosines(model, data):
    """Mean cosine between the streams before all pairs of layers."""
    inner = base_model(model)
    num_layers, seconds = len(inner.layers), clock()
    passes = num_layers * data.sequences
    data.budget.check(Cost(layer_passes=passes))
    total_LL = torch.zeros(num_layers, num_layers, dtype=torch.float64)
    count = 0
    for batch in data.watched("Cosines of streams"):
        inputs = model_inputs(model, batch)
        with recorded(model) as streams:
            inner(**inputs, use_cache=False)
        real_BQ = inputs["attention_mask"].bool()
        h_NLD = torch.stack([h[real_BQ] for h in streams.before], dim=1)
        h_NLD = torch.nn.functional.normalize(h_NLD.double(), dim=-1)
        # The sum over positions of all cosines, as one product for a pair.
        total_LL += torch.einsum("nid,njd->ij", h_NLD, h_NLD).cpu()
        count += len(h_NLD)
        data.budget.check(Cost(seconds()))
    refuse_overflow(total_LL, "cosines between layers' streams")
    return total_LL / count, Cost(seconds(), passes)


@rule("block-influence")
def block_influence(model, data, size):
    """ShortGPT's rule (arXiv 2403.03853): layers that change least, singly."""
    cosine_LL, cost = _cosines(model, data)
    influence_L = 1 - cosine_LL.diagonal(1)
    layers = influence_L.argsort(stable=True)[:size]
    value = influence_L[layers].mean().item()
    return data.plan(
        model,
        layers.tolist(),
        value,
        cost,
        value_is="mean influence of a layer",
    )


@rule("block-influence-run")
def block_influence_run(model, data, size):
    """The run of layers whose input and output are most alike."""
    cosine_LL, cost = _cosines(model, data)
    influence = 1 - cosine_LL.diagonal(size)
    start = int(influence.argmin())
    return data.plan(
        model,
        range(start, start + size),
        influence[start].item(),
        cost,
        value_is="influence of the run",
    )


def _cosines(model, data):
    """`stream_cosines`, once for all sizes."""
    return data.remember("cosines", lambda: stream_cosines(model, data))


# ----------------------------------------------------------------------------
# Rules that look at no data: what every other rule has to be better than.


@rule("deepest", looks_at_data=False)
def deepest(model, data, size):
    """The layers before the last one, which stays to receive.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.layers.residual.RuleData
        Tells the model's name only.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.layers.plans.Plan
    """
    last = len(base_model(model).layers) - 1
    return data.plan(model, range(last - size, last))


@rule("even", looks_at_data=False)
def even(model, data, size):
    """Layers spread evenly over all but the last.

    The L - 1 layers that may go are cut into as many equal parts as layers
    are to go; of each part the middle one goes.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.layers.residual.RuleData
        Tells the model's name only.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.layers.plans.Plan
    """
    last = len(base_model(model).layers) - 1
    # The middle of part i is at (i + 1/2) * last / size, in whole numbers;
    # halves go down, so that no two meet and the last layer is never named.
    return data.plan(
        model,
        [
            -((size - (2 * part + 1) * last) // (2 * size))
            for part in range(size)
        ],
    )


@rule("random", looks_at_data=False)
def at_random(model, data, size):
    """Layers drawn by the data's seed; a larger size contains a smaller."""
    layers = list(range(len(base_model(model).layers) - 1))
    random.Random(data.seed).shuffle(layers)
    return data.plan(model, layers[:size], seed=data.seed)


# ----------------------------------------------------------------------------
# Rules by the loss that is left once layers are gone.
#
# Both searches take what is done at a gap (`speechbrain_ext.layers.search`): a
# rule that scores layers by the loss after something was put in their place is
# one of these functions with another `at_gap`.

VALUE = "nats per target token"


@rule("greedy-runs", needs_targets=True)
def greedy_runs(model, data, size):
    """The run of layers whose removal leaves the least loss."""
    return best_run(model, data, size)


@rule("greedy-layers", needs_targets=True)
def greedy_layers(model, data, size):
    """One layer after the other, each the one whose loss is least then."""
    return one_by_one(model, data, size)


def best_run(model, data, size, at_gap=identity):
    """Try every run of a size; see `greedy_runs`."""
    last = len(base_model(model).layers) - 1
    runs = [tuple(range(s, s + size)) for s in range(last - size + 1)]
    losses, cost = candidate_losses(model, data, runs, at_gap=at_gap)
    best = losses.index(min(losses))
    return data.plan(model, runs[best], losses[best], cost, value_is=VALUE)


def one_by_one(model, data, size, at_gap=identity):
    """Take away a layer at a time; see `greedy_layers`."""
    num_layers = len(base_model(model).layers)
    whole = search_passes(num_layers, size) * data.sequences
    data.budget.check(Cost(layer_passes=whole))
    order, losses, cost = [], [], Cost()
    while len(order) < size:
        layer, loss, more = _next(model, data, tuple(order), at_gap, cost)
        order.append(layer)
        losses.append(loss)
        cost = cost + more
    return data.plan(
        model,
        order,
        losses[-1],
        cost,
        value_is=VALUE,
        order=order,
        losses=losses,
    )


def _next(model, data, removed, at_gap, spent):
    """The layer to take away next, its loss, and what finding it took."""

    def make():
        left = [
            (layer,)
            for layer in range(len(base_model(model).layers) - 1)
            if layer not in removed
        ]
        losses, cost = candidate_losses(
            model, data, left, removed, at_gap, spent
        )
        best = losses.index(min(losses))
        return left[best][0], losses[best], cost

    return data.remember((at_gap, removed), make)


def search_passes(num_layers, size):
    """Layer passes that `one_by_one` takes for one sequence."""
    left = range(num_layers - size + 1, num_layers + 1)
    return sum(k + k * (k - 1) // 2 for k in left)


# ----------------------------------------------------------------------------
# Rules by the loss that is left behind a closed-form map.
#
# What a removed run did to the stream is put back as a linear map first, as
# healing would: a run that is nearly linear may go though the loss without it
# is great. Maps are fitted on one half of the sequences and judged on the other.

# One ridge for all candidates: to choose it for each would take as many
# searches as there are ridges.
RIDGE = 0.01


def _wanted(model):
    """Positions that two halves need, one of which maps are fitted on."""
    return 2 * LEAST * causal_lm(model).config.hidden_size


@rule("map-run", needs_targets=True, positions=_wanted)
def map_run(model, data, size):
    """The run of layers that leaves the least loss behind a map."""
    return _search(best_run, model, data, size)


@rule("map-greedy", needs_targets=True, positions=_wanted)
def map_greedy(model, data, size):
    """One layer after the other, each the one whose loss is least then."""
    return _search(one_by_one, model, data, size)


def _search(choose, model, data, size):
    """A search with maps, which plans of other sizes share."""

    def make():
        fitting, judging = halves(data)
        for half in (fitting, judging):
            half.check(targets=half is judging)
        return GapMaps(model, fitting), judging

    maps, judging = data.remember("halves and maps", make)
    # What is remembered of the search hangs on the maps, not on the data.
    judging = replace(judging, memory=data.memory)
    plan = choose(model, judging, size, at_gap=maps)
    told = {"ridge": maps.ridge, "fitted_on": maps.sequences}
    return replace(plan, about={**plan.about, **told})


def halves(data):
    """The sequences that maps are fitted on, and those they are judged on."""
    first, second, seen = [], [], 0
    for batch in data.batches:
        many = len(input_of(batch))
        places = torch.arange(seen, seen + many) % 2
        seen += many
        for half, batches in enumerate((first, second)):
            rows = (places == half).nonzero().flatten()
            if len(rows):
                batches.append(_rows(batch, rows, many))
    return replace(data, batches=first), replace(data, batches=second)


def _rows(batch, rows, many):
    """Some rows of a batch; what is not a row of it stays as it is."""
    return {
        name: value[rows.to(value.device)]
        if torch.is_tensor(value) and len(value) == many
        else value
        for name, value in batch.items()
    }


class GapMaps:
    """What is done at a gap: its closed-form map, fitted when asked for."""

    def __init__(self, model, data, ridge=RIDGE):
        self.model, self.batches = model, data.batches
        self.ridge, self.sequences = ridge, data.sequences
        self._whole, self._maps, self._behind = None, {}, {}

    def __call__(self, removed, gap):
        """The map of one gap (LinearMap)."""
        if self._whole is None:
            self._whole = self._streams()
        # Only what is removed up to the gap is in the stream before it.
        gone = tuple(i for i in sorted(removed) if i < gap.receiving)
        if gone not in self._maps:
            self._maps[gone] = self._fit(gone, gap)
        return self._maps[gone]

    @torch.no_grad()
    def _fit(self, gone, gap):
        before = self._before(gone, gap)
        after = [one.before[gap.receiving] for one in self._whole]
        weights = [self._mask(batch) for batch in self.batches]
        linear_map = fit_map(before, after, self.ridge, weights)
        # For the gaps behind this one.
        self._behind[gone] = [linear_map(h_BQD) for h_BQD in before]
        return linear_map

    def _before(self, gone, gap):
        """The stream that reaches a gap, earlier maps in it, by batch."""
        num_layers = len(base_model(self.model).layers)
        earlier = [
            one
            for one in gaps(gone, num_layers)
            if one.receiving < gap.receiving
        ]
        if not earlier:
            return [one.before[gap.start] for one in self._whole]
        last = earlier[-1]
        key = tuple(i for i in gone if i < last.receiving)
        self(key, last)
        return [
            self._run(streams, h_BQD, range(last.receiving, gap.start))
            for streams, h_BQD in zip(self._whole, self._behind[key])
        ]

    def _run(self, streams, h_BQD, layers):
        for index in layers:
            h_BQD = streams.run(self._layers[index], index, h_BQD)
        return h_BQD

    @torch.no_grad()
    def _streams(self):
        """The whole decoder's streams, by batch."""
        # Shares the weights; its mode is its own.
        model, found = drop_layers(causal_lm(self.model), ()).eval(), []
        for batch in self.batches:
            inputs = model_inputs(model, batch)
            with recorded(model) as streams:
                base_model(model)(**inputs, use_cache=False)
            found.append(streams)
        self._layers = base_model(model).layers
        return found

    def _mask(self, batch):
        """1 at real positions, 0 at padding (torch.Tensor, ``[B, Q]``)."""
        mask_BQ = batch.get("attention_mask")
        if mask_BQ is None:
            return torch.ones(input_of(batch).shape[:2])
        return mask_BQ.float()


DEFAULT = "angular"
RULES = {
    "angular": angular,
    "block-influence": block_influence,
    "block-influence-run": block_influence_run,
    "greedy-runs": greedy_runs,
    "greedy-layers": greedy_layers,
    "map-run": map_run,
    "map-greedy": map_greedy,
    "even": even,
    "deepest": deepest,
    "random": at_random,
}
# Rules that look at no data: they need no model but its depth.
UNSEARCHED = ("even", "deepest", "random")


def find_rule(name):
    """A rule by its name.

    Arguments
    ---------
    name : str
        One of `RULES`.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is none of that name.
    """
    if name not in RULES:
        raise ValueError(f"rule: {name!r} is none of {', '.join(RULES)}.")
    return RULES[name]


def choose_plans(name, model, data, sizes):
    """Plans of one rule for several sizes, sharing what they have in common.

    Arguments
    ---------
    name : str
        One of `RULES`.
    model : torch.nn.Module
        The decoder; it must not change in between.
    data : RuleData
        What to choose on.
    sizes : iterable of int
        Layers to remove.

    Yields
    ------
    speechbrain_ext.layers.plans.Plan
        The smallest first. Each one's cost is what it takes by itself.
    """
    choose, data = find_rule(name), data.remembering()
    for size in sorted(set(sizes)):
        yield choose(model, data, size)
