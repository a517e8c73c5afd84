"""The residual stream of a decoder, and what is predicted from it.

Nothing here knows of rotary embeddings or masks: a real pass of the model
hands each layer what it needs, and that is kept for running it again.
"""

import contextlib
import time
from dataclasses import dataclass, field, replace

import torch
from tqdm import tqdm

from speechbrain_ext.layers.lm_calls import final_norm, logits_of
from speechbrain_ext.layers.plans import Plan
from speechbrain_ext.layers.surgery import base_model, causal_lm
from speechbrain_ext.model.prompt import IGNORE, positions_from_mask

# ----------------------------------------------------------------------------
# States of the residual stream, read while a decoder runs.

POSITIONS_OF_STATES = ("all", "target")


class _Reached(Exception):
    """The wanted layer is reached: the layers behind it need not run."""


@torch.no_grad()
def states_at(decoder, index, sequence, mlp=False):
    """The stream that enters a layer, and the last MLP's share of it."""
    model, found = base_model(decoder), {}

    def enter(layer, args, kwargs):
        found["h"] = args[0] if args else kwargs["hidden_states"]
        raise _Reached

    def leave(module, args, output):
        found["m"] = output

    layers = model.layers
    handles = [layers[index].register_forward_pre_hook(enter, with_kwargs=True)]
    if mlp:
        handles.append(layers[index - 1].mlp.register_forward_hook(leave))
    try:
        model(**sequence.causal_inputs(), use_cache=False)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found["h"], found.get("m")


def position_weights(sequence, positions="all"):
    """How much each position counts in a fit."""
    if positions not in POSITIONS_OF_STATES:
        raise ValueError(
            f"positions: {positions!r} is none of {', '.join(POSITIONS_OF_STATES)}."
        )
    if positions == "target":
        return (sequence.labels_BQ != IGNORE).float()
    return sequence.mask_BQ.float()


@torch.no_grad()
def cross_entropy(decoder, sequences):
    """Mean negative log-likelihood per target token, in nats."""
    sums = torch.zeros(2, dtype=torch.float64, device=decoder.device)
    for sequence in sequences:
        logits_NV, labels_N = decoder.target_logits(
            on_device(sequence, decoder.device)
        )
        sums[0] += torch.nn.functional.cross_entropy(
            logits_NV.float(), labels_N, reduction="sum"
        )
        sums[1] += len(labels_N)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    if not sums[1]:
        raise ValueError("healing: no held-out target to judge a map by.")
    return (sums[0] / sums[1]).item()


def on_device(sequence, device):
    """A sequence with its tensors on a device.

    Arguments
    ---------
    sequence : speechbrain_ext.model.prompt.Sequence
        Assembled rows.
    device : str or torch.device
        Where to.

    Returns
    -------
    speechbrain_ext.model.prompt.Sequence
    """
    parts = {
        name: value.to(device) if torch.is_tensor(value) else value
        for name, value in vars(sequence).items()
    }
    return type(sequence)(**parts)


# ----------------------------------------------------------------------------
# What a search of layers costs, and what it may.


@dataclass(frozen=True)
class Cost:
    """What a search has spent.

    Arguments
    ---------
    seconds : float
        Wall-clock.
    layer_passes : int
        One layer run over one sequence is one.
    """

    seconds: float = 0.0
    layer_passes: int = 0

    def __add__(self, other):
        return Cost(
            self.seconds + other.seconds,
            self.layer_passes + other.layer_passes,
        )


@dataclass(frozen=True)
class Budget:
    """What a search may spend on one plan; None: as much as it takes."""

    seconds: float | None = None
    layer_passes: int | None = None

    def check(self, cost):
        """Refuse a cost over the budget.

        Arguments
        ---------
        cost : Cost
            What was spent, or is about to be.

        Raises
        ------
        ValueError
            If it is more than there is.
        """
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


def clock():
    """A function that tells the seconds since now.

    Returns
    -------
    callable
    """
    began = time.monotonic()
    return lambda: time.monotonic() - began


# ----------------------------------------------------------------------------
# What a rule looks at: a few batches, and what it is told of them.

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
        """What was made for a key before, or what is made now."""
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
    """A batch's embeddings ``[B, Q, D]`` or ids ``[B, Q]`` (torch.Tensor)."""
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
    """
    labels_BQ = torch.full_like(ids_BQ, IGNORE)
    labels_BQ[:, :-1] = ids_BQ[:, 1:]
    if mask_BQ is not None:
        both = mask_BQ[:, :-1].bool() & mask_BQ[:, 1:].bool()
        labels_BQ[:, :-1] = labels_BQ[:, :-1].where(both, IGNORE)
    return labels_BQ


INPUTS = ("inputs_embeds", "input_ids", "attention_mask", "position_ids")
# Positions whose logits are held at once.
POSITIONS = 256


@dataclass
class Streams:
    """What each layer of a decoder was called with, for one batch."""

    before: list = field(default_factory=list)
    options: list = field(default_factory=list)

    def run(self, layer, index, h_BQD):
        """A layer's output for another stream than its own."""
        output = layer(h_BQD, **self.options[index])
        return output[0] if isinstance(output, tuple) else output


def model_inputs(model, batch):
    """A batch on the model's device, with mask and positions.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    batch : dict
        As in `speechbrain_ext.layers.residual.RuleData`.

    Returns
    -------
    dict
    """
    device = next(base_model(model).parameters()).device
    inputs = {
        name: batch[name].to(device)
        for name in INPUTS
        if batch.get(name) is not None
    }
    if "attention_mask" not in inputs:
        shape = input_of(batch).shape[:2]
        inputs["attention_mask"] = torch.ones(
            shape, dtype=torch.long, device=device
        )
    if "position_ids" not in inputs:
        inputs["position_ids"] = positions_from_mask(inputs["attention_mask"])
    return inputs


@contextlib.contextmanager
def recorded(model, change=None):
    """Keep what each layer is called with in the next pass.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    change : dict
        Layer index to a function of the stream that enters the layer: what
        is done to it there. Streams are kept as they were before it.

    Yields
    ------
    Streams
        Filled by the pass.
    """
    streams, change = Streams(), change or {}
    handles = [
        layer.register_forward_pre_hook(
            _keeper(streams, change.get(index)), with_kwargs=True
        )
        for index, layer in enumerate(base_model(model).layers)
    ]
    try:
        yield streams
    finally:
        for handle in handles:
            handle.remove()


def _keeper(streams, change):
    """A hook that keeps a layer's call, and changes the stream then."""

    def before(module, args, options):
        options = dict(options)
        named = "hidden_states" in options
        h_BQD = options.pop("hidden_states") if named else args[0]
        streams.before.append(h_BQD)
        streams.options.append(options)
        if change is not None:
            h_BQD = change(h_BQD)
        return (h_BQD, *args[1:]), options

    return before


def target_loss(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, reduction: str = "sum"
) -> torch.Tensor:
    """Negative log-likelihood of target tokens, in nats, in float32.

    Arguments
    ---------
    logits_NV : torch.Tensor
        Logits at the target positions.
    labels_N : torch.Tensor
        The ids to predict.
    reduction : str
        "sum", "mean" or "none".

    Returns
    -------
    torch.Tensor
        A number, or shape ``[N]`` without a reduction.
    """
    return torch.nn.functional.cross_entropy(
        logits_NV.float(), labels_N, reduction=reduction
    )


def states_loss(model, h_BQD, labels_BQ):
    """Summed negative log-likelihood of the targets of a raw stream.

    The final norm and the LM head are applied at target positions only.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    h_BQD : torch.Tensor
        The stream behind the last layer, before the final norm.
    labels_BQ : torch.Tensor
        What each position has to predict; -100: nothing.

    Returns
    -------
    torch.Tensor
        A float64 number, in nats.
    """
    lm = causal_lm(model)
    labels_BQ = labels_BQ.to(h_BQD.device)
    wanted_BQ = labels_BQ != IGNORE
    h_ND = final_norm(lm)(h_BQD[wanted_BQ])
    total = torch.zeros((), dtype=torch.float64, device=h_BQD.device)
    parts = h_ND.split(POSITIONS), labels_BQ[wanted_BQ].split(POSITIONS)
    for h, labels in zip(*parts):
        total += torch.nn.functional.cross_entropy(
            logits_of(lm, h).float(), labels, reduction="sum"
        ).double()
    return total
