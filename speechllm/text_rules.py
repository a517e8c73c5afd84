"""Which rule chooses a causal LM's layers best, from text alone."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from speechbrain_ext.layers.plans import is_plans, load_plans
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.rules import (
    DEFAULT,
    RULES,
    TARGETS,
    Rule,
    check_size,
    choose_plans,
    find_rule,
    search_passes,
)
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.runs.files import format_of, of_form
from speechllm.streamed.walk import StreamedLM
from speechllm.text_lm import (
    enough_of,
    perplexity_without,
    rows_data,
    split_rows,
)

FORMAT = "speechbrain_ext.rules/1"
# Of the layers, the shares that are removed where nobody says how many.
SHARES = (8, 4, 3, 2)


def usual_sizes(layers: int) -> list[int]:
    """An eighth, a quarter, a third and half of the layers."""
    return sorted({max(1, layers // share) for share in SHARES})


def compare_rules(
    decoder: Decoder | StreamedLM,
    rows: list[torch.Tensor],
    sizes: Iterable[int] | None = None,
    rules: Iterable[str] | None = None,
    batch_size: int = 8,
    progress: bool = False,
    told: Callable[[dict, str | None], Any] = lambda report, rule: None,
    tell: Callable[[str], Any] = lambda line: None,
) -> dict[str, Any]:
    """Perplexity without layers, by how many are removed and by which rule.

    Arguments
    ---------
    decoder : Decoder or StreamedLM
    rows : list of torch.Tensor
        Token ids; some of every fifth row are judged by, none else.
    sizes : iterable of int or None
        How many layers to remove; None: `usual_sizes`.
    rules : iterable of str or None
        None: all.
    batch_size : int
    progress : bool
        Show bars.
    told : callable
        Gets the report so far after each plan (None) and each rule (its
        name): whoever stops has what there is.
    tell : callable
        Gets a line at the start (an estimate) and after each plan.

    Returns
    -------
    dict
        ``plans`` with layers and perplexity; ``left_out``: rules that the
        text does not suffice for; ``failed``: those that broke off.

    Raises
    ------
    ValueError
        If a rule or a size is none, or no rule could choose.
    """
    sizes = sorted(set(sizes or usual_sizes(decoder.num_layers)))
    rules = list(dict.fromkeys(rules or RULES))
    for name in rules:
        find_rule(name)
    for size in sizes:
        check_size(size, decoder.num_layers)
    work = _Comparison(decoder, rows, sizes, rules, batch_size, progress)
    work.told, work.tell = told, tell
    report = work.report
    work.begin()
    for name in rules:
        if name not in report["left_out"]:
            work.try_rule(name)
        told(report, name)
    if not report["plans"]:
        whys = {**report["left_out"], **report["failed"]}
        why = "; ".join(f"{k}: {v}" for k, v in whys.items())
        raise ValueError(f"no rule could choose layers on this text ({why})")
    return report


class _Comparison:
    """The rules, the rows, and what is known so far."""

    told: Callable[[dict, str | None], Any]
    tell: Callable[[str], Any]

    def __init__(self, decoder, rows, sizes, rules, batch_size, progress):
        self.decoder, self.batch_size = decoder, batch_size
        self.sizes, self.progress = sizes, progress
        self.measured, self.held_out = split_rows(rows)
        self.report: dict[str, Any] = {
            "format": FORMAT,
            "model": os.path.basename(os.path.normpath(decoder.source)),
            "layers": decoder.num_layers,
            "sizes": sizes,
            "rows": len(enough_of(self.measured, DEFAULT, decoder)),
            "held_out_rows": len(self.held_out),
            "perplexity_before": None,
            "plans": [],
            "left_out": {},
            "failed": {},
        }
        for name in rules:
            lacks = self._lacks(find_rule(name))
            if lacks:
                self.report["left_out"][name] = lacks
        self.rules = [n for n in rules if n not in self.report["left_out"]]

    def _lacks(self, rule: Rule) -> str:
        """What a rule would have to have and has not, before long work."""
        if not rule.needs:
            return ""
        if rule.positions and isinstance(self.decoder, StreamedLM):
            return "needs the model in memory: without --stream"
        wanted = rule.positions(self.decoder) if rule.positions else 0
        there = sum(map(len, self.measured))
        if there < wanted:
            return (
                f"needs {wanted} positions of text, and there are {there}: "
                "give more lines"
            )
        try:
            self._data(rule.name).check(targets=rule.needs == TARGETS)
        except ValueError as error:
            return str(error)
        return ""

    def _data(self, name, longest=1):
        """What a rule looks at."""
        return rows_data(
            self.decoder,
            enough_of(self.measured, name, self.decoder),
            self.batch_size,
            progress=self.progress,
            longest=longest,
        )

    def judged(self, plan=None):
        """Perplexity of the rows to judge by, without a plan's layers."""
        return perplexity_without(
            self.decoder, self.held_out, plan, self.batch_size, self.progress
        )

    def begin(self):
        """Judge the whole model, which also tells how long the rest takes."""
        began = time.monotonic()
        self.report["perplexity_before"] = self.judged()
        once = time.monotonic() - began
        layers = self.decoder.num_layers
        one_pass = once / max(1, layers * len(self.held_out))
        passes = sum(
            passes_of(find_rule(name), layers, self.sizes)
            * len(enough_of(self.measured, name, self.decoder))
            for name in self.rules
        )
        judging = once * len(self.rules) * len(self.sizes)
        self.told(self.report, None)
        self.tell(
            f"{len(self.rules)} rules, {len(self.sizes)} depths each: about "
            f"{lasting(passes * one_pass + judging)}"
        )

    def try_rule(self, name):
        """All plans of one rule; another's turn comes whatever happens."""
        longest = max(self.sizes) if name == "block-influence-run" else 1
        try:
            data = self._data(name, longest)
            for plan in choose_plans(name, self.decoder, data, self.sizes):
                self._note(plan, data.sequences)
        except ValueError as error:
            self.report["left_out"][name] = str(error)
        except Exception as error:
            # Memory, a fault of ours: what the others say is still wanted.
            self.report["failed"][name] = f"{type(error).__name__}: {error}"

    def _note(self, plan, rows):
        """Judge a plan and tell of it."""
        found = {
            "rule": plan.rule,
            "removed": list(plan.layers),
            "rows": rows,
            "perplexity": self.judged(plan),
            "seconds": plan.about["seconds"],
            "layer_passes": plan.about["layer_passes"],
        }
        self.report["plans"].append(found)
        self.told(self.report, None)
        self.tell(
            f"{plan.rule}: {plan.size} of {self.decoder.num_layers} layers, "
            f"perplexity {found['perplexity']:.2f}"
        )


def passes_of(rule: Rule, layers: int, sizes: list[int]) -> int:
    """Layer passes that a rule takes for one row, roughly."""
    if not rule.needs:
        return 0
    if "run" in rule.name and rule.needs == TARGETS:
        # Each run of a size, and behind it what is left.
        each = [sum(range(1, layers - size + 1)) for size in sizes]
        return layers + sum(each)
    if rule.needs == TARGETS:
        return search_passes(layers, max(sizes))
    return layers


def lasting(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


# ----------------------------------------------------------------------------
# What `rules` found, as a plan for `prune`.


def is_comparison(path: str) -> bool:
    """Whether a file says of itself that it compares rules."""
    return format_of(path) == FORMAT


def only_size(path: str) -> int:
    """The number of layers that all plans of a file remove."""
    if is_plans(path):
        sizes = {plan.size for plan in load_plans(path)}
    elif is_comparison(path):
        sizes = {len(one["removed"]) for one in _found(path)["plans"]}
    else:
        sizes = set()
    if len(sizes) != 1:
        there = ", ".join(map(str, sorted(sizes)))
        raise ValueError(
            f"{path}: has more than one plan: say how many layers to remove "
            "(--layers)" + (f": {there}" if there else "")
        )
    return sizes.pop()


def best_plan(
    path: str, size: int, layers: int, name: str, rule: str | None = None
) -> tuple[Removal, dict[str, Any]]:
    """The plan of a size whose perplexity is least, of one rule or of all."""
    report = _found(path)
    if (report["model"], report["layers"]) != (name, layers):
        raise ValueError(
            f"{path}: compares rules on {report['model']} with "
            f"{report['layers']} layers, but this is {name} with {layers}: "
            "give its own"
        )
    plans = [
        one
        for one in report["plans"]
        if len(one["removed"]) == size and rule in (None, one["rule"])
    ]
    if not plans:
        there = sorted({len(one["removed"]) for one in report["plans"]})
        by = f" by rule {rule}" if rule else ""
        raise ValueError(
            f"{path}: has no plan of {size} layers{by}; it has plans of "
            f"{', '.join(map(str, there)) or 'no'} layers"
        )
    best = min(plans, key=lambda one: one["perplexity"])
    about = {"file": os.path.basename(path), "rule": best["rule"]}
    return Removal.of(best["removed"], layers), about


def read_comparison(path: str) -> dict[str, Any]:
    """What `compare_rules` reported into a file (ValueError: no such)."""
    mend = "Let `speechllm rules` write it again"
    with of_form(path, ": is no comparison of rules", mend):
        with open(path, encoding="utf-8") as stream:
            report = json.load(stream)
        model, layers = report["model"], report["layers"]
        if not isinstance(model, str) or type(layers) is not int:
            raise ValueError("it does not say of which model it is")
        plans = report["plans"]
        for one in plans:
            Removal.of(list(one["removed"]), layers)
            if not isinstance(one["rule"], str):
                raise ValueError(f"a rule is called {one['rule']!r:.40}")
        keys = [(report, "perplexity_before")]
        for one, key in keys + [(one, "perplexity") for one in plans]:
            # JSON has no infinity: none is written in its place.
            if one[key] is None:
                one[key] = math.inf
            if type(one[key]) not in (int, float):
                raise ValueError(f"its {key} is {one[key]!r:.40}")
    return report


def _found(path):
    """A comparison with a plan at least."""
    report = read_comparison(path)
    if not report["plans"]:
        raise ValueError(f"{path}: has no plan yet: let `rules` finish one")
    return report
