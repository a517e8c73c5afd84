"""``speechllm prune``: a smaller causal LM."""

from __future__ import annotations

from typing import Any

import click

from speechllm.cli.common import (
    command,
    file_option,
    json_option,
    model_options,
    print_json,
    quiet,
    show_progress,
)
from speechllm.cli.hub import listens, prune_speech_llm, speech_options
from speechllm.cli.layers import (
    TEXT,
    lm_options,
    load_lm,
    print_table,
    table_about,
)


@command(
    "speechllm prune Qwen/Qwen2.5-1.5B --layers 4 "
    "--text lines.txt --output smaller",
    "speechllm prune ./llama --layers 4 --rule greedy-layers "
    "--text lines.txt --output spread",
    "speechllm prune ./llama --drop 20-26 --output smaller",
    "speechllm prune ./llama --layers 4 --text lines.txt --heal map "
    "--output healed",
    "speechllm prune Qwen/Qwen2-Audio-7B --layers 8 --speech clips.csv "
    "--heal map --output smaller",
)
@click.option(
    "--layers", type=click.IntRange(1), help="How many layers to remove."
)
@click.option(
    "--rule",
    default="angular",
    show_default=True,
    help="How they are chosen; `speechllm rules` compares all that there are.",
)
@file_option("--plan", "Choose by a table or plans measured before (JSON).")
@click.option("--drop", help="Remove these: 20-26, or 3,5,9, from 0.")
@click.option(
    "--heal",
    type=click.Choice(["map"]),
    help="Fold a closed-form map, fitted on the data, in at each gap.",
)
@lm_options
@speech_options
@file_option("--text", TEXT)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False),
    help="Folder for the smaller model.",
)
@click.option(
    "--overwrite", is_flag=True, help="Replace an earlier pruned model."
)
@json_option
@model_options
def prune(
    model: str,
    layers: int | None,
    rule: str,
    plan: str | None,
    drop: str | None,
    heal: str | None,
    speech: str | None,
    text: str | None,
    output: str,
    overwrite: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Remove layers from a causal LM or a speech LLM; save a smaller one.

    The most redundant --layers are chosen by a rule on four fifths of the
    text; the perplexity before and after is that of the rest. With --plan or
    --drop the layers are known, and a text only tells the perplexity. The
    weights are copied from file to file. MODEL is a folder or a hub id; of a
    speech LLM the decoder's layers go, chosen on --speech.
    """
    quiet()
    from speechllm.text_prune import Choice, prune, read_layers

    if (drop is not None) + (plan is not None or layers is not None) != 1:
        raise click.UsageError(
            "say which layers go, in one way: --layers, --plan or --drop"
        )
    named = None if drop is None else read_layers(drop)
    choice = Choice(layers, rule, plan, named)
    if listens(model, speech, settings["stream"]):
        prune_speech_llm(
            model,
            choice,
            output,
            speech,
            text,
            heal is not None,
            overwrite,
            as_json,
            settings,
        )
        return
    for option, wants in (
        (choice.needs_text, f"rule {rule}"),
        (heal, "--heal"),
    ):
        if option and not text:
            raise click.UsageError(f"{wants} looks at a text: give --text")
    decoder, rows = load_lm(model, text, settings)
    report, table = prune(
        decoder,
        choice,
        output,
        rows,
        settings["batch_size"],
        overwrite,
        show_progress(as_json),
        heal is not None,
        settings["dtype"],
    )
    report["output"] = output
    if as_json:
        path = {"path": table_about(table)["path"]} if table else {}
        print_json({**report, **path})
        return
    if table:
        print_table(table)
        click.echo()
    _tell_pruned(report)


def _tell_pruned(report):
    """What went, and what it did to the perplexity, for a person."""
    from speechbrain_ext.layers.removal import ranges

    why = f" (rule {report['rule']})" if "rule" in report else ""
    if "distance" in report:
        why = f" (angular distance {report['distance']:.4f})"
    click.echo(
        f"Removed layers {ranges(report['removed'])} of "
        f"{report['layers']}{why}."
    )
    if "perplexity_after" in report:
        told = [
            f"{report[key]:.2f} {when}"
            for key, when in (
                ("perplexity_before", "before"),
                ("perplexity_after", "after"),
                ("perplexity_healed", "healed"),
            )
            if key in report
        ]
        click.echo(
            f"Perplexity on {report['held_out_rows']} rows not measured on: "
            f"{', '.join(told)}."
        )
    output = report["output"]
    click.echo(
        f"Wrote {output}: AutoModelForCausalLM.from_pretrained({output!r})"
    )
