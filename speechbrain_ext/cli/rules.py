"""``speechllm rules``: which rule chooses a causal LM's layers best.

Authors
 * The speechbrain_ext authors, 2026
"""

import functools
import sys

import click

from speechbrain_ext.cli.common import (
    examples,
    json_option,
    model_options,
    print_json,
    quiet,
    show_progress,
    tell,
)
from speechbrain_ext.cli.text import load_with_rows, text_options


@click.command(
    epilog=examples(
        """
        speechllm rules Qwen/Qwen2.5-1.5B --text lines.txt
        speechllm rules ./llama --text lines.txt --layers 2 --layers 4
        speechllm rules ./llama --text lines.txt --rule even --rule angular
        """
    )
)
@click.argument("model")
@click.option(
    "--layers",
    multiple=True,
    type=click.IntRange(1),
    help="How many layers to remove; may be repeated. Default: every number.",
)
@click.option(
    "--rule",
    "names",
    multiple=True,
    help="A rule to try; may be repeated. Default: all.",
)
@text_options
@click.option(
    "--output", type=click.Path(dir_okay=False), help="Save the figures (JSON)."
)
@json_option
@model_options
def rules(model, layers, names, text, output, as_json, **options):
    """Which rule chooses the layers of a causal LM best, from text alone.

    Prints the perplexity of every fifth line by layers removed and by rule,
    without healing; the rules look at the other lines. A rule that needs more
    text than there is is left out. Each row is printed, and --output written,
    as soon as its rule is done. MODEL is a folder or a
    hub id, of the Llama or Qwen2 kind.
    """
    quiet()
    from speechbrain_ext.text_lm import load_text_model, read_rows
    from speechbrain_ext.text_rules import compare_rules

    decoder, rows = load_with_rows(
        model, text, options, load_text_model, read_rows
    )
    report = compare_rules(
        decoder,
        rows,
        layers,
        names,
        options["batch_size"],
        show_progress(as_json),
        functools.partial(_tell, output, as_json),
    )
    if as_json:
        print_json(report)


def _tell(output, as_json, report, name):
    """Save and print what there is, once a rule is done."""
    if output:
        from speechbrain_ext.results import write_json

        write_json(output, report)
    if name in report["left_out"]:
        tell(f"{name}: left out: {report['left_out'][name]}")
    if not as_json:
        for line in _row(report, name) if name else _head(report):
            click.echo(line)
        # A pipe would keep it until the last rule is done.
        sys.stdout.flush()


def _head(report):
    """The head of a table of perplexities by depth (Markdown)."""
    yield (
        f"{report['model']}: perplexity on {report['held_out_rows']} rows, "
        f"layers chosen on {report['rows']} others\n"
    )
    sizes = " | ".join(map(str, report["sizes"]))
    yield f"| rule | 0 of {report['layers']} | {sizes} |"
    yield "|---|" + "---|" * (1 + len(report["sizes"]))


def _row(report, name):
    """One rule's perplexities; a dash where it could not choose."""
    plans = [plan for plan in report["plans"] if plan["rule"] == name]
    by_size = {len(plan["removed"]): plan["perplexity"] for plan in plans}
    cells = [
        f"{by_size[size]:.2f}" if size in by_size else "—"
        for size in report["sizes"]
    ]
    if plans and plans[0]["rows"] != report["rows"]:
        name += f" ({plans[0]['rows']} rows)"
    whole = f"{report['perplexity_before']:.2f}"
    yield f"| {name} | " + " | ".join([whole, *cells]) + " |"
