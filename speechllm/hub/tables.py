"""Which decoder layers of a hub model are redundant, on speech and on text."""

from __future__ import annotations

import os
from typing import Any

from speechbrain_ext.layers.agreement import compare
from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.places import PLAIN
from speechbrain_ext.layers.surgery import source_place
from speechbrain_ext.model.decoder import DTYPES
from speechllm.hub.model import HubModel
from speechllm.hub.speech import (
    Utterance,
    as_batch,
    has_text,
    read_speech,
    sequences,
)
from speechllm.text_lm import batches_of, read_rows


def is_speech_llm(source: str, revision: str | None = None) -> bool:
    """Whether a source is a speech LLM; refuses what is none and no LM."""
    return source_place(source, revision)[0] is not PLAIN


def hub_dtype(source: str, revision: str | None = None) -> str:
    """The type of a speech LLM's weights, as its configuration says."""
    config = source_place(source, revision)[1]
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return stored if stored in DTYPES else "float32"


def load_hub(
    source: str, device: str, dtype: str | None = None, words: str | None = None
) -> HubModel:
    """A speech LLM in the type that it is stored in."""
    dtype = dtype or hub_dtype(source)
    return HubModel.from_source(source, None, dtype, device, words=words)


def about(hub: HubModel, kind: str) -> dict[str, Any]:
    """Where a measurement comes from."""
    name = os.path.basename(os.path.normpath(hub.decoder.source))
    return {"model": name, "input": kind, "prompted": kind == "speech"}


def measure_speech(
    hub: HubModel,
    utterances: list[Utterance],
    batch_size: int = 8,
    position: str | None = None,
    progress: bool = False,
) -> RedundancyTable:
    """The table on speech, behind the model's own prompt.

    At the last token of what is said where that is known, or else of the
    prompt.
    """
    told = has_text(utterances)
    position = position or ("target" if told else "prompt")
    if position == "target" and not told:
        raise ValueError(
            "position: target, but the recordings have no text: give a table "
            "with their text, or --position prompt"
        )
    heard = sequences(hub, utterances, batch_size, "Measuring", progress)
    batches = map(as_batch, heard)
    return measure(
        hub.decoder,
        batches,
        position=position,
        provenance=about(hub, "speech"),
    )


def measure_both(
    hub: HubModel,
    speech: str | None,
    text: str | None,
    batch_size: int = 8,
    context: int = 512,
    most: int | None = None,
    position: str | None = None,
    progress: bool = False,
) -> tuple[dict[str, RedundancyTable], dict | None]:
    """The tables on speech and on text, and how much they agree."""
    tables: dict[str, RedundancyTable] = {}
    # What is wrong with either is told before anything long.
    utterances = read_speech(speech, most) if speech else None
    rows = read_rows(text, hub.prompt.spell, context) if text else None
    if utterances:
        tables["speech"] = measure_speech(
            hub, utterances, batch_size, position, progress
        )
    if rows:
        batches = batches_of(rows, batch_size, "Measuring", progress)
        tables["text"] = measure(
            hub.decoder, batches, provenance=about(hub, "text")
        )
    agreement = None
    if len(tables) == 2:
        agreement = compare(tables["speech"], tables["text"])
    return tables, agreement
