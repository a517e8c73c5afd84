"""Rules that choose which layers of a decoder go; `RULES` lists them.

A rule takes a decoder, a little data and a size, and gives a plan:
``RULES[name](model, data, size)``. A new rule is one function, and one line:

>>> from speechbrain_ext.layers.rules import RULES, Rule, RuleData
>>> def shallowest(model, data, size):
...     return data.plan(model, range(size))
>>> RULES["shallowest"] = Rule("shallowest", shallowest, "the first", None)
>>> from speechbrain_ext.tiny_models import tiny_speech_llm
>>> model = tiny_speech_llm(layers=4).decoder
>>> RULES["shallowest"](model, RuleData([]), 2).layers
(0, 1)
>>> del RULES["shallowest"]
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from speechbrain_ext.layers.distances import measure
from speechbrain_ext.layers.linear_map import LEAST, LinearMap, fit_map
from speechbrain_ext.layers.lm_calls import causal_lm, decoder_layers, input_of
from speechbrain_ext.layers.plans import Plan
from speechbrain_ext.layers.removal import Block, Removal
from speechbrain_ext.layers.residual import refuse_overflow
from speechbrain_ext.layers.search import (
    Cost,
    RuleData,
    candidate_losses,
    clock,
    nothing,
)
from speechbrain_ext.layers.streams import recorded
from speechbrain_ext.layers.surgery import drop_layers

# ----------------------------------------------------------------------------
# By how little layers change the residual stream.


def angular(model, data, size):
    """The block of least angular distance, at each sequence's last token."""

    def make():
        """Computed once, and remembered."""
        seconds = clock()
        if data.elsewhere:
            table = data.elsewhere.measure(data)
        else:
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
        block,
        float(table.distances[size - 1, block.start]),
        cost,
        value_is="angular distance",
        sequences=table.count,
    )


@torch.no_grad()
def stream_cosines(model, data):
    """Mean cosine between the streams before all pairs of layers.

    Over all positions that are not padding, in float64.
    """
    if data.elsewhere:
        return data.elsewhere.stream_cosines(data)
    num_layers, seconds = len(decoder_layers(model)), clock()
    passes = num_layers * data.sequences
    data.budget.check(Cost(layer_passes=passes))
    total_LL = torch.zeros(num_layers, num_layers, dtype=torch.float64)
    count = 0
    for batch in data.watched("Cosines of streams"):
        streams = recorded(model, batch)
        real_BQ = streams.mask_BQ.bool()
        h_NLD = torch.stack([h[real_BQ] for h in streams.before], dim=1)
        h_NLD = torch.nn.functional.normalize(h_NLD.double(), dim=-1)
        # The sum over positions of all cosines, as one product for a pair.
        total_LL += torch.einsum("nid,njd->ij", h_NLD, h_NLD).cpu()
        count += len(h_NLD)
        data.budget.check(Cost(seconds()))
    refuse_overflow(total_LL, "cosines between layers' streams")
    return total_LL / count, Cost(seconds(), passes)


def _cosines(model, data):
    """`stream_cosines`, once for all sizes."""
    return data.remember("cosines", lambda: stream_cosines(model, data))


def block_influence(model, data, size):
    """ShortGPT's rule (arXiv 2403.03853)."""
    cosine_LL, cost = _cosines(model, data)
    influence_L = 1 - cosine_LL.diagonal(1)
    layers = influence_L.argsort(stable=True)[:size]
    value = influence_L[layers].mean().item()
    about = "mean influence of a layer"
    return data.plan(model, layers.tolist(), value, cost, value_is=about)


def block_influence_run(model, data, size):
    """The same measure, of a run's input and output.

    The paper's rule with all positions in place of the last, and cosines in
    place of their angles.
    """
    cosine_LL, cost = _cosines(model, data)
    influence = 1 - cosine_LL.diagonal(size)
    start = int(influence.argmin())
    value = influence[start].item()
    about = "influence of the run"
    return data.plan(model, Block(start, size), value, cost, value_is=about)


# ----------------------------------------------------------------------------
# By the loss that is left once layers are gone.

VALUE = "nats per target token"


def best_run(model, data, size, at_gap=nothing):
    """Try every run of a size."""
    last = len(decoder_layers(model)) - 1
    runs = [Block(start, size).removed for start in range(last - size + 1)]
    losses, cost = candidate_losses(model, data, runs, at_gap=at_gap)
    best = losses.index(min(losses))
    return data.plan(model, runs[best], losses[best], cost, value_is=VALUE)


def one_by_one(model, data, size, at_gap=nothing):
    """Take away a layer at a time."""
    num_layers = len(decoder_layers(model))
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
        """Computed once, and remembered."""
        last = len(decoder_layers(model)) - 1
        left = [(layer,) for layer in range(last) if layer not in removed]
        losses, cost = candidate_losses(
            model, data, left, removed, at_gap, spent
        )
        best = losses.index(min(losses))
        return left[best][0], losses[best], cost

    return data.remember((at_gap, removed), make)


def search_passes(num_layers, size):
    """Layer passes that `one_by_one` takes for one sequence."""
    # With k layers left, a step runs these k, and behind each of the k - 1
    # that may go what follows it.
    left = range(num_layers - size + 1, num_layers + 1)
    return sum(k + k * (k - 1) // 2 for k in left)


# ----------------------------------------------------------------------------
# By the loss that is left behind a closed-form map.
#
# What a removed run did to the stream is put back as a linear map first, as
# healing would: a run that is nearly linear may go though the loss without it
# is great. Maps are fitted on one half of the sequences and judged on the other.

# One ridge for all candidates: to choose it for each would take as many
# searches as there are ridges.
RIDGE = 0.01


def behind_maps(choose, model, data, size):
    """A search with maps, which plans of other sizes share."""

    if data.elsewhere:
        raise ValueError(
            "maps are fitted on the streams of all layers at once: the model "
            "has to be in memory"
        )

    def make():
        """Computed once, and remembered."""
        fitting, judging = halves(data)
        for half in (fitting, judging):
            half.check(targets=half is judging)
        return GapMaps(model, fitting), judging

    maps, judging = data.remember("halves and maps", make)
    # What is remembered of the search hangs on the maps, not on the data.
    judging = replace(judging, memory=data.memory)
    plan = choose(model, judging, size, at_gap=maps)
    about = {"ridge": RIDGE, "fitted_on": maps.data.sequences}
    return replace(plan, about={**plan.about, **about})


def positions_for_maps(model):
    """Positions that two halves need, one of which maps are fitted on."""
    return 2 * LEAST * causal_lm(model).config.hidden_size


def halves(data: RuleData) -> tuple[RuleData, RuleData]:
    """The sequences that maps are fitted on, and those they are judged on."""
    first: list[dict] = []
    second: list[dict] = []
    seen = 0
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
    """What is done at a gap: its closed-form map, fitted when asked for.

    The map hangs on what is removed up to the gap alone: only that is in the
    stream before it. Holds the whole decoder's streams of all data it fits
    on: layers x positions x width numbers.
    """

    def __init__(self, model: torch.nn.Module, data: RuleData):
        # Shares the weights; its mode is its own.
        self.model = drop_layers(causal_lm(model), None).eval()
        self.data = data
        self._fitted: dict[Removal, tuple] = {}

    def __call__(self, removed: Removal, gap: Block) -> LinearMap:
        """The map of one gap."""
        return self._last_gap(removed.until(gap))[0]

    @functools.cached_property
    def whole(self):
        """The whole decoder's streams, by batch."""
        return [recorded(self.model, batch) for batch in self.data.batches]

    @torch.no_grad()
    def _last_gap(self, removed):
        """The map of the last gap, and the stream behind it, by batch."""
        if removed not in self._fitted:
            *earlier, gap = removed.gaps
            before = [streams.before[gap.start] for streams in self.whole]
            if earlier:
                # With the earlier maps in it.
                layers = range(earlier[-1].receiving, gap.start)
                _, behind = self._last_gap(removed.until(earlier[-1]))
                before = [
                    streams.run(h_BQD, layers)
                    for streams, h_BQD in zip(self.whole, behind)
                ]
            after = [one.before[gap.receiving] for one in self.whole]
            weights = [one.mask_BQ.float() for one in self.whole]
            linear_map = fit_map(before, after, RIDGE, weights)
            behind = [linear_map(h_BQD) for h_BQD in before]
            self._fitted[removed] = linear_map, behind
        return self._fitted[removed]


# ----------------------------------------------------------------------------
# By nothing: what every other rule has to be better than.


def deepest(model, data, size):
    """The last one stays to receive."""
    last = len(decoder_layers(model)) - 1
    return data.plan(model, range(last - size, last))


def even(model, data, size):
    """Of as many equal parts as layers are to go, the middle one each."""
    last = len(decoder_layers(model)) - 1
    # The middle of part i is at (i + 1/2) * last / size, in whole numbers;
    # halves go down, so that no two meet and the last layer is never named.
    middles = ((2 * part + 1) * last - size for part in range(size))
    return data.plan(model, [-(-middle // (2 * size)) for middle in middles])


def at_random(model, data, size):
    """A larger size contains a smaller."""
    layers = list(range(len(decoder_layers(model)) - 1))
    random.Random(data.seed).shuffle(layers)
    return data.plan(model, layers[:size], seed=data.seed)


# ----------------------------------------------------------------------------
# All of them.

# What a rule needs of its data: sequences alone, or something to predict too.
SEQUENCES, TARGETS = "sequences", "targets"


@dataclass(frozen=True)
class Rule:
    """A way to choose layers: what is asked of it is checked, its plan named.

    Arguments
    ---------
    name : str
        Also in the plan.
    choose : callable
        Takes the decoder, a `RuleData` and a size; gives a plan.
    help : str
        What it chooses, in a line.
    needs : str or None
        `SEQUENCES`, `TARGETS`, or None for a rule that looks at no data: it
        needs no model but its depth.
    positions : callable or None
        The decoder to how many positions it needs; None: a few do.
    """

    name: str
    choose: Callable
    help: str
    needs: str | None = TARGETS
    positions: Callable | None = None

    def __call__(
        self, model: torch.nn.Module, data: RuleData, size: int
    ) -> Plan:
        """The plan that this rule chooses."""
        check_size(size, len(decoder_layers(model)))
        if self.needs:
            data.check(targets=self.needs == TARGETS)
        return replace(self.choose(model, data, size), rule=self.name)


def _behind_maps(name, choose, text):
    choose = functools.partial(behind_maps, choose)
    return Rule(name, choose, text, TARGETS, positions_for_maps)


DEFAULT = "angular"
_LEAST_LOSS = "the run of layers whose removal leaves the least loss"
_BY_LOSS = "one layer after the other, each the one whose loss is least then"
RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "angular",
            angular,
            "the paper's (Section 3.1): the block of least angular distance",
            SEQUENCES,
        ),
        Rule(
            "block-influence",
            block_influence,
            "layers that change the stream least, singly (ShortGPT)",
            SEQUENCES,
        ),
        Rule(
            "block-influence-run",
            block_influence_run,
            "the run of layers whose input and output are most alike",
            SEQUENCES,
        ),
        Rule("greedy-runs", best_run, _LEAST_LOSS),
        Rule("greedy-layers", one_by_one, _BY_LOSS),
        _behind_maps("map-run", best_run, f"{_LEAST_LOSS} behind a map"),
        _behind_maps("map-greedy", one_by_one, f"{_BY_LOSS}, behind maps"),
        Rule("even", even, "layers spread evenly over all but the last", None),
        Rule("deepest", deepest, "the layers before the last one", None),
        Rule("random", at_random, "layers drawn by the seed", None),
    )
}


def find_rule(name: str) -> Rule:
    """A rule by its name; refuses a name that is none of `RULES`."""
    if name not in RULES:
        raise ValueError(f"rule: {name!r} is none of {', '.join(RULES)}.")
    return RULES[name]


def check_size(size: int, num_layers: int) -> None:
    """Refuse a number of layers that cannot go."""
    if not 1 <= size <= num_layers - 1:
        raise ValueError(
            f"prune_layers: {size}, but the decoder has {num_layers} layers "
            "and the last must stay to receive: choose 1 to "
            f"{num_layers - 1}."
        )


def choose_plans(
    name: str, model: torch.nn.Module, data: RuleData, sizes: Iterable[int]
) -> Iterator[Plan]:
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
    Plan
        The smallest first. Each one's cost is what it takes by itself.
    """
    choose, data = find_rule(name), data.remembering()
    for size in sorted(set(sizes)):
        yield choose(model, data, size)
