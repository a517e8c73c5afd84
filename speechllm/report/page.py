"""The report as a whole: every table, picture and claim of a study."""

import json
import sys
from pathlib import Path

from speechbrain_ext.runs.files import write_text
from speechllm.report.cells import Cells
from speechllm.report.claims import all_claims, claims_table
from speechllm.report.costs import draw_costs
from speechllm.report.document import (
    Heading,
    Lines,
    Picture,
    Text,
    as_html,
    as_markdown,
)
from speechllm.report.figure_one import draw_figure_one
from speechllm.report.figure_two import draw_figure_two
from speechllm.report.frontier import draw_frontier, frontier_table
from speechllm.report.samples import Samples
from speechllm.report.tables import limit_lines, table_one, table_two
from speechllm.report.threshold import next_smaller_table, threshold_table

TITLE = "Redundancy of decoder layers in speech LLMs"
# Notes of one kind can be many: so many are told in full.
TOLD = 20


class Page:
    """A report in the making."""

    def __init__(self, found, tables, output, planned=None):
        self.found, self.tables, self.output = found, tables, output
        self.planned = planned or {}
        self.samples = (
            Samples(found.done, found.folders) if found.done else None
        )
        self.cells = Cells(found.all, self.samples)
        self.parts = [Heading(TITLE, 1)]
        self.lacking = []

    def write(self):
        """Write ``report.html``, ``report.md`` and the pictures."""
        self._opening()
        if self.found.done:
            self._claims()
            self._scores()
            self._pictures()
            self._threshold()
        self._missing()
        write_text(self.output / "report.md", as_markdown(self.parts))
        page = as_html(self.parts, self.output, TITLE)
        write_text(self.output / "report.html", page)
        return self.lacking

    def _opening(self):
        found = self.found
        seeds = sorted({str(run.seed) for run in found.done})
        self.parts.append(
            Text(
                f"{len(found.done)} finished runs, seeds {', '.join(seeds)}. "
                "Intervals are of 95 %, over seeds and utterances drawn again "
                "1,000 times; all systems share each drawing. Figures marked "
                "as the paper's are those of arXiv 2603.05121 and were not "
                "measured here. A dash is a gap: no run, or none finished."
            )
        )

    def _claims(self):
        self.parts += [
            Heading("The paper's claims"),
            Text(
                "A claim is confirmed where the intervals of all its tested "
                "statistics hold what it says, refuted where that of one of "
                "them excludes it, and else undecided here."
            ),
            claims_table(all_claims(self.cells, self.tables)),
        ]

    def _scores(self):
        self.parts += [
            Heading("Table 1: recognition"),
            Text(
                "WER in per cent, mean over the seeds; pruned as far as every "
                "set stays within a relative degradation of 0.25, healed "
                "jointly."
            ),
            table_one(self.cells),
            Heading("Table 2: translation, and ASR's path"),
            Text("BLEU, healed jointly."),
            table_two(self.cells),
        ]
        lines = limit_lines(self.found.done)
        if lines:
            self.parts += [
                Text(
                    "Answers that ran into their token limit, and may be cut "
                    "short:"
                ),
                Lines(_first(lines, "sets with such answers")),
            ]

    def _pictures(self):
        cells = self.cells
        self._picture(
            "Figure 1: distances of blocks",
            "figure1.png",
            lambda file: draw_figure_one(cells, self.tables, file),
            "Angular distance of blocks by size and first layer, on one "
            "scale; the line is the pruning path.",
        )
        self._picture(
            "Figure 2: degradation against depth",
            "figure2.png",
            lambda file: draw_figure_two(cells, file),
            "Relative degradation against the share of layers removed; a "
            "column for each set, a row for each family. Colour: healing; "
            "line: model; hollow: another path. Bands: 95 % intervals. "
            "Dash-dotted: the threshold. Linear up to 0.5, then logarithmic.",
        )
        self._picture(
            "Speed and memory",
            "costs.png",
            lambda file: draw_costs(cells, file),
            "Decoding speed and peak memory of pruned models over the whole "
            "model's, healed jointly; bands over seeds.",
        )
        self._picture(
            "The frontier",
            "frontier.png",
            lambda file: draw_frontier(cells, file),
            "Mean score over the sets at each depth; colour: healing, mark: "
            "what chose the layers; many of one depth stand side by side. "
            "The grey line is the best known.",
        )
        self.parts.append(frontier_table(cells))

    def _picture(self, title, name, draw, caption):
        """A picture, or why it is not there."""
        self.parts.append(Heading(title))
        file = self.output / name
        try:
            draw(file)
        except (ValueError, ImportError) as error:
            # An older picture would pass for one of these results.
            for old in (file, file.with_suffix(".pdf")):
                old.unlink(missing_ok=True)
            print(f"{file}: not drawn: {error}", file=sys.stderr)
            self.parts.append(Text(f"Not drawn: {error}"))
            self.lacking.append(f"{name}: {error}")
            return
        self.parts.append(Picture(name, caption))

    def _threshold(self):
        self.parts += [
            Heading("Where the threshold comes from"),
            Text(
                "The relative gap in WER between adjacent sizes of a family, "
                "unpruned; 0.25 (recognition) and 0.10 (translation) are in "
                "use."
            ),
            threshold_table(self.cells),
            Text("A pruned model against the next smaller whole one:"),
            next_smaller_table(self.cells),
        ]

    def _missing(self):
        found = self.found
        lines = [
            f"{run.name}: {run.status}" + (f", {run.error}" * bool(run.error))
            for run in found.unfinished
        ]
        lines += [
            f"{file}: cannot be read, {why}" for file, why in found.broken
        ]
        here = {run.name for run in found.all}
        lines += [
            f"{name}: {why}"
            for name, why in self.planned.items()
            if name not in here
        ]
        notes = self.samples.notes if self.samples else []
        lines += _first(notes, "without hypotheses")
        self.lacking += lines
        self.parts += [
            Heading("What is missing"),
            Lines(lines) if lines else Text("Nothing."),
        ]


def _first(lines, what):
    """The first lines of many, and how many more there are."""
    more = len(lines) - TOLD
    return lines[:TOLD] + [f"and {more} more {what}"] * (more > 0)


def planned_runs(folder):
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
