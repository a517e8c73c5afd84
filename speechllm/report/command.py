"""The report's command line."""

import argparse
import sys
from pathlib import Path

from speechbrain_ext.runs.files import write_json, write_text
from speechbrain_ext.runs.result import load_runs
from speechllm.report.curves import draw_curves
from speechllm.report.drawing import COLUMN_WIDTH, FULL_WIDTH
from speechllm.report.heatmaps import draw_heatmaps, read_tables
from speechllm.report.page import Page, planned_runs
from speechllm.report.summary import summarise
from speechllm.report.table import table_text


def main(argv=None):
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
    table = table_text(found.all, found.broken)
    write_json(output / "summary.json", summarise(found.all))
    write_text(output / "table.md", table)
    print(table)
    width = COLUMN_WIDTH if options.column else FULL_WIDTH
    tables = read_tables(options.results)
    drawn = [
        _try(draw_heatmaps, tables, output / "heatmap.png", width),
        _try(draw_curves, found.all, output / "curves.png", width),
    ]
    Page(found, tables, output, planned_runs(options.results)).write()
    print(f"wrote {output / 'report.html'}")
    return 0 if all(drawn) else 1


def _try(draw, data, path, width):
    """Draw a picture; say why not if it cannot be."""
    try:
        draw(data, path, width)
    except (ValueError, ImportError) as error:
        # An older picture would pass for one of these results.
        path.unlink(missing_ok=True)
        print(f"{path}: not drawn: {error}", file=sys.stderr)
        return False
    print(f"wrote {path}")
    return True


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
