"""What a rule looks at: a few batches, and what it is told of them.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass, field, replace

import torch
from tqdm import tqdm

from speechbrain_ext.plans import Plan
from speechbrain_ext.prompt import IGNORE
from speechbrain_ext.pruning import base_model
from speechbrain_ext.rules.cost import Budget, Cost

# Fewer say more of themselves than of the model.
LEAST_SEQUENCES = 4
# A search is linear in them, and what it chooses settles early.
UTTERANCES = 200


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

    Example
    -------
    >>> ids = torch.tensor([[5, 6, 7]])
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> data.sequences, data.targets
    (1, 2)
    """

    batches: list
    about: dict = field(default_factory=dict)
    table: object = None
    budget: Budget = Budget()
    seed: int = 0
    memory: dict | None = None
    progress: bool = False

    def watched(self, what):
        """The batches, with a bar if one is wanted (iterable of dict)."""
        return tqdm(self.batches, what, disable=not self.progress, leave=False)

    @property
    def sequences(self):
        """Number of sequences (int)."""
        return sum(len(input_of(batch)) for batch in self.batches)

    @property
    def targets(self):
        """Number of target positions (int)."""
        return sum(
            int((batch["labels"] != IGNORE).sum())
            for batch in self.batches
            if batch.get("labels") is not None
        )

    def remembering(self):
        """The same data, with an empty memory for one model (RuleData)."""
        return replace(self, memory={})

    def remember(self, key, make):
        """What was made for a key before, or what is made now.

        Arguments
        ---------
        key : hashable
            Says what it is.
        make : callable
            Makes it.

        Returns
        -------
        object
        """
        if self.memory is None:
            return make()
        if key not in self.memory:
            self.memory[key] = make()
        return self.memory[key]

    def check(self, targets=False):
        """Refuse data that are too few to choose by.

        Arguments
        ---------
        targets : bool
            Whether something has to be predicted.

        Raises
        ------
        ValueError
            Saying how many there are and how many are needed.
        """
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

    def plan(self, model, layers, value=None, cost=Cost(), **about):
        """The plan that removes some layers, as these data tell it.

        Arguments
        ---------
        model : torch.nn.Module
            The decoder.
        layers : iterable of int
            What to remove.
        value : float or None
            The rule's score of them.
        cost : Cost
            What the choice took.
        **about : dict
            More to be stored, plain values.

        Returns
        -------
        Plan
        """
        told = dict(self.about)
        name = told.pop("model", "")
        if self.batches:
            told.setdefault("utterances", self.sequences)
        spent = {"seconds": cost.seconds, "layer_passes": cost.layer_passes}
        return Plan(
            layers,
            rule="",
            num_layers=len(base_model(model).layers),
            model=name,
            data=told,
            value=value,
            about={**about, **spent},
        )


def input_of(batch):
    """A batch's embeddings ``[B, Q, D]`` or ids ``[B, Q]`` (torch.Tensor).

    Arguments
    ---------
    batch : dict
        As in `RuleData`.

    Returns
    -------
    torch.Tensor

    Example
    -------
    >>> input_of({"input_ids": torch.tensor([[1, 2]])}).shape
    torch.Size([1, 2])
    """
    embeds = batch.get("inputs_embeds")
    return batch["input_ids"] if embeds is None else embeds


def text_labels(ids_BQ, mask_BQ=None):
    """Labels of rows of text: at each position the token that follows.

    Arguments
    ---------
    ids_BQ : torch.Tensor
        Token ids.
    mask_BQ : torch.Tensor or None
        1 at real positions; None: all are.

    Returns
    -------
    torch.Tensor
        Shape ``[B, Q]``; -100 where nothing follows.

    Example
    -------
    >>> text_labels(torch.tensor([[5, 6, 7]])).tolist()
    [[6, 7, -100]]
    """
    labels_BQ = torch.full_like(ids_BQ, IGNORE)
    labels_BQ[:, :-1] = ids_BQ[:, 1:]
    if mask_BQ is not None:
        both = mask_BQ[:, :-1].bool() & mask_BQ[:, 1:].bool()
        labels_BQ[:, :-1] = labels_BQ[:, :-1].where(both, IGNORE)
    return labels_BQ
