"""What every rule does before and after it chooses.

Authors
 * The speechbrain_ext authors, 2026
"""

import functools
from dataclasses import replace

from speechbrain_ext.pruning import base_model


def rule(name, looks_at_data=True, needs_targets=False, positions=None):
    """Make a function a rule: its request is checked, its plan named.

    Arguments
    ---------
    name : str
        The rule's name, also in the plan.
    looks_at_data : bool
        Whether it needs data at all.
    needs_targets : bool
        Whether something has to be predicted.
    positions : callable or None
        The decoder to how many positions it needs; stays as an attribute.

    Returns
    -------
    callable
        Takes a function of model, `speechbrain_ext.rules.data.RuleData` and
        size that gives a `speechbrain_ext.plans.Plan`; gives one that checks
        these first.

    Example
    -------
    >>> from speechbrain_ext.rules.data import RuleData
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> @rule("shallowest", looks_at_data=False)
    ... def shallowest(model, data, size):
    ...     return data.plan(model, range(size))
    >>> shallowest(tiny_speech_llm().decoder, RuleData([]), 2).rule
    'shallowest'
    """

    def decorate(choose):
        @functools.wraps(choose)
        def checked(model, data, size):
            check_size(size, len(base_model(model).layers))
            if looks_at_data:
                data.check(needs_targets)
            return replace(choose(model, data, size), rule=name)

        checked.positions = positions
        return checked

    return decorate


def check_size(size, num_layers):
    """Refuse a number of layers that cannot go.

    Arguments
    ---------
    size : int
        Layers to remove.
    num_layers : int
        Layers of the decoder.

    Raises
    ------
    ValueError
        If none is to go, or none would be left to receive.

    Example
    -------
    >>> check_size(4, 4)
    Traceback (most recent call last):
    ...
    ValueError: prune_layers: 4, but ... has 4 layers ... choose 1 to 3.
    """
    if not 1 <= size <= num_layers - 1:
        raise ValueError(
            f"prune_layers: {size}, but the decoder has {num_layers} layers "
            "and the last must stay to receive: choose 1 to "
            f"{num_layers - 1}."
        )
