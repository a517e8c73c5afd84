"""``speechllm compare`` and ``speechllm report``: runs and tables."""

from __future__ import annotations

import os

import click

from speechllm.cli.common import command, json_option, print_json, quiet


@command(
    "speechllm compare results/mini results/mini_prune",
    "speechllm compare redundancy-speech.json redundancy-text.json",
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@click.option(
    "--samples",
    type=click.IntRange(100),
    default=1000,
    show_default=True,
    help="Sets of utterances that are drawn.",
)
@json_option
def compare(a: str, b: str, samples: int, as_json: bool) -> None:
    """Compare two redundancy tables, or two runs' scores.

    Of runs, each set that both were scored on: the difference A minus B, its
    95 % interval and p-value, from resampling utterances.
    """
    quiet()
    if os.path.isfile(a) and os.path.isfile(b):
        return _compare_tables(a, b, as_json)
    if not (os.path.isdir(a) and os.path.isdir(b)):
        raise ValueError(
            f"{a} and {b}: give two folders of runs, or two tables' files"
        )
    from speechllm.report.comparison import compare_runs

    found = compare_runs(a, b, samples)
    if as_json:
        print_json(found)
        return
    click.echo(f"A: {found['a']}\nB: {found['b']}\n")
    for name, one in found["sets"].items():
        verdict = "differ" if one["p_value"] < 0.05 else "may be equal"
        click.echo(
            f"{name}: {one['metric']} {one['a']:.2f} and {one['b']:.2f}, "
            f"difference {one['difference']:+.2f} [{one['low']:+.2f}, "
            f"{one['high']:+.2f}], p {one['p_value']:.3f}: {verdict}"
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
@click.option(
    "--output", help="Folder to write to; by default that of the results."
)
@click.option("--column", is_flag=True, help="Pictures for one column.")
@json_option
def report(
    results: str, output: str | None, column: bool, as_json: bool
) -> int:
    """Table and pictures of all runs below a folder."""
    quiet()
    from speechbrain_ext.runs.result import load_runs
    from speechllm.report.command import main
    from speechllm.report.summary import summarise

    if as_json:
        found = load_runs(results)
        print_json({"runs": summarise(found.all), "broken": found.broken})
        return 0
    words = [results]
    words += ["--output", output] if output else []
    words += ["--column"] if column else []
    return 1 if main(words) else 0
