"""Rules by the loss that is left behind a closed-form map.

What a removed run did to the stream is put back as a linear map first, as
healing would: a run that is nearly linear may go though the loss without it
is great. Maps are fitted on one half of the sequences and judged on the other.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import replace

import torch

from speechbrain_ext.blocks import gaps
from speechbrain_ext.closed_form_map.sums import LEAST, fit_map
from speechbrain_ext.pruning import base_model, causal_lm, drop_layers
from speechbrain_ext.rules.data import input_of
from speechbrain_ext.rules.greedy import best_run, one_by_one
from speechbrain_ext.rules.interface import rule
from speechbrain_ext.rules.streams import model_inputs, recorded

# One ridge for all candidates: to choose it for each would take as many
# searches as there are ridges.
RIDGE = 0.01


def _wanted(model):
    """Positions that two halves need, one of which maps are fitted on."""
    return 2 * LEAST * causal_lm(model).config.hidden_size


@rule("map-run", needs_targets=True, positions=_wanted)
def map_run(model, data, size):
    """The run of layers that leaves the least loss behind a map.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With labels; every other sequence is for fitting maps.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan
        Its value is that loss; its layer passes are those of the search,
        without those of fitting.

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData, text_labels
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> ids = torch.randint(5, 99, (16, 9))
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> map_run(decoder, data, 2).start in (0, 1)
    True
    """
    return _search(best_run, model, data, size)


@rule("map-greedy", needs_targets=True, positions=_wanted)
def map_greedy(model, data, size):
    """One layer after the other, each the one whose loss is least then.

    Every gap has its map, fitted in sequence: on the stream that the maps
    before it leave.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With labels; every other sequence is for fitting maps.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan
        As of `map_run`, and `about` has the order and the losses.

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData, text_labels
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> ids = torch.randint(5, 99, (16, 9))
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> map_greedy(decoder, data, 2).size
    2
    """
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
    """The sequences that maps are fitted on, and those they are judged on.

    Arguments
    ---------
    data : speechbrain_ext.rules.data.RuleData
        Every other sequence goes to each half.

    Returns
    -------
    fitting, judging : RuleData

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> data = RuleData([{"input_ids": torch.tensor([[1], [2], [3]])}])
    >>> [half.batches[0]["input_ids"].tolist() for half in halves(data)]
    [[[1], [3]], [[2]]]
    """
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
    """What is done at a gap: its closed-form map, fitted when asked for.

    Holds the whole decoder's stream before each layer, of all data it fits
    on: layers x positions x width numbers.

    Arguments
    ---------
    model : torch.nn.Module
        The whole decoder.
    data : speechbrain_ext.rules.data.RuleData
        To fit on.
    ridge : float
        As a share of the states' mean variance.

    Example
    -------
    >>> from speechbrain_ext.blocks import Block
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> data = RuleData([{"input_ids": torch.randint(5, 99, (8, 9))}])
    >>> maps = GapMaps(decoder, data)
    >>> h_BQD = torch.rand(1, 2, 32)
    >>> maps((1,), Block(1, 1))(h_BQD).shape == h_BQD.shape
    True
    """

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
