"""What a rule looks at, and the loss without layers, for many choices at once.

A batch goes through the layers of the present plan once; each candidate then
starts from the stream before its first layer, and only the layers behind it
are run again. The loss is that of the model which `drop_layers` builds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from tqdm import tqdm

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.lm_calls import (
    causal_lm,
    decoder_layers,
    final_norm,
    input_of,
)
from speechbrain_ext.layers.plans import Plan
from speechbrain_ext.layers.removal import Block, Removal
from speechbrain_ext.layers.residual import refuse_overflow
from speechbrain_ext.layers.streams import recorded, states_loss
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.prompt import IGNORE

# Fewer say more of themselves than of the model.
LEAST_SEQUENCES = 4
# A search is linear in them, and what it chooses settles early.
UTTERANCES = 200


@dataclass(frozen=True)
class Cost:
    """What a search has spent: one layer run over one sequence is a pass."""

    seconds: float = 0.0
    layer_passes: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.seconds + other.seconds,
            self.layer_passes + other.layer_passes,
        )


@dataclass(frozen=True)
class Budget:
    """What a search may spend on one plan; None: as much as it takes."""

    seconds: float | None = None
    layer_passes: int | None = None

    def check(self, cost: Cost) -> None:
        """Refuse a cost, spent or about to be, that is over the budget."""
        for name in ("layer_passes", "seconds"):
            most, taken = getattr(self, name), getattr(cost, name)
            if most is not None and taken > most:
                what = name.replace("_", " ")
                told = taken if name == "layer_passes" else f"{taken:.1f}"
                raise ValueError(
                    f"The search takes {told} {what}, over its budget of "
                    f"{most}. Give fewer utterances, a smaller size, or a "
                    "larger budget."
                )


def clock() -> Callable[[], float]:
    """A function that tells the seconds since now."""
    began = time.monotonic()
    return lambda: time.monotonic() - began


@dataclass
class RuleData:
    """What a rule chooses layers on.

    Arguments
    ---------
    batches : list of dict
        `inputs_embeds` or `input_ids`, `attention_mask` (padding on either
        side; taken as all ones if absent), `labels` of shape ``[B, Q]`` (the
        id each position has to predict, -100 where none), and, where they
        are known, `position_ids` and `prompt_lengths`.
    about : dict
        What they are: model, task, data (names of sets), input; stored in
        the plan.
    table : RedundancyTable or None
        Angular distances that were measured already; None: the angular rule
        measures them on the batches.
    budget : Budget
        What a search may spend.
    seed : int
        For rules that draw.
    memory : dict or None
        Results that plans of several sizes of the same model share; None:
        nothing is kept.
    progress : bool
        Show a bar (on stderr) over each pass.
    elsewhere : object or None
        Does `measure`, `stream_cosines` and `candidate_losses` in place of
        the functions of these names, for a model that is not in memory.
    """

    batches: list
    about: dict = field(default_factory=dict)
    table: RedundancyTable | None = None
    budget: Budget = Budget()
    seed: int = 0
    memory: dict | None = None
    progress: bool = False
    elsewhere: Any = None

    def watched(self, what: str) -> Iterable[dict]:
        """The batches, with a bar if one is wanted."""
        return tqdm(self.batches, what, disable=not self.progress, leave=False)

    @property
    def sequences(self) -> int:
        """Number of sequences."""
        return sum(len(input_of(batch)) for batch in self.batches)

    @property
    def targets(self) -> int:
        """Number of target positions."""
        return sum(
            int((batch["labels"] != IGNORE).sum())
            for batch in self.batches
            if batch.get("labels") is not None
        )

    def remembering(self) -> RuleData:
        """The same data, with an empty memory for one model."""
        return replace(self, memory={})

    def remember(self, key, make: Callable):
        """What was made for a key before, or what is made now."""
        if self.memory is None:
            return make()
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def check(self, targets: bool = False) -> None:
        """Refuse data that are too few to choose by, or without targets."""
        there = self.sequences if self.table is None else self.table.count
        if there < LEAST_SEQUENCES:
            raise ValueError(
                f"Too few data to choose layers on: {there} "
                f"sequences, at least {LEAST_SEQUENCES} are needed and some "
                "200 are better."
            )
        if targets and not self.targets:
            raise ValueError(
                "There is nothing to predict in the data: give batches with "
                "labels, or take a rule that needs none (angular, "
                "block-influence)."
            )

    def plan(
        self,
        model: torch.nn.Module,
        layers: Iterable[int],
        value: float | None = None,
        cost: Cost = Cost(),
        **about,
    ) -> Plan:
        """The plan that removes some layers, with what these data say of it.

        A rule gives its score, what the choice took, and plain values to be
        stored beside them.
        """
        data = dict(self.about)
        name = data.pop("model", "")
        if self.batches:
            data.setdefault("utterances", self.sequences)
        spent = {"seconds": cost.seconds, "layer_passes": cost.layer_passes}
        return Plan(
            tuple(layers),
            num_layers=len(decoder_layers(model)),
            model=name,
            data=data,
            value=value,
            about={**about, **spent},
        )


def text_labels(
    ids_BQ: torch.Tensor, mask_BQ: torch.Tensor | None = None
) -> torch.Tensor:
    """Labels of rows of text: the token that follows, -100 where none does."""
    labels_BQ = torch.full_like(ids_BQ, IGNORE)
    labels_BQ[:, :-1] = ids_BQ[:, 1:]
    if mask_BQ is not None:
        both = mask_BQ[:, :-1].bool() & mask_BQ[:, 1:].bool()
        labels_BQ[:, :-1] = labels_BQ[:, :-1].where(both, IGNORE)
    return labels_BQ


def nothing(removed: Removal, gap: Block) -> Callable | None:
    """What is done at a gap if nothing is: the stream goes on as it is.

    Every function of this kind takes what is removed and one gap of it, and
    gives a function of the stream, ``[B, Q, D]`` to the same, or None. It
    must not depend on layers that are removed behind the gap: the stream
    before a candidate is shared.
    """
    return None


def candidate_losses(
    model: torch.nn.Module,
    data: RuleData,
    candidates: list[Iterable[int]],
    removed: Iterable[int] | None = None,
    at_gap: Callable = nothing,
    spent: Cost = Cost(),
) -> tuple[list[float], Cost]:
    """Loss after removing each candidate's layers besides others.

    In nats per target token, with what they took; `spent` is what of the
    budget is gone already.
    """
    if data.elsewhere:
        return data.elsewhere.candidate_losses(
            data, candidates, removed, at_gap, spent
        )
    removed = Removal.of(removed, len(decoder_layers(model)))
    seconds = clock()
    search = _Search(model, removed, candidates, at_gap)
    passes = search.passes * data.sequences
    data.budget.check(spent + Cost(layer_passes=passes))
    total = torch.zeros(len(candidates), dtype=torch.float64)
    what = f"{len(removed)} layers gone, trying {len(candidates)}"
    for batch in data.watched(what):
        losses = search.batch_losses(batch)
        among = ", ".join(batch.get("id") or ["some sequence"])
        refuse_overflow(losses, f"losses without layers, of one of {among}")
        total += losses
        data.budget.check(spent + Cost(seconds()))
    return (total / data.targets).tolist(), Cost(seconds(), passes)


class _Search:
    """One pruned model and the candidates that lie before it."""

    def __init__(self, model, removed, candidates, at_gap):
        # Shares the weights; its mode is its own.
        self.pruned = drop_layers(causal_lm(model), removed).eval()
        self.place = {old: new for new, old in enumerate(removed.kept)}
        self.change = self._changes(removed, at_gap)
        self.ways = [
            self._way(removed, candidate, at_gap) for candidate in candidates
        ]

    def _changes(self, removed, at_gap):
        """What is done before which layer (by its place among the kept)."""
        done = {
            self.place[gap.receiving]: at_gap(removed, gap)
            for gap in removed.gaps
        }
        return {place: what for place, what in done.items() if what}

    def _way(self, removed, candidate, at_gap):
        """Where a candidate leaves the present stream, and what it runs."""
        if not candidate or not set(candidate) <= set(self.place):
            raise ValueError(
                f"Cannot remove layers {list(candidate)} besides "
                f"{list(removed)}: name one or more that are still there."
            )
        both = Removal([*removed, *candidate], removed.num_layers)
        first = self.place[min(candidate)]
        gone = {self.place[old] for old in candidate}
        after = [i for i in range(first, len(self.place)) if i not in gone]
        return first, after, self._changes(both, at_gap)

    @property
    def passes(self):
        """Layers that are run over each sequence (int)."""
        return len(self.place) + sum(len(after) for _, after, _ in self.ways)

    @torch.no_grad()
    def batch_losses(self, batch):
        """Summed loss of one batch, float64, one for each candidate."""
        streams = recorded(self.pruned, batch, self.change)
        ends = (
            streams.run(streams.before[first], after, change)
            for first, after, change in self.ways
        )
        return torch.stack(
            [self._loss(h_BQD, batch["labels"]) for h_BQD in ends]
        ).cpu()

    def _loss(self, h_BQD, labels_BQ):
        """Summed loss of the stream behind the last layer."""
        labels_BQ = labels_BQ.to(h_BQD.device)
        wanted_BQ = labels_BQ != IGNORE
        h_ND = final_norm(self.pruned)(h_BQD[wanted_BQ])
        return states_loss(self.pruned, h_ND, labels_BQ[wanted_BQ])
