"""``speechllm measure`` and ``prune`` where the model is a speech LLM."""

from __future__ import annotations

import os
from typing import Any

import click

from speechllm.cli.common import (
    options,
    print_json,
    show_progress,
)
from speechllm.device import pick_device

speech_options = options(
    click.option(
        "--speech",
        type=click.Path(),
        help="Recordings for a speech LLM: a folder, or a table (Kaldi, NeMo, "
        "audiofolder, CSV) with their text.",
    ),
    click.option(
        "--prompt",
        help="What a speech LLM is asked, {speech} where the sound stands; by "
        "default its processor's own request.",
    ),
    click.option(
        "--most",
        type=click.IntRange(1),
        help="No more utterances than this, spread over all.",
    ),
)


def listens(model: str, speech: str | None, stream: bool | None) -> bool:
    """Whether a model is a speech LLM; refuses options that do not fit it.

    And what is neither that nor a causal LM.
    """
    from speechbrain_ext.layers.nested import PLAIN
    from speechbrain_ext.layers.surgery import source_place

    if source_place(model)[0] is not PLAIN:
        if stream:
            raise ValueError(
                f"{model}: a speech LLM is measured in memory, as a whole: "
                "leave out --stream"
            )
        return True
    if speech:
        raise ValueError(
            f"{model} is a causal LM and hears nothing: give --text alone, or "
            "a speech LLM (docs/hub-models.md lists the families)"
        )
    return False


def measure_hub(
    model: str,
    speech: str | None,
    text: str | None,
    output: str | None,
    picture: str | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Tables of a speech LLM, on speech and on text, and how they agree."""
    from speechllm.cli.layers import draw, print_table, table_about
    from speechllm.hub.tables import load_hub, measure_both

    hub = load_hub(
        model,
        pick_device(settings["device"]),
        settings["dtype"],
        settings["prompt"],
    )
    tables, agreement = measure_both(
        hub,
        speech,
        text,
        settings["batch_size"],
        settings["context"],
        settings["most"],
        settings["position"],
        show_progress(as_json),
    )
    for kind, table in tables.items():
        path = output
        if output and kind == "text" and len(tables) == 2:
            stem, ending = os.path.splitext(output)
            path = f"{stem}-text{ending}"
        if path:
            table.save(path)
    if picture:
        draw(list(tables.values()), picture)
    if as_json:
        told = {kind: table_about(table) for kind, table in tables.items()}
        print_json({**told, "agreement": agreement})
        return
    for table in tables.values():
        print_table(table)
        click.echo()
    if agreement:
        click.echo(
            "Speech and text: both paths remove "
            f"{agreement['overlap']:.0%} of their layers alike; correlation "
            f"of the distances {agreement['correlation']:.3f}, mean "
            f"difference {agreement['mean_difference']:.4f}."
        )


def prune_speech_llm(
    model: str,
    choice: Any,
    output: str,
    speech: str | None,
    text: str | None,
    heal: bool,
    overwrite: bool,
    as_json: bool,
    settings: dict[str, Any],
) -> None:
    """Write the smaller speech LLM; tell what it is."""
    from speechllm.cli.layers import print_table, table_about
    from speechllm.hub.prune import Data, prune_hub

    data = Data(
        speech,
        text,
        settings["batch_size"],
        settings["context"],
        settings["most"],
        show_progress(as_json),
    )
    report, table = prune_hub(
        model,
        choice,
        output,
        data,
        overwrite,
        heal,
        settings["dtype"],
        pick_device(settings["device"]),
        settings["prompt"],
    )
    if as_json:
        path = {"path": table_about(table)["path"]} if table else {}
        print_json({**report, **path, "output": output})
        return
    if table:
        print_table(table)
        click.echo()
    _tell_pruned(report, output)


def _tell_pruned(report, output):
    """What went, and what it did to the loss, for a person."""
    from speechbrain_ext.layers.removal import ranges

    click.echo(
        f"Removed layers {ranges(report['removed'])} of {report['layers']}."
    )
    losses = [
        f"{report[key]:.3f} {when}"
        for key, when in (
            ("loss_before", "before"),
            ("loss_after", "after"),
            ("loss_healed", "healed"),
        )
        if key in report
    ]
    if losses:
        click.echo(
            "Loss per target token (nats) on "
            f"{report['held_out_rows']} utterances not measured on: "
            f"{', '.join(losses)}."
        )
    click.echo(f"Wrote {output}, with its processor.")
