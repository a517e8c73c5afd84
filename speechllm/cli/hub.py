"""``speechllm measure`` and ``prune`` where the model is a speech LLM."""

from __future__ import annotations

from typing import Any

import click

from speechllm.cli.common import options, show_progress

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
    """Whether a model is a speech LLM; refuses options that do not fit it."""
    from speechbrain_ext.layers.places import PLAIN
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


def data_of(
    speech: str | None, text: str | None, as_json: bool, settings: dict
) -> Any:
    """What a speech LLM is measured on."""
    from speechllm.hub.speech import Data

    limits = {n: settings[n] for n in ("batch_size", "context", "most")}
    return Data(speech, text, progress=show_progress(as_json), **limits)
