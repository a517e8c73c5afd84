"""Which rule chooses the layers of a causal LM best, with nothing but text.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.pruning import drop_layers, removed_layers
from speechbrain_ext.rules import RULES, choose_plans, find_rule
from speechbrain_ext.text_lm import perplexity, split_rows
from speechbrain_ext.text_pruning import few_of, rows_data


def compare_rules(decoder, rows, sizes=None, rules=None, batch_size=8):
    """Perplexity without layers, by how many are removed and by which rule.

    Nothing is healed. All rules look at the same rows, no more than 200.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The whole causal LM.
    rows : list of torch.Tensor
        Token ids; every fifth row is not looked at, and judged by.
    sizes : iterable of int or None
        Layers to remove; None: one to all but one.
    rules : iterable of str or None
        Of `speechbrain_ext.rules.RULES`; None: all.
    batch_size : int
        Rows of a batch.

    Returns
    -------
    dict
        model, layers, rows, held_out_rows, perplexity_before, and plans: a
        dict for each rule and size with rule, removed, perplexity, and what
        the choice took (seconds, layer_passes).

    Raises
    ------
    ValueError
        If there is no such rule, or so many layers cannot go.

    Example
    -------
    >>> import torch
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> rows = [torch.tensor([5, 6, 7])] * 10
    >>> decoder = tiny_speech_llm(layers=4).decoder
    >>> found = compare_rules(decoder, rows, [1, 2], ["deepest"])
    >>> [plan["removed"] for plan in found["plans"]]
    [[2], [1, 2]]
    """
    sizes = list(sizes or range(1, decoder.num_layers))
    rules = list(rules or RULES)
    for name in rules:
        find_rule(name)
    for size in sizes:
        removed_layers(range(size), decoder.num_layers)
    measured, held_out = split_rows(rows)
    data = rows_data(decoder, few_of(measured), batch_size)
    report = {
        "model": data.about["model"],
        "layers": decoder.num_layers,
        "rows": data.sequences,
        "held_out_rows": len(held_out),
        "perplexity_before": perplexity(decoder.lm, held_out, batch_size),
        "plans": [],
    }
    for name in rules:
        for plan in choose_plans(name, decoder, data, sizes):
            lm = drop_layers(decoder.lm, plan)
            report["plans"].append(
                {
                    "rule": name,
                    "removed": list(plan.layers),
                    "perplexity": perplexity(lm, held_out, batch_size),
                    "seconds": plan.about["seconds"],
                    "layer_passes": plan.about["layer_passes"],
                }
            )
    return report
