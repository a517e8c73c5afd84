"""Closed-form maps of a streamed causal LM, fitted on text and folded.

The same maps as `speechbrain_ext.healing.closed_form.fit_in_sequence` fits in
memory: a gap after the other, each folded into the MLP of the layer before it,
its ridge chosen by the loss on rows that it was not fitted on. Whole and
pruned model go through the files side by side.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from speechbrain_ext.healing.closed_form import (
    FittedMap,
    folded_weights,
    least_loss,
    put_down_proj,
)
from speechbrain_ext.layers.linear_map import LinearMap, MapSums
from speechbrain_ext.layers.lm_calls import causal_lm
from speechbrain_ext.layers.removal import Block, Removal
from speechbrain_ext.layers.residual import leaving
from speechllm.streamed.score import loss_of
from speechllm.streamed.walk import Row, StreamedLM, Way

DOWN = "mlp.down_proj"


@torch.no_grad()
def fold_streamed_maps(
    model: StreamedLM,
    removed: Removal,
    fitting: Iterable[dict],
    judging: Iterable[dict],
    strengths: Iterable[float],
) -> dict[int, FittedMap]:
    """Fit a map at each gap, and exchange the weights it is folded into.

    Gives the maps by the receiving layer, numbered as in the pruned model; the
    strengths of ridges are shares of the states' mean variance.
    """
    if 0 in removed.receiving:
        raise ValueError(
            "healing: the first layers are removed, so that there is no layer "
            "before the gap to fold a map into: keep layer 0"
        )
    rows = model.enter(fitting), model.enter(judging)
    fit = _Fit(model, removed, list(strengths), *rows)
    return {
        receiver: fit.heal(gap)
        for receiver, gap in zip(removed.receiving, removed.gaps)
    }


@dataclass
class _Fit:
    """Rows on their way, and what is fitted on them."""

    model: StreamedLM
    removed: Removal
    strengths: list[float]
    whole: list[Row]
    judged: list[Row]
    pruned: list[Row] = field(default_factory=list)
    # The layer that all rows stand before.
    place: int = 0

    def heal(self, gap: Block) -> FittedMap:
        """Fit the map of a gap, fold it, and go on to behind it."""
        before, model = gap.start - 1, self.model
        ways = [self.whole, self.pruned, self.judged]
        between = set(range(self.place, before))
        model.walk([Way(rows, between) for rows in ways], what="To the gap")
        if not self.pruned:
            self.pruned = [row.fork() for row in self.whole]
        sums = self._sums(gap)
        identity = LinearMap.identity(sums.width, model.device)
        maps: dict[float | None, LinearMap] = {None: identity}
        maps |= {one: sums.solve(one) for one in self.strengths}
        losses, weights = self._losses(gap, maps)
        best = least_loss(losses)
        model.exchanged[before] = {
            f"{DOWN}.{name}": value.cpu()
            for name, value in zip(("weight", "bias"), weights[best])
            if value is not None
        }
        with model.layer(before) as layer:
            for row in (*self.pruned, *self.judged):
                row.step(before, layer)
        self.place = gap.receiving
        return FittedMap(maps[best], best, int(sums.count), losses)

    def _sums(self, gap) -> MapSums:
        """Sums over the rows for the map of a gap."""
        model, before = self.model, gap.start - 1
        sums = MapSums(causal_lm(model).config.hidden_size, False, model.device)
        left: list[Row] = []
        said: list[torch.Tensor] = []
        with model.layer(before) as layer:
            handle = leaving(_mlp(model, layer, before), said.append)
            for row in self.pruned:
                # Not the row itself: it goes on over the folded weights.
                ahead = row.fork()
                ahead.step(before, layer)
                said[-1] = model.room.keep(said[-1])
                left.append(ahead)
            handle.remove()
            for row in self.whole:
                row.step(before, layer)
        removed = Way(self.whole, set(gap.removed))
        model.walk([removed], start=gap.start, what="Over the gap")
        for row, ahead, m_BQD in zip(self.whole, left, said):
            real = row.mask_BQ.cpu()
            after_ND, before_ND = row.h_BQD[real], ahead.h_BQD[real]
            y_ND = after_ND.double() - before_ND.double()
            sums.add(m_BQD[real], y_ND)
        count = sum(len(row.h_BQD) for row in self.whole)
        sums.check(f"from {count} rows of text")
        return sums

    def _losses(self, gap, maps):
        """Loss on the judged rows with each map, and its folded weights."""
        model, before = self.model, gap.start - 1
        behind = {i for i in self.removed.kept if i >= gap.receiving}
        ways, weights, losses = {}, {}, {}
        with model.layer(before) as layer:
            down_proj = layer.mlp.down_proj
            plain = torch.nn.Linear(1, 1)
            plain.weight, plain.bias = down_proj.weight, down_proj.bias
            for strength, one in maps.items():
                weights[strength] = folded_weights(plain, one.weight_DD.float())
                put_down_proj(layer, *weights[strength])
                rows = [row.fork() for row in self.judged]
                for row in rows:
                    row.step(before, layer)
                ways[strength] = Way(rows, behind)
        model.walk(
            list(ways.values()), start=gap.receiving, what="Trying ridges"
        )
        for strength, way in ways.items():
            total, count = loss_of(model, way.rows)
            losses[strength] = total / count
        return losses, weights


def _mlp(model, layer, index):
    """A layer's MLP, which must end in one matrix."""
    mlp = getattr(layer, "mlp", None)
    if not isinstance(getattr(mlp, "down_proj", None), torch.nn.Linear):
        raise TypeError(
            f"{model.source}: the MLP of layer {index} does not end in one "
            f"matrix called {DOWN}, so no map can be folded into it: prune "
            "without --heal, or remove layers behind another one"
        )
    return mlp
