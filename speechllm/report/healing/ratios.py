"""Relative degradation of each method over that of the paper's healing.

The paper's joint healing (both, along the angular path) of the same system,
depth and steps is the measure: 0.5 says that half of what it loses is lost.
Both measures, the score (word error rate; BLEU for translation) and
cross-entropy, are drawn over seeds and utterances alike; all methods share
what is drawn.
"""

import re

import numpy as np

from speechllm.report.cells import Cells
from speechllm.report.estimates import estimate, mean
from speechllm.report.samples import DRAWS, Samples
from speechllm.report.summary import baseline_of, system

PAPER = "both"
MEASURES = ("cross_entropy", "score")
# Runs that only tuned learning rates.
TRIAL = re.compile(r"-trial\d+-")


def method_of(run):
    """A pruned run's healing and, unless it is the angular one, its rule."""
    rule = (run.path or {}).get("rule") or "angular"
    return run.healing if rule == "angular" else f"{run.healing}, {rule}"


class HealingStudy:
    """The runs of a healing study by system, depth, steps and method."""

    def __init__(self, runs, folders, draws=DRAWS):
        self.runs = [run for run in runs if not TRIAL.search(run.name)]
        self.done = [run for run in self.runs if run.status == "done"]
        # A study may have failed runs only: then there is nothing to draw.
        self.samples = Samples(self.done, folders, draws) if self.done else None
        self.cells = Cells(self.runs, self.samples)

    def steps(self):
        """How long trained runs healed (list of int)."""
        pruned = [run for run in self.done if run.removed and run.trainable]
        return sorted({run.steps for run in pruned if run.steps})

    def at_steps(self, steps):
        """The cells of one length, with what needs no training (Cells)."""
        runs = [
            run
            for run in self.runs
            if not run.removed or not run.trainable or run.steps == steps
        ]
        return Cells(runs, self.samples)

    def members(self, which, removed, method, steps):
        """Finished runs of a cell, by seed."""
        return {
            run.seed: run
            for run in self.done
            if system(run) == which
            and run.removed == removed
            and method_of(run) == method
            and (not run.trainable or run.steps == steps)
        }

    def methods(self, which=None):
        """Methods of the pruned runs, failed ones too (list of str)."""
        return sorted(
            {
                method_of(run)
                for run in self.runs
                if run.removed and which in (None, system(run))
            }
        )

    def degradation(self, runs, measure):
        """Relative degradation of some runs of a cell, over seeds."""
        one = self._score if measure == "score" else self._cross_entropy
        return self.samples.over_seeds(
            {
                seed: one(run, baseline_of(run, self.done))
                for seed, run in runs.items()
            }
        )

    def _score(self, run, base):
        changes = []
        for name, one in run.scores.items() if base else ():
            ours_R = self.samples.score(run, name)
            base_R = self.samples.score(base, name)
            if ours_R is None or base_R is None:
                return None
            with np.errstate(divide="ignore", invalid="ignore"):
                change_R = (ours_R - base_R) / base_R
            if one.higher_is_better:
                change_R = -change_R
            changes.append(np.where(np.isinf(change_R), np.nan, change_R))
        return mean(changes)

    def _cross_entropy(self, run, base):
        ours_R = self.samples.cross_entropy(run)
        base_R = self.samples.cross_entropy(base) if base else None
        if ours_R is None or base_R is None or not base_R[0]:
            return None
        return ours_R / base_R - 1

    def ratio(self, which, removed, method, steps, measure):
        """What a method loses over what the paper's healing loses."""
        ours = self.members(which, removed, method, steps)
        paper = self.members(which, removed, PAPER, steps)
        both = ours.keys() & paper.keys()
        above_R, below_R = (
            self.degradation({seed: runs[seed] for seed in both}, measure)
            for runs in (ours, paper)
        )
        if above_R is None or below_R is None or not below_R[0] > 0:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_R = above_R / below_R
        return np.where(below_R <= 0, np.inf, ratio_R)


def comparisons(study):
    """Every method against the paper's joint healing, as plain records."""
    found = []
    for which in study.cells.systems():
        pruned = {r.removed for r in study.runs if system(r) == which}
        for removed in sorted(pruned - {0}):
            for steps in study.steps():
                for method in study.methods(which):
                    found.append(_record(study, which, removed, steps, method))
    return found


def _record(study, which, removed, steps, method):
    runs = study.members(which, removed, method, steps)
    paper = study.members(which, removed, PAPER, steps)
    place = (which, removed, method, steps)
    return {
        "backbone": which[0],
        "task": which[3],
        "removed": removed,
        "layers": study.cells.layers(which),
        "steps": steps,
        "method": method,
        "seeds": sorted(runs.keys() & paper.keys()),
        "trainable": _trainable(runs),
        "ratio": {m: plain(study.ratio(*place, m)) for m in MEASURES},
        "degradation": {m: plain(study.degradation(runs, m)) for m in MEASURES},
    }


def _trainable(runs):
    """Trained parameters of a cell's runs (float or None)."""
    many = [sum(run.trainable.values()) for run in runs.values()]
    return sum(many) / len(many) if many else None


def plain(drawn_R):
    """A statistic as JSON has it."""
    found = estimate(drawn_R)
    if found is None:
        return None
    ends = [found.low, found.high]
    ends = [
        one if one is not None and np.isfinite(one) else None for one in ends
    ]
    interval = None if found.low is None else ends
    return {"value": found.value, "interval": interval}
