"""The report's command line."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.reading import load_runs
from speechllm.pipes import reader_may_go
from speechllm.report.figures import COLUMN_WIDTH, FULL_WIDTH, draw_curves
from speechllm.report.maps import draw_heatmaps, read_tables
from speechllm.report.page import planned_runs, write_page
from speechllm.report.study import Study, standing
from speechllm.report.summary import summarise
from speechllm.report.tables import table_text
from speechllm.report.timings import read_timings
from speechllm.report.write import try_to_draw


def main(argv: list[str] | None = None) -> int:
    """Write report, summary, tables and pictures of the runs below a folder."""
    options = _parser().parse_args(argv)
    try:
        found = load_runs(options.results)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    if not (found.all or found.broken):
        print(
            f"{options.results}: no result.json in it or below; run a recipe "
            "first",
            file=sys.stderr,
        )
        return 2
    output = Path(options.output or options.results)
    output.mkdir(parents=True, exist_ok=True)
    timings = read_timings(options.results)
    study = Study(standing(found.all), found.folders, timings=timings)
    table = table_text(study, found.broken)
    write_json(output / "summary.json", summarise(study))
    write_text(output / "table.md", table)
    # Written first and printed last: a reader that goes loses nothing.
    said = [table]
    tables = read_tables(options.results)
    width = COLUMN_WIDTH if options.column else FULL_WIDTH
    whole = True
    for name, draw, data in (
        ("heatmap.png", draw_heatmaps, tables),
        ("curves.png", draw_curves, study),
    ):
        if try_to_draw(output / name, draw, data, width=width):
            whole = False
        else:
            said.append(f"wrote {output / name}")
    planned = planned_runs(options.results)
    try:
        write_page(found, study, tables, output, planned)
        said.append(f"wrote {output / 'report.html'}")
    except ImportError as error:
        print(f"{output / 'report.html'}: {error}", file=sys.stderr)
        whole = False
    with reader_may_go():
        print("\n".join(said), flush=True)
    return 0 if whole else 1


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.report",
        description="Tables and pictures of a study from its result files.",
    )
    parser.add_argument("results", help="folder with the runs' folders in it")
    parser.add_argument(
        "--output", help="where to write; by default the folder of results"
    )
    parser.add_argument(
        "--column",
        action="store_true",
        help="pictures for one column of a page instead of its full width",
    )
    return parser
