"""Rules by how little layers change the residual stream.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch

from speechbrain_ext.finite import refuse_overflow
from speechbrain_ext.pruning import base_model
from speechbrain_ext.redundancy import measure
from speechbrain_ext.rules.cost import Cost, clock
from speechbrain_ext.rules.interface import rule
from speechbrain_ext.rules.streams import model_inputs, recorded


@rule("angular")
def angular(model, data, size):
    """The paper's rule (Section 3.1): the block of least angular distance.

    The stream before a block and behind it, at each sequence's last token.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        With a table, or batches to measure one on.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> data = RuleData([{"input_ids": torch.randint(5, 99, (4, 9))}])
    >>> angular(decoder, data, 2).size
    2
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
    """Mean cosine between the streams before all pairs of layers.

    Over all positions that are not padding, in float64.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        What goes through it.

    Returns
    -------
    cosine_LL : torch.Tensor
        Row and column are layers; the stream behind the last is not in it.
    cost : speechbrain_ext.rules.cost.Cost
        What this took.

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> data = RuleData([{"input_ids": torch.randint(5, 99, (4, 9))}])
    >>> cosine_LL, _ = stream_cosines(decoder, data)
    >>> cosine_LL.shape, bool((cosine_LL.diagonal() > 0.999).all())
    (torch.Size([4, 4]), True)
    """
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
    """ShortGPT's rule (arXiv 2403.03853): layers that change least, singly.

    A layer's influence is 1 less the mean cosine between what enters and
    what leaves it, over all positions that are not padding.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        What goes through it.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan
        Its value is the mean influence of the removed layers.

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> data = RuleData([{"input_ids": torch.randint(5, 99, (4, 9))}])
    >>> block_influence(decoder, data, 2).size
    2
    """
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
    """The run of layers whose input and output are most alike.

    As `block_influence`, of a run as a whole: the paper's rule with all
    positions in place of the last, and cosines in place of their angles.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        What goes through it.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm().decoder
    >>> data = RuleData([{"input_ids": torch.randint(5, 99, (4, 9))}])
    >>> block_influence_run(decoder, data, 2).start in (0, 1)
    True
    """
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
