"""``speechllm prune``: a smaller causal LM."""

from __future__ import annotations

import os
from typing import Any

import click

from speechllm.cli.common import (
    Earlier,
    Word,
    command,
    file_option,
    flag,
    json_option,
    model_options,
    output_folder,
    print_json,
    show_progress,
)
from speechllm.cli.hub import data_of, listens, speech_options
from speechllm.cli.layers import (
    RULE_NAMES,
    TEXT,
    lm_options,
    load_lm,
    print_table,
    table_about,
)
from speechllm.device import pick_device

# What a pruned model is judged by, and how that is told.
LM = (
    *("perplexity", "Perplexity", "rows", 2),
    ": AutoModelForCausalLM.from_pretrained({!r})",
)
SPEECH_LLM = (
    *("loss", "Loss per target token (nats)", "utterances", 3),
    ", with its processor.",
)


@command(
    "speechllm prune Qwen/Qwen2.5-1.5B --layers 4 "
    "--text lines.txt --output smaller",
    "speechllm prune ./llama --layers 4 --rule greedy-layers "
    "--text lines.txt --output spread",
    "speechllm prune ./llama --plan 20-26 --output smaller",
    "speechllm prune ./llama --plan rules.json --layers 4 --output smaller",
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
    type=Word(RULE_NAMES),
    help="How they are chosen, by default angular; `speechllm rules` compares "
    "all that there are.",
)
@click.option(
    "--plan",
    metavar="FILE|3-6|3,5,9",
    help="Which layers: a file that `measure`, `rules` or a recipe's "
    "measure.py wrote, or their numbers, counted from 0.",
)
@click.option("--drop", cls=Earlier, instead="--plan")
@click.option(
    "--heal",
    type=click.Choice(["map"]),
    help="Fold a closed-form map, fitted on the data, in at each gap.",
)
@lm_options
@speech_options
@file_option("--text", TEXT)
@output_folder("Folder for the smaller model.", required=True)
@flag("--overwrite", "Replace an earlier pruned model.")
@json_option
@model_options
def prune(
    model: str,
    layers: int | None,
    rule: str | None,
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
    text; the perplexity before and after is that of the rest. With --plan the
    layers are known, and a text only tells the perplexity. The
    weights are copied from file to file. MODEL is a folder or a hub id; of a
    speech LLM the decoder's layers go, chosen on --speech.
    """
    from speechllm.saved import check_target
    from speechllm.text_prune import PRUNING, prune

    choice = _choice(layers, rule, plan if drop is None else drop)
    common: dict[str, Any] = {"overwrite": overwrite, "heal": bool(heal)}
    common["dtype"] = settings["dtype"]
    hears = listens(model, speech, settings["stream"])
    if not hears:
        _check_text(choice, rule, heal, text)
    check_target(output, PRUNING, overwrite)
    if hears:
        from speechllm.hub.prune import prune_hub

        report, table = prune_hub(
            model,
            choice,
            output,
            data_of(speech, text, as_json, settings),
            device=pick_device(settings["device"]),
            words=settings["prompt"],
            **common,
        )
    else:
        decoder, rows = load_lm(model, text, settings)
        report, table = prune(
            decoder,
            choice,
            output,
            rows,
            settings["batch_size"],
            progress=show_progress(as_json),
            **common,
        )
    if as_json:
        path = {"path": table_about(table)["path"]} if table else {}
        print_json({**report, "output": output, **path})
        return
    if table:
        print_table(table)
        click.echo()
    _tell_pruned(report, output, *(SPEECH_LLM if hears else LM))


def _choice(layers, rule, plan):
    """Which layers go: so many by a rule, by a file, or these."""
    from speechllm.text_prune import Choice, read_layers

    if plan is None:
        if layers is None:
            raise click.UsageError(
                "say which layers go: --layers N, or --plan FILE, 3-6 or 3,5,9"
            )
        return Choice(layers, rule)
    if os.path.exists(plan):
        return Choice(layers, rule, plan)
    if layers is not None or rule is not None:
        raise click.UsageError(
            "--plan names the layers already: leave --layers and --rule out"
        )
    return Choice(layers=read_layers(plan))


def _check_text(choice, rule, heal, text):
    """Refuse what wants a text and has none, before anything loads."""
    for option, wants in (
        (choice.needs_text, f"rule {rule or 'angular'}"),
        (heal, "--heal"),
    ):
        if option and not text:
            raise click.UsageError(f"{wants} looks at a text: give --text")


def _tell_pruned(report, output, measure, title, rows, digits, how_to_load):
    """What went, and what it did to a measure, for a person."""
    from speechbrain_ext.layers.removal import ranges

    why = ""
    if measure == "perplexity" and "distance" in report:
        why = f" (angular distance {report['distance']:.4f})"
    elif measure == "perplexity" and "rule" in report:
        why = f" (rule {report['rule']})"
    click.echo(
        f"Removed layers {ranges(report['removed'])} of "
        f"{report['layers']}{why}."
    )
    told = [
        f"{report[f'{measure}_{when}']:.{digits}f} {when}"
        for when in ("before", "after", "healed")
        if f"{measure}_{when}" in report
    ]
    if told:
        click.echo(
            f"{title} on {report['held_out_rows']} {rows} not measured on: "
            f"{', '.join(told)}."
        )
    click.echo(f"Wrote {output}{how_to_load.format(output)}")
