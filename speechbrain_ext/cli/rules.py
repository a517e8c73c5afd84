"""``speechllm rules``: which rule chooses a causal LM's layers best.

Authors
 * The speechbrain_ext authors, 2026
"""

import click

from speechbrain_ext.cli.common import (
    examples,
    json_option,
    model_options,
    print_json,
    quiet,
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
    without healing; the rules look at the other lines. MODEL is a folder or a
    hub id, of the Llama or Qwen2 kind.
    """
    quiet()
    from speechbrain_ext.results import write_json
    from speechbrain_ext.text_lm import load_text_model, read_rows
    from speechbrain_ext.text_rules import compare_rules

    decoder, rows = load_with_rows(
        model, text, options, load_text_model, read_rows
    )
    report = compare_rules(decoder, rows, layers, names, options["batch_size"])
    if output:
        write_json(output, report)
    if as_json:
        print_json(report)
        return
    click.echo(
        f"{report['model']}: perplexity on {report['held_out_rows']} rows, "
        f"layers chosen on {report['rows']} others\n"
    )
    for line in _rules_table(report):
        click.echo(line)


def _rules_table(report):
    """Perplexity: a row for each rule, a column for each depth (Markdown)."""
    plans = {(p["rule"], len(p["removed"])): p for p in report["plans"]}
    sizes = sorted({size for _, size in plans})
    names = list(dict.fromkeys(name for name, _ in plans))
    yield (
        f"| rule | 0 of {report['layers']} | "
        + " | ".join(f"{size}" for size in sizes)
        + " |"
    )
    yield "|---|" + "---|" * (1 + len(sizes))
    whole = report["perplexity_before"]
    for name in names:
        cells = [plans[name, size]["perplexity"] for size in sizes]
        values = " | ".join(f"{one:.2f}" for one in [whole, *cells])
        yield f"| {name} | {values} |"
