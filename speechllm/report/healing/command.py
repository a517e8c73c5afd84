"""Tables, pictures and the summary of a healing study, from result files."""

import argparse
import sys
from pathlib import Path

from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.result import load_runs
from speechllm.report.drawing import FULL_WIDTH
from speechllm.report.frontier import draw_frontier
from speechllm.report.healing.ratios import (
    MEASURES,
    PAPER,
    HealingStudy,
    comparisons,
)
from speechllm.report.page import planned_runs
from speechllm.report.summary import summarise
from speechllm.report.tables import Table

MISSING = "missing"
NO_MEASURE = "the paper's loses nothing"
WORDS = {"cross_entropy": "cross-entropy", "score": "WER or BLEU"}


def said(found):
    """A statistic of `comparisons` in a table's cell."""
    if found is None:
        return MISSING
    if found["interval"] is None:
        return f"{found['value']:.2f}"
    ends = ["no bound" if e is None else f"{e:.2f}" for e in found["interval"]]
    return f"{found['value']:.2f} [{', '.join(ends)}]"


def ratio_table(records):
    """Ratios of one backbone: a row for each depth, length and method."""
    rows = [
        [
            f"{one['removed']} of {one['layers']}",
            str(one["steps"]),
            one["method"],
            str(len(one["seeds"])),
            *(_ratio_said(one, m) for m in MEASURES),
            *(said(one["degradation"][m]) for m in MEASURES),
        ]
        for one in records
    ]
    header = ["Layers removed", "Steps", "Method", "Seeds"]
    header += [f"Ratio, {WORDS[m]}" for m in MEASURES]
    header += [f"Degradation, {WORDS[m]}" for m in MEASURES]
    return Table(header, rows)


def best_table(records):
    """The best method of each cell beside the paper's."""
    cells = {}
    for one in records:
        if one["degradation"]["cross_entropy"]:
            key = "backbone", "task", "removed", "layers", "steps"
            cells.setdefault(tuple(one[k] for k in key), []).append(one)
    rows = []
    for (backbone, task, removed, layers, steps), members in cells.items():
        if not any(one["trainable"] for one in members):
            continue  # no run of that length
        best = min(members, key=_loss_of)
        paper = [m for m in members if m["method"] == PAPER]
        theirs = paper[0]["degradation"] if paper else dict.fromkeys(MEASURES)
        rows.append(
            [
                f"{backbone}, {task}",
                f"{removed} of {layers}",
                str(steps),
                *(said(theirs[m]) for m in MEASURES),
                best["method"],
                f"{best['trainable']:,.0f}",
                *(said(best["degradation"][m]) for m in MEASURES),
                *(_ratio_said(best, m) for m in MEASURES),
            ]
        )
    header = ["Model", "Layers removed", "Steps"]
    header += [f"The paper's healing, {WORDS[m]}" for m in MEASURES]
    header += ["Best method", "Trained parameters"]
    header += [f"Its degradation, {WORDS[m]}" for m in MEASURES]
    header += [f"Ratio, {WORDS[m]}" for m in MEASURES]
    return Table(header, rows)


def _loss_of(one):
    return one["degradation"]["cross_entropy"]["value"]


def _ratio_said(one, measure):
    """A ratio's cell; runs that are there may still have none to tell."""
    if one["seeds"] and one["degradation"][measure]:
        if one["ratio"][measure] is None:
            return NO_MEASURE
    return said(one["ratio"][measure])


def page_of(records, missing):
    """The study in Markdown."""
    parts = [
        "# Healing study\n",
        "Ratio: relative degradation over that of the paper's joint healing "
        "(both, angular path) at the same depth and steps; below 1 is better. "
        "Intervals (95 %): over seeds and utterances, paired.\n",
    ]
    parts += ["## The best of each depth and length\n"]
    parts += [best_table(records).markdown()]
    systems = {}
    for one in records:
        systems.setdefault((one["backbone"], one["task"]), []).append(one)
    for (backbone, task), own in systems.items():
        parts += [f"## {backbone}, {task}\n", ratio_table(own).markdown()]
    if missing:
        lines = [f"- {name}: {why}" for name, why in missing.items()]
        parts += ["## Missing runs\n", "\n".join(lines) + "\n"]
    return "\n".join(parts)


def main(argv=None):
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
    there = {run.name for run in found.all if run.status == "done"}
    planned = planned_runs(options.results)
    missing = {k: v for k, v in planned.items() if k not in there}
    drawn = [_draw(study, steps, output) for steps in study.steps()]
    write_text(output / "table.md", page_of(records, missing))
    # Last: the workflow takes this file for the whole report.
    summary = {
        "runs": summarise(found.all),
        "comparisons": records,
        "missing": missing,
    }
    write_json(output / "summary.json", summary)
    return 0 if all(drawn) else 1


def _draw(study, steps, output):
    """The frontier of one length; whether it could be drawn (bool)."""
    file = output / f"frontier-{steps}.png"
    try:
        draw_frontier(study.at_steps(steps), file, FULL_WIDTH)
    except (ValueError, ImportError) as error:
        # An older picture would pass for one of these results.
        file.unlink(missing_ok=True)
        print(f"{file}: not drawn: {error}", file=sys.stderr)
        return False
    return True
