"""A study by its cells: system, depth, healing and path, over all seeds.

Every statistic is an array ``[1 + R]`` as in `samples`: its value from the
result files, then its value in each of R drawn studies.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable

import numpy as np

from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.bootstrap import relative_degradation
from speechbrain_ext.scores.language import form_of
from speechllm.report.samples import DRAWS, Samples, mean
from speechllm.report.timings import Timing

# The paper's order, from least to most healing; others follow by name.
HEALINGS = ("none", "projector", "decoder", "both")
# Relative degradation that is still accepted (paper, section on metrics).
THRESHOLDS = {"WER": 0.25, "BLEU": 0.10, "chrF": 0.10}
# Half an error in a thousand words stands for none at all.
LEAST_SCORE = 0.05
ANY = object()


def system(run: RunResult) -> tuple:
    """What a run is a variant of: backbone, adapter, encoder and task."""
    return run.backbone, run.adapter or "", run.encoder, run.task


def baseline_of(run: RunResult, runs: list[RunResult]) -> RunResult | None:
    """The best unpruned run of a run's system, of its seed where there is."""
    whole = [
        one
        for one in runs
        if one.removed == 0
        and one.status == "done"
        and system(one) == system(run)
    ]
    same_seed = [one for one in whole if one.seed == run.seed]
    return min(same_seed or whole, key=_badness, default=None)


def _badness(run):
    """Mean over the sets of a score made so that less is better."""
    values = [
        -one.value if one.higher_is_better else one.value
        for one in run.scores.values()
        if one.value is not None
    ]
    return sum(values) / len(values) if values else float("inf")


def scored_alike(one, other) -> bool:
    """Whether two scores of a set can be told against each other."""
    forms = {
        (s.metric, form_of(s.metric, s.language)) for s in (one, other) if s
    }
    return other is not None and len(forms) == 1


def healing_rank(healing: str) -> tuple:
    """Sorting key of a healing strategy: the paper's four, then others."""
    known = healing in HEALINGS
    return (HEALINGS.index(healing) if known else len(HEALINGS), healing)


def order(run: RunResult) -> tuple:
    """Sorting key: by system, then depth, path, healing and seed."""
    path = run.path_from or ""
    # Speech, the usual path, before others.
    place = (path != "speech", path)
    seed = -1 if run.seed is None else run.seed
    return (
        (run.task, run.family, run.backbone, run.adapter or "", run.encoder),
        (run.removed, place, healing_rank(run.healing), seed, run.name),
    )


def sets_of(runs: list[RunResult]) -> list[str]:
    """Names of the evaluation sets, in the order of their appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.scores))


def size_of(which: tuple, layers: int) -> float:
    """How large a backbone is: billions in its name, or else its depth."""
    told = re.findall(r"(\d+(?:\.\d+)?)b\b", which[0].lower())
    return float(told[-1]) if told else float(layers)


class Study:
    """What the tables, pictures and claims ask of the runs of a study."""

    def __init__(
        self,
        runs: list[RunResult],
        folders: dict | None = None,
        draws: int = DRAWS,
        samples: Samples | None = None,
        timings: Iterable[Timing] = (),
    ):
        self.runs = sorted(runs, key=order)
        self.done = [run for run in self.runs if run.status == "done"]
        self.timings = list(timings)
        self.samples = samples or Samples(self.done, folders or {}, draws)

    def systems(self, task: str | None = None) -> list[tuple]:
        """The systems of the study, of one task or of all."""
        found = dict.fromkeys(system(run) for run in self.runs)
        return [one for one in found if task is None or one[3] == task]

    def members(
        self, which, removed=ANY, healing=ANY, path=ANY
    ) -> list[RunResult]:
        """Finished runs of a system, or of one of its cells."""
        wanted = (which, removed, healing, path)
        return [
            run
            for run in self.done
            if all(
                one is ANY or one == own
                for one, own in zip(
                    wanted,
                    (system(run), run.removed, run.healing, run.path_from),
                )
            )
        ]

    def layers(self, which) -> int:
        """Depth of a system before pruning."""
        return next(r.layers for r in self.runs if system(r) == which)

    def family(self, which) -> str:
        """Kind of a system's backbone."""
        return next(r.family for r in self.runs if system(r) == which)

    def sets(self, which) -> list[str]:
        """Evaluation sets of a system."""
        return sets_of(self.members(which))

    def metric(self, which) -> str:
        """What a system is scored by."""
        scores = (s for r in self.members(which) for s in r.scores.values())
        return next((one.metric for one in scores), "WER")

    def threshold(self, which) -> float:
        """The relative degradation that its task still accepts."""
        return THRESHOLDS.get(self.metric(which), 0.25)

    def depths(self, which, healing="both", path="speech") -> list[int]:
        """Depths of a curve that have a finished run."""
        runs = self.members(which, ANY, healing, path)
        return sorted({run.removed for run in runs if run.removed})

    def curves(self, which) -> dict:
        """Depths of each (healing, path) of a system, failed runs' too."""
        found = {}
        for run in self.runs:
            if run.removed and system(run) == which:
                depths = found.setdefault((run.healing, run.path_from), set())
                depths.add(run.removed)
        keys = sorted(
            found,
            key=lambda k: (k[1] != "speech", str(k[1]), healing_rank(k[0])),
        )
        return {key: sorted(found[key]) for key in keys}

    def baseline_score(self, which, name):
        """Score of the unpruned system on a set, over seeds, or None."""
        whole = [baseline_of(run, self.done) for run in self.members(which, 0)]
        return self.samples.over_seeds(
            {run.seed: self.samples.score(run, name) for run in whole}
        )

    def score(self, which, depth, healing, path, name):
        """Score of a cell on a set, over seeds, or None."""
        runs = self.members(which, depth, healing, path)
        return self.samples.over_seeds(
            {run.seed: self.samples.score(run, name) for run in runs}
        )

    def degradation(self, which, depth, healing, path, name):
        """Relative degradation of a cell on a set, over seeds, or None."""
        runs = self.members(which, depth, healing, path)
        return self.samples.over_seeds(
            {run.seed: self.run_degradation(run, name) for run in runs}
        )

    def run_degradation(self, run, name):
        """Relative degradation of a run on a set, or None."""
        base = baseline_of(run, self.done)
        one = run.scores.get(name)
        if base is None or not scored_alike(one, base.scores.get(name)):
            return None
        scores = [self.samples.score(r, name) for r in (run, base)]
        if any(score is None for score in scores):
            return None
        return relative_degradation(*scores, one.higher_is_better)

    def score_ratio(self, systems, above, below):
        """How many times the score of one curve is that of another.

        A curve is a (healing, path); the ratio is the geometric mean over
        depths and sets of each system, and over the systems that have both.
        """
        by_system = []
        for which in systems:
            logs = []
            places = itertools.product(
                self.depths(which, *above), self.sets(which)
            )
            for depth, name in places:
                scores = [
                    self.score(which, depth, *curve, name)
                    for curve in (above, below)
                ]
                if all(one is not None for one in scores):
                    above_R, below_R = np.maximum(scores, LEAST_SCORE)
                    logs.append(np.log(above_R / below_R))
            by_system.append(mean(logs))
        found = mean(by_system)
        return None if found is None else np.exp(found)

    # -- how many layers a system can lose: the threshold, over all its sets

    def worst(self, which, depth, healing="both", path="speech"):
        """The degradation of a cell on the set that suffers most, or None."""
        by_set = [
            self.degradation(which, depth, healing, path, name)
            for name in self.sets(which)
        ]
        if not by_set or any(one is None for one in by_set):
            return None
        return np.max(by_set, axis=0)

    def largest(self, which, healing="both", path="speech") -> int:
        """The most layers, of the depths run, within the threshold.

        A deeper model that is within it again counts, even where one before
        it was not; one that lacks a set does not.
        """
        within = [
            depth
            for depth in self.depths(which, healing, path)
            if (one := self.worst(which, depth, healing, path)) is not None
            and one[0] <= self.threshold(which)
        ]
        return max(within, default=0)

    def tolerated(self, which, healing="both", path="speech"):
        """The share of layers at which the threshold is crossed, in %."""
        known = [
            (depth, one)
            for depth in self.depths(which, healing, path)
            if (one := self.worst(which, depth, healing, path)) is not None
        ]
        if not known:
            return None
        shares_D = 100 * np.array([0, *(d for d, _ in known)], dtype=float)
        shares_D /= self.layers(which)
        values_RD = np.stack(
            [np.zeros_like(known[0][1]), *(one for _, one in known)], axis=1
        )
        threshold = self.threshold(which)
        return np.array([crossing(shares_D, v, threshold) for v in values_RD])


def crossing(shares_D, values_D, threshold: float) -> float:
    """Where a curve last rises through a threshold."""
    if np.isnan(values_D).any():
        return float("nan")
    within = np.flatnonzero(values_D <= threshold)
    last = within[-1]
    if last == len(values_D) - 1:
        return float(shares_D[last])
    below, above = values_D[last], values_D[last + 1]
    part = (threshold - below) / (above - below)
    return float(shares_D[last] + part * (shares_D[last + 1] - shares_D[last]))
