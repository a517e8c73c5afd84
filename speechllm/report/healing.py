"""How much of what pruning costs each healing leaves, against the paper's.

``python -m speechllm.report.healing RUNS --output DIR``

The paper's joint healing (both, along the angular path) of the same system,
depth and steps is the measure: 0.5 says that half of what it loses is lost.
Both measures, the score (word error rate; BLEU for translation) and
cross-entropy, are drawn over seeds and utterances alike; all methods share
what is drawn.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

import numpy as np

from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.result import RunResult, load_runs
from speechbrain_ext.scores.intervals import relative_degradation
from speechllm.report.figures import FULL_WIDTH, OWN_PATHS
from speechllm.report.frontier import draw_frontier
from speechllm.report.page import planned_runs
from speechllm.report.samples import DRAWS, estimate, mean
from speechllm.report.study import Study, baseline_of, system
from speechllm.report.summary import summarise
from speechllm.report.tables import Table
from speechllm.report.write import try_to_draw

PAPER = "both"
# Measures of `comparisons`, and what the tables call them.
MEASURES = {"cross_entropy": "cross-entropy", "score": "WER or BLEU"}
# Runs that only tuned learning rates.
TRIAL = re.compile(r"-trial\d+-")
MISSING = "missing"
NO_MEASURE = "the paper's loses nothing"


def method_of(run: RunResult) -> str:
    """A pruned run's healing and, unless it is the angular one, its rule."""
    rule = (run.path or {}).get("rule") or "angular"
    return run.healing if rule == "angular" else f"{run.healing}, {rule}"


class HealingStudy(Study):
    """The runs of a healing study by system, depth, steps and method."""

    def __init__(self, runs, folders, draws=DRAWS):
        runs = [run for run in runs if not TRIAL.search(run.name)]
        super().__init__(runs, folders, draws)

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

    def methods(self, which) -> list[str]:
        """Methods of a system's pruned runs, failed ones too."""
        pruned = [r for r in self.runs if r.removed and system(r) == which]
        return sorted(set(map(method_of, pruned)))

    def lost(self, runs: dict, measure: str):
        """Relative degradation of some runs of a cell, over seeds."""
        one = self._score if measure == "score" else self._validation_loss
        return self.samples.over_seeds(
            {seed: one(run) for seed, run in runs.items()}
        )

    def _score(self, run):
        changes = [self.run_degradation(run, name) for name in run.scores]
        return None if any(one is None for one in changes) else mean(changes)

    def _validation_loss(self, run):
        base = baseline_of(run, self.done)
        ours_R = self.samples.validation_loss(run)
        base_R = self.samples.validation_loss(base) if base else None
        if ours_R is None or base_R is None or not base_R[0]:
            return None
        return relative_degradation(ours_R, base_R)

    def ratio(self, which, removed, method, steps, measure):
        """What a method loses over what the paper's healing loses."""
        ours, paper = (
            self.by_seed(which, removed, one, steps) for one in (method, PAPER)
        )
        shared = ours.keys() & paper.keys()
        above_R, below_R = (
            self.lost({seed: runs[seed] for seed in shared}, measure)
            for runs in (ours, paper)
        )
        if above_R is None or below_R is None or not below_R[0] > 0:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio_R = above_R / below_R
        return np.where(below_R <= 0, np.inf, ratio_R)


def comparisons(study: HealingStudy) -> list[dict]:
    """Every method against the paper's joint healing, a record each."""
    return [
        _record(study, which, removed, method, steps)
        for which in study.systems()
        for removed in sorted(
            {r.removed for r in study.runs if r.removed and system(r) == which}
        )
        for steps in study.steps()
        for method in study.methods(which)
    ]


def _record(study, *place):
    which, removed, method, steps = place
    runs = study.by_seed(*place)
    paper = study.by_seed(which, removed, PAPER, steps)
    trained = [sum(run.trainable.values()) for run in runs.values()]
    return {
        "backbone": which[0],
        "task": which[3],
        "removed": removed,
        "layers": study.layers(which),
        "steps": steps,
        "method": method,
        "seeds": sorted(runs.keys() & paper.keys()),
        "trainable": sum(trained) / len(trained) if trained else None,
        "ratio": {m: estimate(study.ratio(*place, m)) for m in MEASURES},
        "degradation": {m: estimate(study.lost(runs, m)) for m in MEASURES},
    }


def _as_json(record):
    measured = {
        what: {m: one and one.plain() for m, one in record[what].items()}
        for what in ("ratio", "degradation")
    }
    return record | measured


# ----------------------------------------------------------------------------
# table.md: the best of each cell, then every method.


def _ratios(one):
    """A ratio's cells; runs that are there may still have none to tell."""
    return [
        NO_MEASURE
        if one["seeds"] and one["degradation"][m] and ratio is None
        else str(ratio or MISSING)
        for m, ratio in one["ratio"].items()
    ]


def _lost(one):
    return [str(one["degradation"][m] or MISSING) for m in MEASURES]


def _named(what):
    return [f"{what}, {word}" for word in MEASURES.values()]


def ratio_table(records) -> Table:
    """Ratios of one backbone: a row for each depth, length and method."""
    rows = [
        [
            f"{one['removed']} of {one['layers']}",
            one["steps"],
            one["method"],
            len(one["seeds"]),
            *_ratios(one),
            *_lost(one),
        ]
        for one in records
    ]
    header = ["Layers removed", "Steps", "Method", "Seeds"]
    return Table([*header, *_named("Ratio"), *_named("Degradation")], rows)


def best_table(records) -> Table:
    """The best method of each cell beside the paper's."""
    places = {}
    for one in records:
        if one["degradation"]["cross_entropy"]:
            key = "backbone", "task", "removed", "layers", "steps"
            places.setdefault(tuple(one[k] for k in key), []).append(one)
    rows = []
    for (backbone, task, removed, layers, steps), members in places.items():
        if not any(one["trainable"] for one in members):
            continue  # no run of that length
        best = min(
            members,
            key=lambda one: one["degradation"]["cross_entropy"].value,
        )
        paper = [_lost(one) for one in members if one["method"] == PAPER]
        rows.append(
            [
                f"{backbone}, {task}",
                f"{removed} of {layers}",
                steps,
                *(paper[0] if paper else [MISSING] * len(MEASURES)),
                best["method"],
                f"{best['trainable']:,.0f}",
                *_lost(best),
                *_ratios(best),
            ]
        )
    header = ["Model", "Layers removed", "Steps"]
    header += _named("The paper's healing")
    header += ["Best method", "Trained parameters"]
    header += [*_named("Its degradation"), *_named("Ratio")]
    return Table(header, rows)


def page_of(records, missing) -> str:
    """The study in Markdown."""
    parts = [
        "# Healing study\n",
        "Ratio: relative degradation over that of the paper's joint healing "
        "(both, angular path) at the same depth and steps; below 1 is better. "
        "Intervals (95 %): over seeds and utterances, paired.\n",
        "## The best of each depth and length\n",
        str(best_table(records)),
    ]
    systems = {}
    for one in records:
        systems.setdefault((one["backbone"], one["task"]), []).append(one)
    for (backbone, task), own in systems.items():
        parts += [f"## {backbone}, {task}\n", str(ratio_table(own))]
    if missing:
        lines = [f"- {name}: {why}" for name, why in missing.items()]
        parts += ["## Missing runs\n", "\n".join(lines) + "\n"]
    return "\n".join(parts)


def main(argv: list[str] | None = None) -> int:
    """Write ``summary.json``, ``table.md`` and the frontiers."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.report.healing",
        description="Tables and pictures of a healing study.",
    )
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
    write_text(output / "table.md", page_of(records, missing))
    # Last: the workflow takes this file for the whole report.
    summary = {
        "runs": summarise(found.all),
        "comparisons": [_as_json(one) for one in records],
        "missing": missing,
    }
    write_json(output / "summary.json", summary)
    return 1 if any(faults) else 0


if __name__ == "__main__":
    sys.exit(main())
