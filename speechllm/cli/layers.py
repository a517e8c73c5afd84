"""``speechllm measure`` and ``rules``: a causal LM and a text file."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from typing import Any

import click

from speechllm.cli.common import (
    PARTLY,
    Numbers,
    Word,
    command,
    file_option,
    flag,
    json_option,
    model_options,
    options,
    output_file,
    print_json,
    show_progress,
    tell,
)
from speechllm.cli.hub import data_of, listens, speech_options
from speechllm.device import pick_device
from speechllm.packaged import packaged_path

TEXT = "Text file, a sentence or a paragraph on each line; - reads from a pipe."
# As in `speechbrain_ext.layers.rules`, which is not loaded to print a help.
RULE_NAMES = (
    "angular block-influence block-influence-run greedy-runs greedy-layers "
    "map-run map-greedy even deepest random"
).split()
lm_options = options(
    # package:models/mini-qwen2 is a model too.
    click.argument("model", callback=lambda *told: packaged_path(told[-1])),
    flag(
        "--stream",
        "Read a layer at a time from the model's files; by default so where "
        "its weights do not fit into the free memory.",
        default=None,
    ),
    click.option(
        "--batch-size", type=click.IntRange(1), default=8, show_default=True
    ),
    click.option(
        "--context",
        type=click.IntRange(2),
        default=512,
        show_default=True,
        help="Most tokens of a row; longer lines are cut.",
    ),
)


@command(
    "speechllm measure Qwen/Qwen2.5-1.5B --text lines.txt",
    "speechllm measure ./llama --text lines.txt --output table.json",
    "speechllm measure ./llama --text lines.txt --picture map.png",
    "speechllm measure Qwen/Qwen2.5-72B --text lines.txt --stream",
    "speechllm measure Qwen/Qwen2-Audio-7B --speech clips.csv --text lines.txt",
)
@lm_options
@speech_options
@click.option(
    "--position",
    type=click.Choice(("target", "prompt")),
    help="Measure a speech LLM at the last token of what is said, or of the "
    "prompt; by default of what is said, where that is known.",
)
@file_option("--text", TEXT)
@output_file("Save the table (JSON); `prune --plan` takes it.")
@output_file("Draw the heat map into a file (needs matplotlib).", "--picture")
@json_option
@model_options
def measure(
    model: str,
    speech: str | None,
    text: str | None,
    output: str | None,
    picture: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Which layers of a causal LM, or of a speech LLM, are redundant.

    Prints the pruning path and the heat map of angular distances. MODEL is a
    folder or a hub id: of the Llama or Qwen2 kind, measured on --text; or a
    speech LLM, measured on --speech, on --text, or on both and compared.
    """
    if not (speech or text):
        raise click.UsageError(
            "what is it measured on? Give --text FILE, or for a speech LLM "
            "--speech DIR"
        )
    hears = listens(model, speech, settings["stream"])
    if picture:
        _check_picture(picture)
    agreement = None
    if hears:
        from speechllm.hub.model import HubModel
        from speechllm.hub.speech import measure_both

        how = settings["dtype"], pick_device(settings["device"])
        words = settings["prompt"]
        hub = HubModel.from_source(model, None, *how, words=words)
        data = data_of(speech, text, as_json, settings)
        tables, agreement = measure_both(hub, data, settings["position"])
    else:
        from speechllm.text_lm import measure_rows

        decoder, rows = load_lm(model, text, settings)
        batch_size, progress = settings["batch_size"], show_progress(as_json)
        tables = {"text": measure_rows(decoder, rows, batch_size, progress)}
    if output:
        for kind, table in tables.items():
            beside = "-text" if kind == "text" and len(tables) == 2 else ""
            table.save(beside.join(os.path.splitext(output)))
    if picture:
        draw(list(tables.values()), picture)
    if as_json:
        told = {kind: table_about(table) for kind, table in tables.items()}
        print_json({**told, "agreement": agreement} if hears else told["text"])
        return
    for table in tables.values():
        print_table(table)
        if hears:
            click.echo()
    if agreement:
        click.echo(
            "Speech and text: both paths remove "
            f"{agreement['overlap']:.0%} of their layers alike; correlation "
            f"of the distances {agreement['correlation']:.3f}, mean "
            f"difference {agreement['mean_difference']:.4f}."
        )


def load_lm(model, text, settings):
    """The model and the file's rows; a missing file is told first."""
    from speechllm.text_lm import check_text, load_text_model, read_rows

    if text:
        check_text(text)
    where = settings["dtype"], pick_device(settings["device"])
    load = functools.partial(load_text_model, model, *where)
    if text or settings["stream"]:
        decoder = load(stream=settings["stream"], tell=tell)
    else:
        # No layer is run but to check the copy.
        try:
            decoder = load(stream=True)
        except TypeError as error:
            tell(f"{error} Holding it in memory.")
            decoder = load(stream=False)
    if not text:
        return decoder, None
    rows = read_rows(text, decoder.tokenizer, settings["context"])
    most = max(int(row.max()) for row in rows)
    known = decoder.lm.config.vocab_size
    if most >= known:
        raise ValueError(
            f"{model}: its tokenizer gives the id {most}, its embeddings are "
            f"{known}: they belong to different models. Download it again"
        )
    return decoder, rows


def table_about(table):
    """What a machine wants to know of a table (dict)."""
    from speechbrain_ext.layers.distances import FORMAT

    # With all that a saved table has: `prune --plan` takes it as well.
    return {
        "format": FORMAT,
        "errors": table.errors,
        "count": table.count,
        "provenance": table.provenance,
        "rows": table.count,
        "layers": table.num_layers,
        "path": [
            {
                "size": block.size,
                "start": block.start,
                "distance": table.distances[block.size - 1, block.start],
            }
            for block in table.path()
        ],
        "distances": table.distances,
    }


def print_table(table):
    """Path and heat map, for a person."""
    from speechllm.cli.terminal import heatmap_lines

    about = table.provenance
    rows = "utterances" if about.get("input") == "speech" else "rows of text"
    click.echo(f"{about['model']}: {table.count} {rows}\n")
    click.echo("size  layers      distance")
    for block in table.path():
        layers = f"{block.start}-{block.start + block.size - 1}"
        distance = table.distances[block.size - 1, block.start]
        click.echo(f"{block.size:4d}  {layers:10s}  {distance:.4f}")
    click.echo()
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    width = shutil.get_terminal_size().columns
    for line in heatmap_lines(table, colour, width):
        click.echo(line)


def _check_picture(picture):
    """Refuse what cannot be drawn before anything is measured."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "--picture needs matplotlib, which is not installed: pip install "
            "'speechllm[report]'"
        ) from error
    known = Figure().canvas.get_supported_filetypes()
    ending = os.path.splitext(picture)[1].lstrip(".").lower()
    if ending not in known:
        raise click.BadParameter(
            f"{picture}: matplotlib draws no .{ending}: name it .png, .pdf or "
            ".svg",
            param_hint="--picture",
        )


def draw(tables, picture):
    """Heat maps of tables, side by side, into a file."""
    from speechllm.report.maps import draw_heatmaps

    contents = [
        {
            "distances": table.distances,
            "path": [[block.start, block.size] for block in table.path()],
            "provenance": table.provenance,
        }
        for table in tables
    ]
    draw_heatmaps(contents, picture)


# ----------------------------------------------------------------------------
# ``speechllm rules``: which rule chooses a causal LM's layers best.


@command(
    "speechllm rules Qwen/Qwen2.5-1.5B --text lines.txt",
    "speechllm rules ./llama --text lines.txt --layers 2,4",
    "speechllm rules ./llama --text lines.txt --rule even --rule angular",
)
@click.option(
    "--layers",
    multiple=True,
    type=Numbers(),
    help="How many layers to remove; may be repeated. Default: an eighth, a "
    "quarter, a third and half of them.",
)
@click.option(
    "--rule",
    "names",
    type=Word(RULE_NAMES),
    multiple=True,
    help="A rule to try; may be repeated. Default: all.",
)
@lm_options
@file_option("--text", TEXT, required=True)
@output_file("Save the figures (JSON); `prune --plan` takes them.")
@json_option
@model_options
def rules(
    model: str,
    layers: tuple[tuple[int, ...], ...],
    names: tuple[str, ...],
    text: str,
    output: str | None,
    as_json: bool,
    **settings: Any,
) -> int:
    """Which rule chooses the layers of a causal LM best, from text alone.

    Prints the perplexity of every fifth line (at most 200) by layers removed
    and by rule, without healing; the rules look at the other lines. A rule
    that needs more text than there is is left out. --output is written after
    each plan, each row printed as soon as its rule is done. MODEL is a folder or a hub id, of the Llama or
    Qwen2 kind.
    """
    from speechllm.text_rules import compare_rules

    decoder, rows = load_lm(model, text, settings)
    sizes = [size for some in layers for size in some]
    how = settings["batch_size"], show_progress(as_json)
    told = functools.partial(_tell, output, as_json)
    report = compare_rules(decoder, rows, sizes, names, *how, told, tell)
    if as_json:
        print_json(report)
    return PARTLY if report["failed"] else 0


def _tell(output, as_json, report, name):
    """Save after each plan; print a row once its rule is done."""
    if output:
        from speechbrain_ext.runs.files import write_json

        write_json(output, report)
    for what in ("left_out", "failed"):
        if name in report[what]:
            why = report[what][name]
            tell(f"{name}: {what.replace('_', ' ')}: {why}")
    if name is None and report["plans"]:
        return
    if not as_json:
        click.echo(_row(report, name) if name else _head(report), nl=False)
        # A pipe would keep it until the last rule is done.
        sys.stdout.flush()


def _head(report):
    """The head of a table of perplexities by depth (Markdown)."""
    from speechllm.report.tables import markdown_table

    header = ["rule", f"0 of {report['layers']}", *report["sizes"]]
    return (
        f"{report['model']}: perplexity on {report['held_out_rows']} rows, "
        f"layers chosen on {report['rows']} others\n\n"
        f"{markdown_table(header, [])}"
    )


def _row(report, name):
    """One rule's perplexities; a dash where it could not choose."""
    from speechllm.report.tables import markdown_row

    plans = [plan for plan in report["plans"] if plan["rule"] == name]
    by_size = {len(plan["removed"]): plan["perplexity"] for plan in plans}
    cells = [
        f"{by_size[size]:.2f}" if size in by_size else "—"
        for size in report["sizes"]
    ]
    if plans and plans[0]["rows"] != report["rows"]:
        name += f" ({plans[0]['rows']} rows)"
    whole = f"{report['perplexity_before']:.2f}"
    return markdown_row([name, whole, *cells])
