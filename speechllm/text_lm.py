"""Measure a causal LM with nothing but a text file.

The paper's cheap text-only pass, for any causal LM of the Llama or Qwen2
kind: no speech model is needed. A line of the file is a sequence; a line over
the context is cut.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.lm_calls import last_states
from speechbrain_ext.layers.residual import refuse_overflow
from speechbrain_ext.layers.rules import find_rule
from speechbrain_ext.layers.search import UTTERANCES, RuleData, text_labels
from speechbrain_ext.layers.streams import states_loss
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.layers.weights import load_tokenizer, source_config
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.quiet import quiet_loading
from speechllm.streamed.memory import fits, free_memory
from speechllm.streamed.parts import Parts
from speechllm.streamed.score import Walks, first_look, streamed_perplexity
from speechllm.streamed.walk import StreamedLM


def load_text_model(
    source: str,
    dtype: str | None = None,
    device: str = "cpu",
    stream: bool | None = False,
    tell: Callable[[str], Any] = lambda line: None,
) -> Decoder | StreamedLM:
    """A causal LM with its tokenizer, of any origin.

    Held in memory, or with `stream` read a layer at a time; None: so where
    its weights do not fit, which is told.
    """
    dtype = dtype or stored_dtype(source)
    if stream is None:
        size = Parts(source, DTYPES[dtype], device).bytes
        stream = not fits(size, device)
        if stream:
            free = free_memory(device)
            tell(
                f"{source}: {size / 1e9:.1f} GB of weights, and "
                f"{free / 1e9:.1f} GB of memory are free: reading a layer at "
                "a time"
            )
    with quiet_loading():
        if not stream:
            return Decoder.from_source(
                source, dtype=dtype, device=device, attention=None
            )
        return StreamedLM(source, dtype, device, load_tokenizer(source))


def stored_dtype(source: str, config: Any = None) -> str:
    """The type of a model's weights, as its configuration says."""
    with quiet_loading():
        config = config or source_config(source)
    stored = str(getattr(config, "dtype", None)).removeprefix("torch.")
    return stored if stored in DTYPES else "float32"


def check_text(path: str) -> None:
    """Refuse a text that is not there; "-" is standard input."""
    if path != "-" and not os.path.exists(path):
        raise FileNotFoundError(f"{path}: no such text file")
    if os.path.isdir(path):
        raise ValueError(f"{path}: is a folder: give a text file")


def read_rows(
    path: str,
    tokenizer: PreTrainedTokenizerBase | Callable,
    context: int = 512,
) -> list[torch.Tensor]:
    """The rows of a text file, or of standard input, as token ids."""
    check_text(path)
    try:
        if path == "-":
            content = sys.stdin.buffer.read()
        else:
            # Also what is no plain file: a pipe, a named one.
            with open(path, "rb") as stream:
                content = stream.read()
        # Rows end at line feeds alone.
        lines = content.decode("utf-8-sig").split("\n")
        lines = [line.strip() for line in lines if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not UTF-8 text ({error.reason} at byte "
            f"{error.start}): convert it (iconv -t utf-8)"
        ) from error
    rows = rows_of(lines, tokenizer, context)
    if not rows:
        raise ValueError(
            f"{path}: has no line of two tokens or more: give a text file "
            "with a sentence or a paragraph on each line"
        )
    return rows


def rows_of(
    lines: Iterable[str],
    tokenizer: PreTrainedTokenizerBase | Callable,
    context: int = 512,
) -> list[torch.Tensor]:
    """Lines as rows of token ids, those of one token left out."""
    rows: list[torch.Tensor] = []
    for line in lines:
        ids = torch.tensor(tokenizer(line, verbose=False)["input_ids"])
        rows += [row for row in ids.split(context) if len(row) > 1]
    return rows


def split_rows(rows: list, every: int = 5) -> tuple[list, list]:
    """Rows to measure on, and some of every fifth to judge by."""
    if len(rows) < 2:
        raise ValueError(
            "text: has one row only, and nothing to judge by: give a file "
            "with more lines"
        )
    every = min(every, len(rows))
    held_out = rows[every - 1 :: every]
    # More would take longer, and say the same.
    held_out = held_out[:: -(-len(held_out) // UTTERANCES)]
    measured = [row for i, row in enumerate(rows) if (i + 1) % every]
    return measured, held_out


def batches_of(
    rows: list[torch.Tensor],
    batch_size: int,
    name: str = "",
    progress: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """Rows as padded batches, longest first."""
    rows = sorted(rows, key=len, reverse=True)
    starts = range(0, len(rows), batch_size)
    for first in tqdm(starts, name, disable=not progress, leave=False):
        part = rows[first : first + batch_size]
        mask = [torch.ones(len(row), dtype=torch.long) for row in part]
        yield {
            "input_ids": pad_sequence(part, batch_first=True),
            "attention_mask": pad_sequence(mask, batch_first=True),
        }


@torch.no_grad()
def perplexity(
    lm: PreTrainedModel,
    rows: list[torch.Tensor],
    batch_size: int = 8,
    progress: bool = False,
) -> float:
    """Perplexity of a causal LM on rows of text."""
    lm.eval()
    device = lm.lm_head.weight.device
    loss, count = 0.0, 0
    for batch in batches_of(rows, batch_size, "Perplexity", progress):
        ids_BQ, mask_BQ = (value.to(device) for value in batch.values())
        h_BQD = last_states(lm, input_ids=ids_BQ, attention_mask=mask_BQ)
        wanted = mask_BQ[:, 1:].bool()
        h_ND, labels_N = h_BQD[:, :-1][wanted], ids_BQ[:, 1:][wanted]
        loss += states_loss(lm, h_ND, labels_N).item()
        count += len(labels_N)
    refuse_overflow([loss], "loss on the text")
    # A mean loss over 700 has no float for its exp; it is no language either.
    return math.exp(min(loss / count, 700.0))


def perplexity_without(
    decoder: Decoder | StreamedLM,
    rows: list[torch.Tensor],
    removed: Iterable[int] | None = None,
    batch_size: int = 8,
    progress: bool = False,
) -> float:
    """Perplexity on rows of text without some layers."""
    if isinstance(decoder, StreamedLM):
        decoder.progress = progress
        batches = batches_of(rows, batch_size)
        return streamed_perplexity(decoder, batches, removed)
    lm = drop_layers(decoder.lm, removed) if removed else decoder.lm
    return perplexity(lm, rows, batch_size, progress)


def about(decoder: Decoder | StreamedLM, kind: str = "text") -> dict[str, Any]:
    """Where a measurement comes from: on text, or on speech behind a prompt."""
    name = os.path.basename(os.path.normpath(decoder.source))
    return {"model": name, "input": kind, "prompted": kind == "speech"}


def measure_rows(
    decoder: Decoder | StreamedLM,
    rows: list[torch.Tensor],
    batch_size: int = 8,
    progress: bool = False,
) -> RedundancyTable:
    """Redundancy table of a causal LM on rows of text."""
    return look(decoder, rows, [], batch_size, progress)[0]


def look(
    decoder: Decoder | StreamedLM,
    measured: list[torch.Tensor],
    held_out: list[torch.Tensor],
    batch_size: int = 8,
    progress: bool = False,
) -> tuple[Any, Any]:
    """The redundancy table of some rows, and the perplexity of others.

    Either is None where there are no rows for it.
    """
    provenance = about(decoder)
    if isinstance(decoder, StreamedLM):
        decoder.progress = progress
        return first_look(
            decoder,
            batches_of(measured, batch_size),
            batches_of(held_out, batch_size),
            provenance,
        )
    table = before = None
    if held_out:
        before = perplexity(decoder.lm, held_out, batch_size, progress)
    if measured:
        batches = batches_of(measured, batch_size, "Measuring", progress)
        table = measure(decoder, batches, provenance=provenance)
    return table, before


def rows_data(
    decoder: Decoder | StreamedLM,
    rows: list[torch.Tensor],
    batch_size: int = 8,
    table: RedundancyTable | None = None,
    progress: bool = False,
    longest: int = 1,
) -> RuleData:
    """Rows of text as the rules of removal plans take them."""
    batches = [
        {**batch, "labels": text_labels(*batch.values())}
        for batch in batches_of(rows, batch_size)
    ]
    data = RuleData(batches, about(decoder), table)
    data.progress = progress
    if isinstance(decoder, StreamedLM):
        decoder.progress = progress
        data.elsewhere = Walks(decoder, longest)
    return data


def enough_of(rows: list, rule: str, decoder: Decoder | StreamedLM) -> list:
    """No more rows than a rule needs, spread over all."""
    wanted = find_rule(rule).positions
    least = wanted(decoder) if wanted else 0
    step = -(-len(rows) // UTTERANCES)
    while step > 1 and sum(map(len, rows[::step])) < least:
        step -= 1
    return rows[::step]
