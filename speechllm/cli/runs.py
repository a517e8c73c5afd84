"""``speechllm compare`` and ``speechllm report``: runs and tables."""

from __future__ import annotations

import os

import click

from speechllm.cli.common import (
    command,
    flag,
    json_option,
    output_folder,
    print_json,
)


@command(
    "speechllm compare results/mini results/mini_prune",
    "speechllm compare redundancy-speech.json redundancy-text.json",
)
@click.argument("a", metavar="A")
@click.argument("others", metavar="B", nargs=-1, required=True)
@json_option
def compare(a: str, others: tuple[str, ...], as_json: bool) -> None:
    """Compare two redundancy tables, or runs' scores.

    Of runs, each set that both were scored on: the difference A minus B, its
    95 % interval over speakers, and the p-value of exchanging the two
    systems' answers speaker by speaker, by Holm for all sets and runs.
    """
    if len(others) == 1 and os.path.isfile(a) and os.path.isfile(others[0]):
        return _compare_tables(a, others[0], as_json)
    wrong = [one for one in (a, *others) if not os.path.isdir(one)]
    if wrong:
        raise ValueError(
            f"{' and '.join(wrong)}: no folder; give folders of runs, or two "
            "tables' files"
        )
    from speechllm.report.comparison import compare_runs

    found = compare_runs(a, *others)
    if as_json:
        print_json(found)
        return
    click.echo(f"A: {found['a']}")
    for run in found["runs"]:
        click.echo(f"\nB: {run['b']}")
        for name, one in run["sets"].items():
            click.echo(f"{name}: {_said(one)}")


def _said(one):
    """The comparison on one set, in words."""
    ends = "one speaker, so no interval"
    if one["low"] is not None:
        ends = f"[{one['low']:+.2f}, {one['high']:+.2f}]"
    return (
        f"{one['metric']} {one['a']:.2f} and {one['b']:.2f}, difference "
        f"{one['difference']:+.2f} {ends} over {one['units']} {one['over']}, "
        f"p {one['p_value']:.4f}, by Holm {one['p_holm']:.4f}: "
        f"{'differ' if one['p_holm'] < 0.05 else 'may be equal'}"
    )


def _compare_tables(a, b, as_json):
    from speechbrain_ext.layers.distances import RedundancyTable
    from speechllm.cli.compare_tables import agreement_of, agreement_text

    tables = RedundancyTable.load(a), RedundancyTable.load(b)
    if as_json:
        print_json(agreement_of(*tables))
    else:
        click.echo(agreement_text(*tables), nl=False)


@command(
    "speechllm report results",
    "speechllm report results --output pictures --column",
)
@click.argument("results", metavar="RESULTS")
@output_folder("Folder to write to; by default that of the results.")
@flag("--column", "Pictures for one column.")
@json_option
def report(
    results: str, output: str | None, column: bool, as_json: bool
) -> int:
    """Table and pictures of all runs below a folder."""
    from speechbrain_ext.runs.reading import load_runs
    from speechllm.report.command import main
    from speechllm.report.study import Study
    from speechllm.report.summary import summarise

    if as_json:
        found = load_runs(results)
        study = Study(found.all, found.folders)
        print_json({"runs": summarise(study), "broken": found.broken})
        return 0
    words = [results]
    words += ["--output", output] if output else []
    words += ["--column"] if column else []
    return 1 if main(words) else 0
