"""Which rule chooses the layers of a causal LM best, with nothing but text.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.pruning import drop_layers, removed_layers
from speechbrain_ext.rules import DEFAULT, RULES, choose_plans, find_rule
from speechbrain_ext.text_lm import perplexity, split_rows
from speechbrain_ext.text_pruning import enough_of, rows_data


def compare_rules(
    decoder,
    rows,
    sizes=None,
    rules=None,
    batch_size=8,
    progress=False,
    told=None,
):
    """Perplexity without layers, by how many are removed and by which rule.

    Nothing is healed. Rules look at the same rows, about 200, but for those
    that need more.

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
    progress : bool
        Show bars (on stderr).
    told : callable or None
        Called with the report so far and a rule's name when that rule is
        done, and with None before the first.

    Returns
    -------
    dict
        model, layers, sizes, rows (that rules look at), held_out_rows,
        perplexity_before, plans: a dict for each rule and size with rule,
        removed, rows (that this rule looked at), perplexity, and what the
        choice took (seconds, layer_passes), and left_out: rules that cannot
        choose on these rows, with the reason.

    Raises
    ------
    ValueError
        If there is no such rule, so many layers cannot go, or none of the
        rules can choose.

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
    sizes = sorted(set(sizes or range(1, decoder.num_layers)))
    rules = list(dict.fromkeys(rules or RULES))
    for name in rules:
        find_rule(name)
    for size in sizes:
        removed_layers(range(size), decoder.num_layers)
    measured, held_out = split_rows(rows)
    judge = _Judge(decoder, held_out, batch_size, progress)
    report = {
        "model": rows_data(decoder, []).about["model"],
        "layers": decoder.num_layers,
        "sizes": sizes,
        "rows": len(enough_of(measured, DEFAULT, decoder)),
        "held_out_rows": len(held_out),
        "perplexity_before": judge(),
        "plans": [],
        "left_out": {},
    }
    told = told or (lambda report, name: None)
    told(report, None)
    for name in rules:
        some = enough_of(measured, name, decoder)
        data = rows_data(decoder, some, batch_size)
        data.progress = progress
        try:
            for plan in choose_plans(name, decoder, data, sizes):
                report["plans"].append(_about(plan, data, judge(plan)))
        except ValueError as error:
            # The other rules may well be able to.
            report["left_out"][name] = str(error)
        told(report, name)
    if not report["plans"]:
        why = "; ".join(f"{k}: {v}" for k, v in report["left_out"].items())
        raise ValueError(f"no rule could choose layers on this text ({why})")
    return report


class _Judge:
    """Perplexity on the held-out rows, whole or without a plan's layers."""

    def __init__(self, decoder, rows, batch_size, progress):
        self.lm, self.options = decoder.lm, (rows, batch_size, progress)

    def __call__(self, plan=None):
        lm = drop_layers(self.lm, plan) if plan else self.lm
        return perplexity(lm, *self.options)


def _about(plan, data, perplexity):
    return {
        "rule": plan.rule,
        "removed": list(plan.layers),
        "rows": data.sequences,
        "perplexity": perplexity,
        "seconds": plan.about["seconds"],
        "layer_passes": plan.about["layer_passes"],
    }
