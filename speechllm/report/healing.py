"""How much of what pruning costs each healing leaves, against the paper's.

``python -m speechllm.report.healing RUNS --output DIR``

The paper's joint healing (both, along the angular path) of the same system,
depth and steps is the measure: 0.5 says that half of what it loses is lost.
Both measures, the score (word error rate; BLEU for translation) and
cross-entropy, are of the same speakers and seeds for both methods, and of the
mean over the seeds: what hangs on few errors has no mean of ratios.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.reading import load_runs
from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.intervals import PLAIN, holm
from speechllm.pipes import module_parser
from speechllm.report.estimates import Drawn, estimate, mean, ratio_estimate
from speechllm.report.figures import FULL_WIDTH, OWN_PATHS
from speechllm.report.frontier import draw_frontier
from speechllm.report.healing_tables import MEASURES, PAPER, page_of
from speechllm.report.page import planned_runs
from speechllm.report.samples import VALIDATION
from speechllm.report.study import TRIAL, Study, standing, system
from speechllm.report.summary import summarise, told
from speechllm.report.write import try_to_draw


def method_of(run: RunResult) -> str:
    """A pruned run's healing and, unless it is the angular one, its rule."""
    rule = (run.path or {}).get("rule") or "angular"
    return run.healing if rule == "angular" else f"{run.healing}, {rule}"


class HealingStudy(Study):
    """The runs of a healing study by system, depth, steps and method."""

    def __init__(self, runs, folders):
        super().__init__(standing(runs), folders)

    def steps(self) -> list[int]:
        """How long trained runs healed."""
        pruned = [run for run in self.done if run.removed and run.trainable]
        return sorted({run.steps for run in pruned if run.steps})

    def at_steps(self, steps: int) -> Study:
        """The study of one length, with what needs no training."""
        runs = [
            run
            for run in self.runs
            if not run.removed or not run.trainable or run.steps == steps
        ]
        return Study(runs, samples=self.samples)

    def by_seed(self, which, removed, method, steps) -> dict:
        """Finished runs of a cell, by seed."""
        # Of two runs the one along the system's own path.
        runs = sorted(
            self.members(which, removed),
            key=lambda run: run.path_from in OWN_PATHS,
        )
        return {
            run.seed: run
            for run in runs
            if method_of(run) == method
            and (not run.trainable or run.steps == steps)
        }

    def lost(self, runs: dict, measure: str) -> Drawn | None:
        """Relative degradation of a cell's runs by seed.

        Of scores the mean over the sets: each set's, of all seeds together,
        counts alike.
        """
        whole = list(runs.values())
        names = self._names(system(whole[0]), measure) if whole else []
        changes = [self.degradation_of(whole, name) for name in names]
        return None if any(one is None for one in changes) else mean(changes)

    def _names(self, which, measure):
        """The sets that a measure is of."""
        by_loss = measure == "cross_entropy"
        return [VALIDATION] if by_loss else self.common_sets(which)

    def pair(self, which, removed, method, steps, measure) -> tuple:
        """What a method and the paper's healing lose, of the same seeds."""
        ours, paper = (
            self.measured(which, removed, one, steps, measure)
            for one in (method, PAPER)
        )
        shared = sorted(ours.keys() & paper.keys(), key=str)
        below = self.lost({seed: paper[seed] for seed in shared}, measure)
        if method == PAPER:
            return below, below
        return self.lost({seed: ours[seed] for seed in shared}, measure), below

    def measured(self, which, removed, method, steps, measure) -> dict:
        """Runs of a cell by seed that have all that a measure asks for."""
        names, score = self._names(which, measure), self.samples.score
        return {
            seed: run
            for seed, run in self.by_seed(which, removed, method, steps).items()
            if all(score(run, name) is not None for name in names)
        }

    def scored_on_tuning(self) -> list[str]:
        """Runs whose loss is of the utterances that rates are tuned on."""
        return [
            run.name
            for run in self.done
            if run.validation.get("final_loss") is not None
            and not run.configuration.get("loss_splits")
        ]


def p_value(above: Drawn | None, below: Drawn | None) -> float | None:
    """Two-sided p-value of two degradations' being the same.

    Of their difference, by Student's t: Fieller's interval of their ratio
    excludes 1 where it is below 0.05, and it is there where the base is not
    above zero and there is no ratio. None: no interval, no p-value.
    """
    if above is None or below is None:
        return None
    both = [estimate(gap.on(PLAIN)) for gap in (above - below, below - above)]
    sides = [one for one in both if one is not None and one.error is not None]
    if len(sides) < len(both):
        return None
    if not sides[0].error:
        # The same for whoever is left out; a gap that never moves is no proof.
        return None if sides[0].value else 1.0
    return 2 * min(one.p_above(0.0) for one in sides)


def comparisons(study: HealingStudy) -> list[dict]:
    """Every method against the paper's joint healing, a record each."""
    records = []
    for which in study.systems():
        # Failed ones too.
        pruned = [r for r in study.runs if r.removed and system(r) == which]
        depths = sorted({run.removed for run in pruned})
        methods = sorted(set(map(method_of, pruned)))
        for removed, steps in itertools.product(depths, study.steps()):
            cell = [
                _record(study, which, removed, method, steps)
                for method in methods
            ]
            _adjust(cell)
            records += cell
    return records


def _adjust(cell):
    """Make p-values larger by Holm: of all methods and measures of a cell."""
    tests = [
        (one, measure)
        for one in cell
        for measure, p in one["p_value"].items()
        if p is not None
    ]
    adjusted = holm([one["p_value"][measure] for one, measure in tests])
    for one in cell:
        one["p_holm"] = dict.fromkeys(MEASURES)
    for (one, measure), p in zip(tests, adjusted):
        one["p_holm"][measure] = p


def _record(study, *place):
    which, removed, method, steps = place
    runs = study.by_seed(*place)
    paper = study.by_seed(which, removed, PAPER, steps)
    trained = [sum(run.trainable.values()) for run in runs.values()]
    pairs = {m: study.pair(*place, m) for m in MEASURES}
    return {
        "backbone": which[0],
        "task": which[3],
        "removed": removed,
        "layers": study.layers(which),
        "steps": steps,
        "sets": study.common_sets(which),
        "method": method,
        "seeds": sorted(runs.keys() & paper.keys()),
        "trainable": sum(trained) / len(trained) if trained else None,
        "ratio": {m: ratio_estimate(*pair) for m, pair in pairs.items()},
        "p_value": {
            m: None if method == PAPER else p_value(*pair)
            for m, pair in pairs.items()
        },
        "degradation": {
            m: estimate(study.lost(study.measured(*place, m), m))
            for m in MEASURES
        },
    }


def _as_json(record):
    measured = {
        what: {m: told(one) for m, one in record[what].items()}
        for what in ("ratio", "degradation")
    }
    return record | measured


def main(argv: list[str] | None = None) -> int:
    """Write ``summary.json``, ``table.md`` and the frontiers."""
    parser = module_parser("speechllm.report.healing", __doc__)
    parser.add_argument("results", help="folder with the runs' folders in it")
    parser.add_argument("--output", help="where to write; default: there")
    options = parser.parse_args(argv)
    found = load_runs(options.results)
    if not found.all:
        print(f"{options.results}: no result.json in it", file=sys.stderr)
        return 2
    output = Path(options.output or options.results)
    output.mkdir(parents=True, exist_ok=True)
    study = HealingStudy(found.all, found.folders)
    records = comparisons(study)
    there = {run.name for run in found.done}
    planned = planned_runs(options.results)
    missing = {k: v for k, v in planned.items() if k not in there}
    faults = [
        try_to_draw(
            output / f"frontier-{steps}.png",
            draw_frontier,
            study.at_steps(steps),
            width=FULL_WIDTH,
        )
        for steps in study.steps()
    ]
    write_text(output / "table.md", page_of(study, records, missing))
    # Trials only tuned rates: their scores have no interval.
    trials = [
        one for one in summarise(Study(found.all)) if TRIAL.search(one["name"])
    ]
    # Last: the workflow takes this file for the whole report.
    summary = {
        "runs": summarise(study) + trials,
        "comparisons": [_as_json(one) for one in records],
        "missing": missing,
        "loss_of_tuning": study.scored_on_tuning(),
        "notes": study.samples.notes,
    }
    write_json(output / "summary.json", summary)
    return 1 if any(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
