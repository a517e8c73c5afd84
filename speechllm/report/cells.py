"""A study by its cells: system, depth, healing and path, over all seeds."""

import itertools
import re

import numpy as np

from speechllm.report.estimates import mean
from speechllm.report.summary import (
    THRESHOLDS,
    baseline_of,
    healing_rank,
    order,
    sets_of,
    system,
)

OWN_PATHS = ("speech", None)


class Cells:
    """What the tables, pictures and claims ask of a study."""

    def __init__(self, runs, samples):
        self.runs = sorted(runs, key=order)
        self.done = [run for run in self.runs if run.status == "done"]
        self.samples = samples

    def systems(self, task=None):
        """The systems of the study, of one task or of all (list of tuple)."""
        found = dict.fromkeys(system(run) for run in self.runs)
        return [one for one in found if task is None or one[3] == task]

    def tasks(self):
        """The tasks of the study (list of str)."""
        return list(dict.fromkeys(run.task for run in self.runs))

    def members(self, which, removed=None, healing=None, path=None):
        """Finished runs of a system, or of one of its cells."""
        found = [run for run in self.done if system(run) == which]
        if removed is not None:
            found = [run for run in found if run.removed == removed]
        if healing is not None:
            found = [run for run in found if run.healing == healing]
        if path is not None:
            found = [run for run in found if run.path_from == path]
        return found

    def layers(self, which):
        """Depth of a system before pruning (int)."""
        return next(r.layers for r in self.runs if system(r) == which)

    def family(self, which):
        """Kind of a system's backbone (str)."""
        return next(r.family for r in self.runs if system(r) == which)

    def sets(self, which):
        """Evaluation sets of a system (list of str)."""
        return sets_of(self.members(which))

    def metric(self, which):
        """What a system is scored by (str)."""
        scores = (s for r in self.members(which) for s in r.scores.values())
        return next((one.metric for one in scores), "WER")

    def threshold(self, which):
        """The relative degradation that its task still accepts (float)."""
        return THRESHOLDS.get(self.metric(which), 0.25)

    def depths(self, which, healing="both", path="speech"):
        """Depths of a curve that have a finished run (list of int)."""
        runs = self.members(which, None, healing, path)
        return sorted({run.removed for run in runs if run.removed})

    def curves(self, which):
        """Healings and paths of a system's pruned runs, failed ones too."""
        keys = {
            (run.healing, run.path_from)
            for run in self.runs
            if run.removed and system(run) == which
        }
        return sorted(
            keys,
            key=lambda k: (k[1] != "speech", str(k[1]), healing_rank(k[0])),
        )

    def whole(self, which):
        """The unpruned runs that pruned ones are judged by, one a seed."""
        seeds = dict.fromkeys(r.seed for r in self.members(which, 0))
        probe = self.members(which, 0)
        picks = [
            baseline_of(next(r for r in probe if r.seed == seed), self.done)
            for seed in seeds
        ]
        return {one.seed: one for one in picks}

    def baseline_score(self, which, name):
        """Score of the unpruned system on a set, over seeds ``[1 + R]``."""
        return self.samples.over_seeds(
            {
                seed: self.samples.score(run, name)
                for seed, run in self.whole(which).items()
            }
        )

    def score(self, which, depth, healing, path, name):
        """Score of a cell on a set, over seeds ``[1 + R]``, or None."""
        runs = self.members(which, depth, healing, path)
        return self.samples.over_seeds(
            {run.seed: self.samples.score(run, name) for run in runs}
        )

    def degradation(self, which, depth, healing, path, name):
        """Relative degradation of a cell on a set, over seeds."""
        by_seed = {}
        for run in self.members(which, depth, healing, path):
            base = baseline_of(run, self.done)
            ours_R = self.samples.score(run, name)
            base_R = base and self.samples.score(base, name)
            if ours_R is None or base_R is None:
                continue
            sign = -1 if run.scores[name].higher_is_better else 1
            with np.errstate(divide="ignore", invalid="ignore"):
                change_R = sign * (ours_R - base_R) / base_R
            by_seed[run.seed] = np.where(np.isinf(change_R), np.nan, change_R)
        return self.samples.over_seeds(by_seed)

    def mean_ratio(self, which, places, other):
        """Geometric mean of the ratio of two kinds of cells' scores."""
        logs = []
        for place, name in itertools.product(places, self.sets(which)):
            above_R = self.score(which, *place, name)
            below_R = self.score(which, *other(place), name)
            if above_R is None or below_R is None:
                continue
            # Half an error in a thousand words stands for none at all.
            above_R, below_R = (
                np.maximum(one, 0.05) for one in (above_R, below_R)
            )
            logs.append(np.log(above_R / below_R))
        found = mean(logs)
        return None if found is None else np.exp(found)


def size_of(which, layers):
    """How large a backbone is: billions in its name, or else its depth."""
    told = re.findall(r"(\d+(?:\.\d+)?)b\b", which[0].lower())
    return float(told[-1]) if told else float(layers)
