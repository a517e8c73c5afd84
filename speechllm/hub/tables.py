"""Which decoder layers of a hub model are redundant, on speech and on text."""

from __future__ import annotations

from speechbrain_ext.layers.distances import RedundancyTable, compare, measure
from speechbrain_ext.layers.nested import PLAIN
from speechbrain_ext.layers.surgery import source_place
from speechbrain_ext.model.decoder import DTYPES
from speechllm.hub.model import HubModel
from speechllm.hub.speech import Data, Utterance, as_batch, has_text
from speechllm.text_lm import about, measure_rows


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


def measure_speech(
    hub: HubModel,
    utterances: list[Utterance],
    data: Data,
    position: str | None = None,
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
    batches = map(as_batch, data.heard(hub, utterances, "Measuring"))
    from_where = about(hub.decoder, "speech")
    return measure(
        hub.decoder, batches, position=position, provenance=from_where
    )


def measure_both(
    hub: HubModel, data: Data, position: str | None = None
) -> tuple[dict[str, RedundancyTable], dict | None]:
    """The tables on speech and on text, and how much they agree."""
    tables: dict[str, RedundancyTable] = {}
    # What is wrong with either is told before anything long.
    utterances, rows = data.utterances(), data.rows(hub)
    if utterances:
        tables["speech"] = measure_speech(hub, utterances, data, position)
    if rows:
        tables["text"] = measure_rows(
            hub.decoder, rows, data.batch_size, data.progress
        )
    agreement = None
    if len(tables) == 2:
        agreement = compare(tables["speech"], tables["text"])
    return tables, agreement
