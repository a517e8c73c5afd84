"""A study by its cells: system, depth, healing and path, over all seeds.

Every statistic is a `Drawn` of `samples`: its value from the result files, and
without each speaker and each seed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.intervals import (
    degradation_scale,
    relative_degradation,
)
from speechbrain_ext.scores.language import form_of
from speechllm.report.estimates import Drawn, estimate, grouped, mean
from speechllm.report.samples import VALIDATION, Samples, baseline_name
from speechllm.report.timings import Timing

# The paper's order, from least to most healing; others follow by name.
HEALINGS = ("none", "projector", "decoder", "both")
# Relative degradation that is still accepted (paper, section on metrics).
THRESHOLDS = {"WER": 0.25, "BLEU": 0.10, "chrF": 0.10}
# How a depth stands to the threshold.
WITHIN, OVER, OPEN = "within", "over", "open"
ANY = object()
# Runs that only tuned learning rates.
TRIAL = re.compile(r"-trial\d+-")


def standing(runs: list[RunResult]) -> list[RunResult]:
    """Runs that stand for their system: no trial, nor another's beginning."""
    starts = (run.configuration.get("start_from") for run in runs)
    begun = {Path(start).name for start in starts if start}
    return [
        run
        for run in runs
        if not TRIAL.search(run.name) and run.name not in begun
    ]


def system(run: RunResult) -> tuple:
    """What a run is a variant of: backbone, adapter, encoder and task."""
    return run.backbone, run.adapter or "", run.encoder, run.task


def cell_of(run: RunResult) -> tuple[tuple, int, str, str | None]:
    """What seeds alone tell apart: system, depth, healing and path."""
    return system(run), run.removed, run.healing, run.path_from


def baseline_of(run: RunResult, runs: list[RunResult]) -> RunResult | None:
    """The best unpruned run of a run's system, of its baseline or its seed.

    The best by its test scores, as the paper takes it: a baseline trained as
    long as its pruned models is not to be beaten by training alone.
    """
    whole = [
        one
        for one in runs
        if one.removed == 0
        and one.status == "done"
        and system(one) == system(run)
    ]
    seeds = {one.name: one.seed for one in whole}
    seed = seeds.get(baseline_name(run), run.seed)
    same_seed = [one for one in whole if one.seed == seed]
    return min(same_seed or whole, key=_badness, default=None)


def _badness(run):
    """Mean over the sets of a score made so that less is better."""
    values = [
        -one.value if one.higher_is_better else one.value
        for one in run.scores.values()
        if one.value is not None
    ]
    return sum(values) / len(values) if values else float("inf")


def scored_alike(one: RunResult, other: RunResult, name: str) -> bool:
    """Whether two runs' scores of a set can be told against each other."""
    scores = [run.scores.get(name) for run in (one, other)]
    forms = {s and (s.metric, form_of(s.metric, s.language)) for s in scores}
    return len(forms) == 1 and None not in forms


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


def over_systems(by_place: dict[tuple, Drawn]) -> Drawn | None:
    """The mean over the places of each system, then over the systems."""
    by_system = grouped((place[0], one) for place, one in by_place.items())
    return mean(mean(own) for own in by_system.values())


class Study:
    """What the tables, pictures and claims ask of the runs of a study."""

    def __init__(
        self,
        runs: list[RunResult],
        folders: dict | None = None,
        samples: Samples | None = None,
        timings: Iterable[Timing] = (),
    ):
        self.runs = sorted(runs, key=order)
        self.done = [run for run in self.runs if run.status == "done"]
        self.timings = list(timings)
        self.samples = samples or Samples(self.done, folders or {})
        self._common_sets: dict[tuple, list[str]] = {}
        self._note_unpaired()

    def _note_unpaired(self):
        """Say which seeds a cell's degradation on a set is without."""
        cells = grouped(
            (cell_of(run), (run, base))
            for run in self.done
            # A trial of learning rates has no scores, and should not.
            if run.removed and run.scores
            if (base := baseline_of(run, self.done))
        )
        for pairs in cells.values():
            for name in sets_of([run for run, _ in pairs]):
                without = [
                    run.name
                    for run, base in pairs
                    if not scored_alike(run, base, name)
                ]
                if len(without) < len(pairs):
                    self.samples.notes += [
                        f"{run}: not in the degradation on {name}, as it or "
                        "its baseline has no such score: evaluate it again"
                        for run in without
                    ]

    def systems(self, task: str | None = None) -> list[tuple]:
        """The systems of the study, of one task or of all."""
        found = dict.fromkeys(system(run) for run in self.runs)
        return [one for one in found if task is None or one[3] == task]

    def adapted_pairs(self) -> list[tuple]:
        """Systems with an adapted decoder, each with its frozen one."""
        systems = self.systems("ASR")
        pairs = [(one, (one[0], "", *one[2:])) for one in systems if one[1]]
        return [pair for pair in pairs if pair[1] in systems]

    def members(
        self, which, removed=ANY, healing=ANY, path=ANY
    ) -> list[RunResult]:
        """Finished runs of a system, or of one of its cells."""
        wanted = which, removed, healing, path
        return [
            run
            for run in self.done
            if all(
                one is ANY or one == own
                for one, own in zip(wanted, cell_of(run))
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
        found = grouped(
            ((run.healing, run.path_from), run.removed)
            for run in self.runs
            if run.removed and system(run) == which
        )
        keys = sorted(
            found,
            key=lambda k: (k[1] != "speech", str(k[1]), healing_rank(k[0])),
        )
        return {key: sorted(set(found[key])) for key in keys}

    def families(self) -> dict[str, list[tuple]]:
        """The systems that recognise with a frozen decoder, by family."""
        frozen = [which for which in self.systems("ASR") if not which[1]]
        return grouped((self.family(which), which) for which in frozen)

    def common_sets(self, which) -> list[str]:
        """The sets that every pruned run of a system was scored on."""
        if which not in self._common_sets:
            runs = self.members(which)
            cells = {cell_of(run) for run in runs if run.removed}
            self._common_sets[which] = [
                name
                for name in self.sets(which)
                if all(self.score(*one, name) is not None for one in cells)
            ]
        return self._common_sets[which]

    def baselines(self, which) -> list[RunResult]:
        """The unpruned runs that its pruned ones are judged by."""
        found = [baseline_of(run, self.done) for run in self.members(which, 0)]
        return list({run.name: run for run in found if run}.values())

    def baseline_score(self, which, name) -> Drawn | None:
        """Score of the unpruned system on a set, over seeds, or None."""
        return self.mean_score(self.baselines(which), name)

    def score(self, which, depth, healing, path, name) -> Drawn | None:
        """Score of a cell on a set, over seeds, or None."""
        return self.mean_score(self.members(which, depth, healing, path), name)

    def mean_score(self, runs: Iterable[RunResult], name) -> Drawn | None:
        """The mean score of runs on a set, or None."""
        score = self.samples.score
        return self.samples.over_runs((run, score(run, name)) for run in runs)

    def degradation(self, which, depth, healing, path, name) -> Drawn | None:
        """Relative degradation of a cell on a set, over seeds, or None."""
        return self.degradation_of(
            self.members(which, depth, healing, path), name
        )

    def degradation_of(self, runs: list[RunResult], name) -> Drawn | None:
        """Relative degradation of some runs' mean score on a set, or None.

        Over the mean score of their baselines: the mean of several ratios
        would be too large, as its bases are small numbers of errors. Of their
        mean loss on `VALIDATION`.
        """
        score, bare = self.samples.score, self.samples.without_seeds
        found = [
            (run, score(run, name), score(base, name))
            for run in runs
            if (base := baseline_of(run, self.done)) is not None
            and (name == VALIDATION or scored_alike(run, base, name))
        ]
        # A run without its baseline would be judged by others' baselines.
        found = [row for row in found if all(one is not None for one in row)]
        ours = self.samples.over_runs((run, one) for run, one, _ in found)
        whole = self.samples.over_runs(
            (run, bare(one)) for run, _, one in found
        )
        if ours is None or whole is None or not whole.value > 0:
            return None
        up = name != VALIDATION and found[0][0].scores[name].higher_is_better
        change = relative_degradation(ours, whole, up)
        return change.on(degradation_scale(up))

    def compared(self, systems, above, below) -> dict[tuple, tuple]:
        """Scores of two curves, place by place.

        A curve is a (healing, path), a place a (system, depth, set). Where
        the two paths name the same layers there is nothing to compare.
        """
        found = {}
        for which in systems:
            for depth in self.depths(which, *above):
                pairs = self._unlike(which, depth, above, below)
                for name in self.sets(which) if pairs else ():
                    scores = [
                        self.mean_score(runs, name) for runs in zip(*pairs)
                    ]
                    if all(one is not None for one in scores):
                        found[which, depth, name] = tuple(scores)
        return found

    def log_ratios(self, systems, above, below) -> dict[tuple, Drawn]:
        """Logarithms of one curve's scores over another's, place by place."""
        scores = self.compared(systems, above, below)
        return {
            place: np.log(one / other)
            for place, (one, other) in scores.items()
            if one.value > 0 and other.value > 0
        }

    def _unlike(self, which, depth, above, below):
        """Runs of two curves by seed, of other layers or other healings."""
        ours, theirs = (
            {r.seed: r for r in self.members(which, depth, *curve)}
            for curve in (above, below)
        )
        return [
            (ours[seed], theirs[seed])
            for seed in ours.keys() & theirs.keys()
            if above[0] != below[0]
            or ours[seed].removed_layers != theirs[seed].removed_layers
        ]

    # -- how many layers a system can lose: the threshold, over all its sets

    def largest(self, which, healing="both", path="speech") -> int:
        """The most layers, of the depths run, within the threshold as it is.

        The paper's point rule: no uncertainty counts, and a deeper model that
        is within again counts even where one before it was not; one that
        lacks a set does not.
        """
        within = [
            depth
            for depth in self.depths(which, healing, path)
            if (worst := self._worst(which, depth, healing, path)) is not None
            and worst <= self.threshold(which)
        ]
        return max(within, default=0)

    def _worst(self, *cell):
        """The degradation of a cell on the set that suffers most, or None."""
        values = [one and one.value for one in self._degradations(*cell)]
        return None if None in values else max(values, default=None)

    def _degradations(self, which, *cell):
        return [
            self.degradation(which, *cell, name) for name in self.sets(which)
        ]

    def standing(self, which, depth, healing="both", path="speech") -> str:
        """Whether a depth is `WITHIN` the threshold, `OVER` it or `OPEN`.

        Within: the upper ends of all sets' intervals are (95 %, one-sided);
        over: the lower end of one set's interval is above it.
        """
        ends = [
            estimate(one, level=0.90)
            for one in self._degradations(which, depth, healing, path)
        ]
        known = [
            (one.low, one.high)
            for one in ends
            if one and one.low is not None and one.high is not None
        ]
        threshold = self.threshold(which)
        if any(low > threshold for low, _ in known):
            return OVER
        within = ends and len(known) == len(ends)
        if within and all(high <= threshold for _, high in known):
            return WITHIN
        return OPEN

    def tolerance(
        self, which, healing="both", path="speech"
    ) -> tuple[int, int | None]:
        """The deepest depth within the threshold, and the first one over it.

        From the shallowest depth run; the walk for the deepest stops at the
        first that is not within. None: no depth run is over.
        """
        deepest, walking = 0, True
        for depth in self.depths(which, healing, path):
            found = self.standing(which, depth, healing, path)
            if found == OVER:
                return deepest, depth
            walking = walking and found == WITHIN
            deepest = depth if walking else deepest
        return deepest, None
