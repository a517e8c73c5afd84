"""The loss of a decoder without some more layers, for many choices at once.

A batch goes through the layers of the present plan once; each candidate then
starts from the stream before its first layer, and only the layers behind it
are run again. The loss is that of the model which `drop_layers` builds.
"""

import torch

from speechbrain_ext.layers.finite import refuse_overflow
from speechbrain_ext.layers.removal import gaps, kept_layers, removed_layers
from speechbrain_ext.layers.residual import (
    Cost,
    clock,
    model_inputs,
    recorded,
    states_loss,
)
from speechbrain_ext.layers.surgery import base_model, causal_lm, drop_layers


def identity(removed, gap):
    """What is done at a gap if nothing is: the stream goes on as it is.

    Every function of this kind takes what is removed and one gap of it, and
    gives a function of the stream. It must not depend on layers that are
    removed behind the gap: the stream before a candidate is shared.

    Arguments
    ---------
    removed : tuple of int
        All removed layers, old indices.
    gap : Block
        The gap.

    Returns
    -------
    callable or None
        ``[B, Q, D]`` to the same; None: nothing is done.
    """
    return None


def candidate_losses(
    model, data, candidates, removed=(), at_gap=identity, spent=Cost()
):
    """Loss after removing each candidate's layers besides others."""
    num_layers = len(base_model(model).layers)
    removed = removed_layers(removed, num_layers)
    seconds = clock()
    search = _Search(model, removed, candidates, at_gap)
    passes = search.passes * data.sequences
    data.budget.check(spent + Cost(layer_passes=passes))
    total, targets = 0.0, data.targets
    what = f"{len(removed)} layers gone, trying {len(candidates)}"
    for batch in data.watched(what):
        total = total + search.batch_losses(batch)
        data.budget.check(spent + Cost(seconds()))
    losses = (total / targets).tolist()
    refuse_overflow(losses, "losses without layers")
    return losses, Cost(seconds(), passes)


class _Search:
    """One pruned model and the candidates that lie before it."""

    def __init__(self, model, removed, candidates, at_gap):
        # Shares the weights; its mode is its own.
        self.pruned = drop_layers(causal_lm(model), removed).eval()
        num_layers = len(base_model(model).layers)
        kept = kept_layers(removed, num_layers)
        self.layers = base_model(self.pruned).layers
        self.place = {old: new for new, old in enumerate(kept)}
        self.change = self._changes(removed, num_layers, at_gap)
        self.ways = [
            self._way(removed, candidate, num_layers, at_gap)
            for candidate in candidates
        ]

    def _changes(self, removed, num_layers, at_gap):
        """What is done before which layer (by its place among the kept)."""
        found = {}
        for gap in gaps(removed, num_layers):
            done = at_gap(removed, gap)
            if done is not None:
                found[self.place[gap.receiving]] = done
        return found

    def _way(self, removed, candidate, num_layers, at_gap):
        """Where a candidate leaves the present stream, and what it runs."""
        if not candidate or not set(candidate) <= set(self.place):
            raise ValueError(
                f"Cannot remove layers {list(candidate)} besides "
                f"{list(removed)}: name one or more that are still there."
            )
        both = removed_layers([*removed, *candidate], num_layers)
        first = self.place[min(candidate)]
        gone = {self.place[old] for old in candidate}
        after = [i for i in range(first, len(self.layers)) if i not in gone]
        return first, after, self._changes(both, num_layers, at_gap)

    @property
    def passes(self):
        """Layers that are run over each sequence (int)."""
        after = sum(len(after) for _, after, _ in self.ways)
        return len(self.layers) + after

    @torch.no_grad()
    def batch_losses(self, batch):
        """Summed loss of one batch, float64, one for each candidate."""
        inputs = model_inputs(self.pruned, batch)
        with recorded(self.pruned, self.change) as streams:
            base_model(self.pruned)(**inputs, use_cache=False)
        return torch.stack(
            [
                states_loss(
                    self.pruned, self._end_of(way, streams), batch["labels"]
                )
                for way in self.ways
            ]
        ).cpu()

    def _end_of(self, way, streams):
        """The stream behind the last layer, one candidate's way."""
        first, after, change = way
        h_BQD = streams.before[first]
        for index in after:
            if index in change:
                h_BQD = change[index](h_BQD)
            h_BQD = streams.run(self.layers[index], index, h_BQD)
        return h_BQD
