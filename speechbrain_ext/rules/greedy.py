"""Rules by the loss that is left once layers are gone.

Both searches take what is done at a gap (`speechbrain_ext.rules.search`): a
rule that scores layers by the loss after something was put in their place is
one of these functions with another `at_gap`.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.pruning import base_model
from speechbrain_ext.rules.cost import Cost
from speechbrain_ext.rules.interface import rule
from speechbrain_ext.rules.search import candidate_losses, identity

VALUE = "nats per target token"


@rule("greedy-runs", needs_targets=True)
def greedy_runs(model, data, size):
    """The run of layers whose removal leaves the least loss.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With labels.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan
        Its value is that loss.

    Example
    -------
    >>> import torch
    >>> from speechbrain_ext.rules.data import RuleData, text_labels
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> ids = torch.randint(5, 99, (4, 9))
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> greedy_runs(decoder, data, 2).start in (0, 1)
    True
    """
    return best_run(model, data, size)


@rule("greedy-layers", needs_targets=True)
def greedy_layers(model, data, size):
    """One layer after the other, each the one whose loss is least then.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With labels.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan
        Its value is the loss at last; `about` has the order, and the loss
        after each step.

    Example
    -------
    >>> import torch
    >>> from speechbrain_ext.rules.data import RuleData, text_labels
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> ids = torch.randint(5, 99, (4, 9))
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> plan = greedy_layers(decoder, data, 2)
    >>> sorted(plan.about["order"]) == list(plan.layers)
    True
    """
    return one_by_one(model, data, size)


def best_run(model, data, size, at_gap=identity):
    """Try every run of a size; see `greedy_runs`.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With labels.
    size : int
        Layers to remove.
    at_gap : callable
        What is done at a gap; see `speechbrain_ext.rules.search.identity`.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> import torch
    >>> from speechbrain_ext.rules.data import RuleData, text_labels
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> ids = torch.randint(5, 99, (4, 9))
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> best_run(decoder, data.remembering(), 2).size
    2
    """
    last = len(base_model(model).layers) - 1
    runs = [tuple(range(s, s + size)) for s in range(last - size + 1)]
    losses, cost = candidate_losses(model, data, runs, at_gap=at_gap)
    best = losses.index(min(losses))
    return data.plan(model, runs[best], losses[best], cost, value_is=VALUE)


def one_by_one(model, data, size, at_gap=identity):
    """Take away a layer at a time; see `greedy_layers`.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With labels.
    size : int
        Layers to remove.
    at_gap : callable
        What is done at a gap; see `speechbrain_ext.rules.search.identity`.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> import torch
    >>> from speechbrain_ext.rules.data import RuleData, text_labels
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> ids = torch.randint(5, 99, (4, 9))
    >>> data = RuleData([{"input_ids": ids, "labels": text_labels(ids)}])
    >>> one_by_one(decoder, data.remembering(), 2).size
    2
    """
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
    """Layer passes that `one_by_one` takes for one sequence.

    With K layers left, a step runs these K, and behind each of the K - 1
    that may go what follows it.

    Arguments
    ---------
    num_layers : int
        Layers of the decoder.
    size : int
        Layers to remove.

    Returns
    -------
    int

    Example
    -------
    >>> search_passes(num_layers=4, size=2)
    16
    """
    left = range(num_layers - size + 1, num_layers + 1)
    return sum(k + k * (k - 1) // 2 for k in left)
