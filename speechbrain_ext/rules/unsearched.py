"""Rules that look at no data: what every other rule has to be better than.

Authors
 * The speechbrain_ext authors, 2026
"""

import random

from speechbrain_ext.pruning import base_model
from speechbrain_ext.rules.interface import rule


@rule("deepest", looks_at_data=False)
def deepest(model, data, size):
    """The layers before the last one, which stays to receive.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        Tells the model's name only.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> deepest(tiny_speech_llm(layers=6).decoder, RuleData([]), 3).layers
    (2, 3, 4)
    """
    last = len(base_model(model).layers) - 1
    return data.plan(model, range(last - size, last))


@rule("even", looks_at_data=False)
def even(model, data, size):
    """Layers spread evenly over all but the last.

    The L - 1 layers that may go are cut into as many equal parts as layers
    are to go; of each part the middle one goes.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        Tells the model's name only.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> even(tiny_speech_llm(layers=12).decoder, RuleData([]), 6).layers
    (1, 3, 5, 6, 8, 10)
    """
    last = len(base_model(model).layers) - 1
    # The middle of part i is at (i + 1/2) * last / size, in whole numbers;
    # halves go down, so that no two meet and the last layer is never named.
    return data.plan(
        model,
        [
            -((size - (2 * part + 1) * last) // (2 * size))
            for part in range(size)
        ],
    )


@rule("random", looks_at_data=False)
def at_random(model, data, size):
    """Layers drawn by the data's seed; a larger size contains a smaller.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    data : speechbrain_ext.rules.data.RuleData
        Tells the seed and the model's name.
    size : int
        Layers to remove.

    Returns
    -------
    speechbrain_ext.plans.Plan

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> decoder = tiny_speech_llm(layers=6).decoder
    >>> one, other = (at_random(decoder, RuleData([]), n) for n in (2, 4))
    >>> set(one.layers) < set(other.layers)
    True
    """
    layers = list(range(len(base_model(model).layers) - 1))
    random.Random(data.seed).shuffle(layers)
    return data.plan(model, layers[:size], seed=data.seed)
