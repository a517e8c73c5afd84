"""The report as a whole: every table, picture and claim of a study."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from speechbrain_ext.runs.files import write_text
from speechbrain_ext.runs.result import LoadedRuns
from speechllm.report.claims import all_claims, claims_table
from speechllm.report.figures import draw_costs, draw_curves, draw_figure_one
from speechllm.report.frontier import draw_frontier, frontier_table
from speechllm.report.maps import four_maps
from speechllm.report.paper_tables import (
    next_smaller_table,
    table_one,
    table_two,
    threshold_table,
)
from speechllm.report.study import Study
from speechllm.report.tables import limit_lines, not_counted
from speechllm.report.write import as_html, try_to_draw

TITLE = "Redundancy of decoder layers in speech LLMs"
# Notes of one kind can be many: so many are told in full.
TOLD = 20


class Page:
    """A report in the making: paragraphs, tables and pictures in Markdown."""

    def __init__(
        self,
        found: LoadedRuns,
        study: Study,
        tables: list[dict],
        output: Path,
        planned: dict | None = None,
    ):
        self.found, self.study, self.tables = found, study, tables
        self.output, self.planned = output, planned or {}
        self.parts = []

    def write(self) -> None:
        """Write ``report.md``, the pictures and ``report.html``."""
        self._opening()
        if self.found.done:
            self._claims()
            self._scores()
            self._pictures()
            self._threshold()
        self._missing()
        text = "\n".join(self.parts)
        write_text(self.output / "report.md", text)
        page = self.output / "report.html"
        # An older page would pass for one of these results.
        page.unlink(missing_ok=True)
        write_text(page, as_html(text, self.output, TITLE))

    def _add(self, *parts, heading=None):
        if heading:
            self.parts.append(f"## {heading}\n")
        self.parts += [f"{str(part).rstrip()}\n" for part in parts]

    def _lines(self, lines):
        self._add("\n".join(f"- {line}" for line in lines))

    def _opening(self):
        found = self.found
        seeds = sorted({str(run.seed) for run in found.done})
        self._add(
            f"# {TITLE}",
            f"{len(found.done)} finished runs, seeds {', '.join(seeds)}. "
            "Intervals are of 95 %, over seeds and utterances drawn again "
            "1,000 times; all systems share each drawing. Figures marked "
            "as the paper's are those of arXiv 2603.05121 and were not "
            "measured here. A dash is a gap: no run, or none finished.",
        )

    def _claims(self):
        self._add(
            "A claim is confirmed where the intervals of all its tested "
            "statistics hold what it says, refuted where that of one of "
            "them excludes it, and else undecided here.",
            claims_table(all_claims(self.study, self.tables)),
            heading="The paper's claims",
        )

    def _scores(self):
        self._add(
            "WER in per cent, mean over the seeds; pruned as far as every "
            "set stays within a relative degradation of 0.25, healed jointly.",
            table_one(self.study),
            heading="Table 1: recognition",
        )
        self._add(
            "BLEU, healed jointly.",
            table_two(self.study),
            heading="Table 2: translation, and ASR's path",
        )
        lines = limit_lines(self.found.done)
        if lines:
            self._add(
                "Answers that ran into their token limit, and may be cut short:"
            )
            self._lines(_first(lines, "sets with such answers"))

    def _pictures(self):
        self._picture(
            "Figure 1: distances of blocks",
            "figure1.png",
            "Angular distance of blocks by size and first layer, on one "
            "scale; the line is the pruning path.",
            draw_figure_one,
            four_maps(self.study, self.tables),
        )
        self._picture(
            "Figure 2: degradation against depth",
            "figure2.png",
            "Relative degradation against the share of layers removed; a "
            "column for each set, a row for each family. Colour: healing; "
            "line: model; hollow: another path. Bands: 95 % intervals. "
            "Dash-dotted: the threshold. Linear up to 0.5, then logarithmic.",
            draw_curves,
            self.study,
            pdf=True,
        )
        self._picture(
            "Speed and memory",
            "costs.png",
            "Decoding speed and peak memory of pruned models over the whole "
            "model's, healed jointly; bands over seeds.",
            draw_costs,
            self.study,
        )
        self._picture(
            "The frontier",
            "frontier.png",
            "Mean score over the sets at each depth; colour: healing, mark: "
            "what chose the layers; many of one depth stand side by side. "
            "The grey line is the best known.",
            draw_frontier,
            self.study,
        )
        self._add(frontier_table(self.study))

    def _picture(self, title, name, caption, draw: Callable, data, **how):
        """A picture, or why it is not there."""
        fault = try_to_draw(self.output / name, draw, data, **how)
        shown = (f"![{caption}]({name})", caption)
        self._add(*([f"Not drawn: {fault}"] if fault else shown), heading=title)

    def _threshold(self):
        self._add(
            "The relative gap in WER between adjacent sizes of a family, "
            "unpruned; 0.25 (recognition) and 0.10 (translation) are in use.",
            threshold_table(self.study),
            "A pruned model against the next smaller whole one:",
            next_smaller_table(self.study),
            heading="Where the threshold comes from",
        )

    def _missing(self):
        lines = not_counted(self.found.unfinished, self.found.broken)
        here = {run.name for run in self.found.all}
        lines += [
            f"{name}: {why}"
            for name, why in self.planned.items()
            if name not in here
        ]
        lines += _first(self.study.samples.notes, "without hypotheses")
        self._add(heading="What is missing")
        if lines:
            self._lines(lines)
        else:
            self._add("Nothing.")


def _first(lines, what):
    """The first lines of many, and how many more there are."""
    more = len(lines) - TOLD
    return lines[:TOLD] + [f"and {more} more {what}"] * (more > 0)


def planned_runs(folder: str | Path) -> dict[str, str]:
    """The runs that a study is to have, and why one might not be there."""
    for place in (Path(folder), Path(folder).resolve().parent):
        file = place / "plan.json"
        if file.is_file():
            runs = json.loads(file.read_text(encoding="utf-8"))["runs"]
            kinds = ("baseline", "healed")
            return {
                one["name"]: _ended(place, one)
                for one in runs
                if one["kind"] in kinds
            }
    return {}


def _ended(place, one):
    """What the graph noted of a run."""
    marker = f"{one['name']}.{one['made']}.json"
    file = place / "graph" / one["kind"] / marker
    if not file.is_file():
        return "no run"
    noted = json.loads(file.read_text(encoding="utf-8"))
    return f"{noted['status']}, {noted['error']}"
