"""Rules that choose which layers of a decoder go.

A rule takes a decoder, a little data and a size, and gives a plan:
``RULES[name](model, data, size)``. A new rule is one function, and a line in
`RULES`:

>>> from speechbrain_ext.rules import RULES, RuleData, rule
>>> @rule("shallowest", looks_at_data=False)
... def shallowest(model, data, size):
...     return data.plan(model, range(size))
>>> RULES["shallowest"] = shallowest
>>> from speechbrain_ext.tiny_models import tiny_speech_llm
>>> model = tiny_speech_llm(layers=4).decoder
>>> RULES["shallowest"](model, RuleData([]), 2).layers
(0, 1)
>>> del RULES["shallowest"]

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.rules.cost import (  # noqa: F401 (the package's face)
    Budget,
    Cost,
)
from speechbrain_ext.rules.data import RuleData, text_labels  # noqa: F401
from speechbrain_ext.rules.greedy import greedy_layers, greedy_runs
from speechbrain_ext.rules.interface import rule  # noqa: F401
from speechbrain_ext.rules.likeness import (
    angular,
    block_influence,
    block_influence_run,
)
from speechbrain_ext.rules.mapped import map_greedy, map_run
from speechbrain_ext.rules.unsearched import at_random, deepest, even

DEFAULT = "angular"
RULES = {
    "angular": angular,
    "block-influence": block_influence,
    "block-influence-run": block_influence_run,
    "greedy-runs": greedy_runs,
    "greedy-layers": greedy_layers,
    "map-run": map_run,
    "map-greedy": map_greedy,
    "even": even,
    "deepest": deepest,
    "random": at_random,
}
# Rules that look at no data: they need no model but its depth.
UNSEARCHED = ("even", "deepest", "random")


def find_rule(name):
    """A rule by its name.

    Arguments
    ---------
    name : str
        One of `RULES`.

    Returns
    -------
    callable

    Raises
    ------
    ValueError
        If there is none of that name.

    Example
    -------
    >>> find_rule("best")
    Traceback (most recent call last):
    ...
    ValueError: rule: 'best' is none of angular, ...
    """
    if name not in RULES:
        raise ValueError(f"rule: {name!r} is none of {', '.join(RULES)}.")
    return RULES[name]


def choose_plans(name, model, data, sizes):
    """Plans of one rule for several sizes, sharing what they have in common.

    Arguments
    ---------
    name : str
        One of `RULES`.
    model : torch.nn.Module
        The decoder; it must not change in between.
    data : RuleData
        What to choose on.
    sizes : iterable of int
        Layers to remove.

    Yields
    ------
    speechbrain_ext.plans.Plan
        The smallest first. Each one's cost is what it takes by itself.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm(layers=6).decoder
    >>> [p.layers for p in choose_plans("deepest", model, RuleData([]), [1, 2])]
    [(4,), (3, 4)]
    """
    choose, data = find_rule(name), data.remembering()
    for size in sorted(set(sizes)):
        yield choose(model, data, size)
