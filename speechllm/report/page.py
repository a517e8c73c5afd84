"""The report as a whole: every table, picture and claim of a study."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from speechbrain_ext.runs.files import write_text
from speechbrain_ext.runs.reading import LoadedRuns
from speechllm.report.claims import all_claims, claims_table
from speechllm.report.figures import draw_costs, draw_curves
from speechllm.report.frontier import draw_frontier, frontier_table
from speechllm.report.maps import draw_figure_one, four_maps
from speechllm.report.paper_tables import (
    next_smaller_table,
    table_one,
    table_two,
    threshold_table,
)
from speechllm.report.samples import BASELINES, NO_ROWS, SEEDS
from speechllm.report.study import Study
from speechllm.report.tables import limit_lines, not_counted
from speechllm.report.write import as_html, try_to_draw
from speechllm.study import state

TITLE = "Redundancy of decoder layers in speech LLMs"
# Paragraphs; a word in braces is a table, a picture or a list.
OPENING = """
# {title}

{runs} finished runs, seeds {seeds}. Intervals are of 95 %: each speaker and
each seed is left out in turn, of all systems at once (a jackknife, with
Student's t). Figures marked as the paper's are those of arXiv 2603.05121 and
were not measured here. A dash is a gap: no run, or none finished.

What intervals are made from, where a figure hangs on it:

{units}

As in the paper, the depths of the tables and the best unpruned run of a seed
are chosen on the very test scores that are shown: scores at a chosen depth are
better than new speakers would give.
"""
FINDINGS = """
## The paper's claims

A claim is confirmed where the intervals of all its tested statistics hold what
it says, refuted where that of one of them excludes it, and else undecided here:
so without an interval, or with one that does not know how speakers or seeds
differ. That two things are equal is confirmed where the interval of 90 % lies
within the limits named (two one-sided tests); tests at single places and of
pairs of models are one-sided, of 5 %. "Over" says how many speakers (of each
set) and seeds an interval knows; "utterances": their speakers are not known.

{claims}

## Table 1: recognition

WER in per cent, mean over the runs counted last; healed jointly, at the
deepest of the depths run where every set is within a relative degradation of
0.25 (the paper's point rule, which knows no chance). The interval rule says
[deepest within, first over] in layers: every set's upper end of a one-sided
interval of 95 % is at most 0.25, walking up to the first depth where one is
not; one set's lower end is above it.

{table_one}

## Table 2: translation, and ASR's path

BLEU, healed jointly; runs along each path.

{table_two}

{limits}

## Figure 1: distances of blocks

{figure1}

## Figure 2: degradation against depth

{figure2}

## Speed and memory

{costs}

## The frontier

{frontier}

{frontier_table}

## Where the threshold comes from

The relative gap in WER between adjacent sizes of a family, unpruned; 0.25
(recognition) and 0.10 (translation) are in use.

{threshold}

A pruned model, at its depth by the point rule, against the next smaller whole
one:

{next_smaller}
"""
MISSING = """
## What is missing

{missing}
"""
LIMITS = "Answers that ran into their token limit, and may be cut short:"
CAPTIONS = {
    "figure1": "Angular distance of blocks by size and first layer, on one "
    "scale; the line is the pruning path.",
    "figure2": "Relative degradation against the share of layers removed; a "
    "column for each set, a row for each family. Colour: healing; line: "
    "model; hollow: another path. Bands: 95 % intervals. Dash-dotted: the "
    "threshold. Linear up to 0.5, then logarithmic.",
    "costs": "Decoding speed of pruned models at equal lengths, and memory held "
    "at it, over the whole model's; bars: 95 % intervals of the pairs timed.",
    "frontier": "Mean score over the sets at each depth; colour: healing, "
    "mark: what chose the layers; many of one depth stand side by side. The "
    "grey line is the best of those compared.",
}
# Notes of one kind can be many: so many are told in full.
TOLD = 20


def write_page(
    found: LoadedRuns,
    study: Study,
    tables: list[dict],
    output: Path,
    planned: dict[str, str],
) -> None:
    """Write ``report.md``, its pictures and ``report.html``."""
    page = output / "report.html"
    # An older page would pass for one of these results.
    page.unlink(missing_ok=True)
    seeds = sorted({str(run.seed) for run in found.done})
    fields = {"title": TITLE, "runs": len(found.done)}
    fields["seeds"] = ", ".join(seeds)
    fields["units"] = _list(_units(study.samples)) or "- nothing"
    fields["missing"] = _missing(found, study, planned)
    if found.done:
        fields |= _findings(study, tables) | _pictures(study, tables, output)
    template = OPENING + FINDINGS * bool(found.done) + MISSING
    # Each paragraph on one line, or what stands for it.
    parts = [
        " ".join(part.split()).format_map(fields).rstrip()
        for part in template.split("\n\n")
    ]
    text = "\n\n".join(part for part in parts if part) + "\n"
    write_text(output / "report.md", text)
    write_text(page, as_html(text, output, TITLE))


def _findings(study, tables):
    lines = limit_lines(study.done)
    limits = _list(_first(lines, "sets with such answers"))
    return {
        "claims": claims_table(all_claims(study, tables)),
        "table_one": table_one(study),
        "table_two": table_two(study),
        "limits": f"{LIMITS}\n\n{limits}" if lines else "",
        "frontier_table": frontier_table(study),
        "threshold": threshold_table(study),
        "next_smaller": next_smaller_table(study),
    }


def _pictures(study, tables, output):
    """Each picture with its caption, or why it is not there."""
    shown = {}
    for name, draw, data in (
        ("figure1", draw_figure_one, four_maps(study, tables)),
        ("figure2", partial(draw_curves, pdf=True), study),
        ("costs", draw_costs, study),
        ("frontier", draw_frontier, study),
    ):
        file, caption = f"{name}.png", CAPTIONS[name]
        fault = try_to_draw(output / file, draw, data)
        shown[name] = f"![{caption}]({file})\n\n{caption}"
        if fault:
            shown[name] = f"Not drawn: {fault}"
    return shown


def _missing(found, study, planned):
    here = {run.name for run in found.all}
    here |= {f"timing-{one.name}" for one in study.timings}
    lines = not_counted(found.unfinished, found.broken)
    lines += [
        f"{name}: {why}" for name, why in planned.items() if name not in here
    ]
    lines += _first(study.samples.notes, "such runs and sets")
    return _list(lines) or "Nothing."


def _units(samples):
    """How many speakers and seeds there are, and what is not known."""
    for kind, places in samples.layout.items():
        if kind == NO_ROWS:
            continue
        notes = []
        if kind.startswith("utterances of"):
            notes.append(
                "their speakers are not known: each counts as one, and "
                "intervals may be too narrow"
            )
        if kind == SEEDS and BASELINES not in samples.layout:
            notes.append("a baseline's and its pruned models' together")
        if len(places) == 1:
            notes.append("how much another differs is not known")
        told = f" ({'; '.join(notes)})" if notes else ""
        yield f"{kind}: {len(places)}{told}"


def _list(lines):
    return "\n".join(f"- {line}" for line in lines)


def _first(lines, what):
    """The first lines of many, and how many more there are."""
    more = len(lines) - TOLD
    return lines[:TOLD] + [f"and {more} more {what}"] * (more > 0)


def planned_runs(folder: str | Path) -> dict[str, str]:
    """The runs that a study is to have, and why one might not be there."""
    for place in (Path(folder), Path(folder).resolve().parent):
        if (place / state.PLAN_FILE).is_file():
            plan = state.Study.load(place / state.PLAN_FILE)
            return {
                name: "{status}, {error}".format_map(noted)
                if (noted := state.marked(plan, name))
                else "no run"
                for name, one in plan.runs.items()
                if one.kind in ("baseline", "healed", "timing")
            }
    return {}
