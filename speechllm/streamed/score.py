"""What a walk through a streamed causal LM measures.

The same figures as of a model in memory: redundancy tables, cosines between
layers' streams, perplexity, and losses without layers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from speechbrain_ext.layers.distances import (
    DistanceSums,
    RedundancyTable,
    angular_distances,
    last_positions,
)
from speechbrain_ext.layers.lm_calls import final_norm
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.residual import refuse_overflow
from speechbrain_ext.layers.search import Cost, clock, nothing, text_labels
from speechbrain_ext.layers.streams import states_loss
from speechbrain_ext.model.prompt import IGNORE
from speechllm.streamed.walk import Row, StreamedLM, Way


def first_look(
    model: StreamedLM,
    measured: Iterable[dict],
    judged: Iterable[dict] = (),
    provenance: dict | None = None,
) -> tuple[RedundancyTable | None, float | None]:
    """The table of some batches and the perplexity of others, in one walk."""
    rows, held_out = model.enter(measured), model.enter(judged)
    depth = model.num_layers + 1
    kept = [LastStates(row, depth) for row in rows]

    def before(index):
        """Keep the last tokens' streams."""
        for states in kept:
            states.see(index)

    way = Way([*rows, *held_out], set(range(model.num_layers)))
    model.walk([way], before, what="Measuring")
    sums = DistanceSums(model.num_layers)
    for states in kept:
        sums.add(angular_distances(states.states_LBD))
    about = dict(provenance or {}, position="target")
    return (
        sums.table(about) if rows else None,
        perplexity_of(model, held_out) if held_out else None,
    )


class LastStates:
    """The streams of a batch's last tokens, at every depth."""

    def __init__(self, row: Row, depth: int):
        self.row = row
        self.last_B = last_positions(row.mask_BQ.cpu())
        shape = (depth, len(self.last_B), row.h_BQD.shape[-1])
        self.states_LBD = row.h_BQD.new_empty(shape)

    def see(self, index: int) -> None:
        """Keep those before a layer."""
        rows_B = torch.arange(len(self.last_B))
        self.states_LBD[index] = self.row.h_BQD[rows_B, self.last_B]


@torch.no_grad()
def loss_of(model: StreamedLM, rows: Iterable[Row]) -> tuple[float, int]:
    """Summed loss of rows behind the last layer, and how many targets."""
    loss, count = 0.0, 0
    for row in rows:
        labels_BQ = row.batch.get("labels")
        if labels_BQ is None:
            labels_BQ = text_labels(row.batch["input_ids"], row.mask_BQ.cpu())
        labels_BQ = labels_BQ.to(model.device)
        wanted_BQ = labels_BQ != IGNORE
        h_ND = final_norm(model.lm)(row.here()[wanted_BQ])
        labels_N = labels_BQ[wanted_BQ]
        loss += states_loss(model.lm, h_ND, labels_N).item()
        count += len(labels_N)
    refuse_overflow([loss], "loss on the text")
    return loss, count


def perplexity_of(model: StreamedLM, rows: Iterable[Row]) -> float:
    """Perplexity of rows behind the last layer."""
    loss, count = loss_of(model, rows)
    # As for a model in memory: see `text_lm.perplexity`.
    return math.exp(min(loss / count, 700.0))


def streamed_perplexity(
    model: StreamedLM,
    batches: Iterable[dict],
    removed: Iterable[int] | None = None,
) -> float:
    """Perplexity without some layers."""
    rows = model.enter(batches)
    kept = set(Removal.of(removed, model.num_layers).kept)
    model.walk([Way(rows, kept)], what="Perplexity")
    return perplexity_of(model, rows)


@dataclass
class Walks:
    """What rules ask of a model in memory, of one that is streamed.

    Its functions stand in place of those of the same name in
    `speechbrain_ext.layers`; `reach` is the longest run whose cosines are
    wanted.
    """

    model: StreamedLM
    reach: int = 1

    def measure(self, data):
        """Angular distances of all blocks."""
        return first_look(self.model, data.batches)[0]

    @torch.no_grad()
    def stream_cosines(self, data):
        """Mean cosines between the streams of layers within reach."""
        layers, seconds = self.model.num_layers, clock()
        total_LL = torch.full((layers, layers), math.nan, dtype=torch.float64)
        rows = self.model.enter(data.batches)
        # Streams of whole rows: as many as the longest run, and one.
        past: dict[int, list[torch.Tensor]] = {}

        def before(index):
            """Compare with the streams before the layers just run."""
            if index == layers:
                return
            past[index] = [row.fork().h_BQD for row in rows]
            past.pop(index - self.reach - 1, None)
            for earlier, streams in past.items():
                total_LL[earlier, index] = sum(
                    _cosines(h_BQD, row) for h_BQD, row in zip(streams, rows)
                )

        # What follows the last layer is compared with nothing.
        self.model.walk([Way(rows, set(range(layers - 1)))], before)
        for apart in range(min(self.reach + 1, layers)):
            told = total_LL.diagonal(apart)
            refuse_overflow(told, "cosines between layers' streams")
        count = sum(int(row.mask_BQ.sum()) for row in rows)
        return total_LL / count, Cost(seconds(), layers * data.sequences)

    def candidate_losses(self, data, candidates, removed, at_gap, spent):
        """Loss after removing each candidate's layers besides others."""
        assert at_gap is nothing
        seconds, layers = clock(), self.model.num_layers
        removed = Removal.of(removed, layers)
        base = Way(self.model.enter(data.batches), set(removed.kept))
        ways = [base]
        found: list[Way | None] = [None] * len(candidates)
        last = max(min(candidate) for candidate in candidates)

        def before(index):
            """Let the candidates that begin here leave the present way."""
            for place, candidate in enumerate(candidates):
                if min(candidate) == index:
                    rows = [row.fork() for row in base.rows]
                    found[place] = Way(rows, base.layers - set(candidate))
                    ways.append(found[place])
            if index == last:
                ways.remove(base)

        passes = len(removed.kept) + sum(
            sum(layer > min(c) and layer not in c for layer in removed.kept)
            for c in candidates
        )
        cost = Cost(layer_passes=passes * data.sequences)
        data.budget.check(spent + cost)
        what = f"{len(removed)} layers gone, trying {len(candidates)}"
        self.model.walk(ways, before, what=what)
        losses = [loss_of(self.model, way.rows)[0] for way in found]
        losses = [loss / data.targets for loss in losses]
        refuse_overflow(losses, "losses without layers")
        return losses, cost + Cost(seconds())


def _cosines(h_BQD, row):
    """Summed cosines between an earlier and the present stream of a batch."""
    a_ND, b_ND = (
        torch.nn.functional.normalize(
            h[row.mask_BQ.to(h.device)].double(), dim=-1
        )
        for h in (h_BQD, row.h_BQD)
    )
    return (a_ND * b_ND).sum().item()
