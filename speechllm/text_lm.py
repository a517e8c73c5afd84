"""Measure a causal LM with nothing but a text file.

The paper's cheap text-only pass, for any causal LM of the Llama or Qwen2
kind: no speech model is needed. A line of the file is a sequence; a line over
the context is cut.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import (
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.lm_calls import last_states
from speechbrain_ext.layers.residual import refuse_overflow, states_loss
from speechbrain_ext.layers.rules import (
    DEFAULT,
    RULES,
    check_size,
    choose_plans,
    find_rule,
)
from speechbrain_ext.layers.search import UTTERANCES, RuleData, text_labels
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.layers.weights import source_config
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
    revision: str | None = None,
    stream: bool | None = False,
    tell: Callable[[str], Any] = lambda line: None,
) -> Decoder | StreamedLM:
    """A causal LM with its tokenizer, of any origin.

    Held in memory, or with `stream` read a layer at a time; None: so where
    its weights do not fit, which is told.
    """
    dtype = dtype or stored_dtype(source, revision)
    if stream is None:
        size = Parts(source, DTYPES[dtype], device, revision).bytes
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
                source,
                dtype=dtype,
                device=device,
                revision=revision,
                attention=None,
            )
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
        return StreamedLM(source, dtype, device, revision, tokenizer)


def stored_dtype(source: str, revision: str | None = None) -> str:
    """The type of a model's weights, as its configuration says."""
    with quiet_loading():
        stored = getattr(source_config(source, revision), "dtype", None)
    stored = str(stored).removeprefix("torch.")
    return stored if stored in DTYPES else "float32"


def read_rows(
    path: str,
    tokenizer: PreTrainedTokenizerBase | Callable,
    context: int = 512,
) -> list[torch.Tensor]:
    """The rows of a text file, as token ids."""
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such text file")
    try:
        # Rows end at line feeds alone.
        with open(path, encoding="utf-8-sig", newline="\n") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not UTF-8 text ({error.reason} at byte "
            f"{error.start}): convert it (iconv -t utf-8)"
        ) from error
    rows = []
    for line in lines:
        ids = torch.tensor(tokenizer(line, verbose=False)["input_ids"])
        rows += [row for row in ids.split(context) if len(row) > 1]
    if not rows:
        raise ValueError(
            f"{path}: has no line of two tokens or more: give a text file "
            "with a sentence or a paragraph on each line"
        )
    return rows


def split_rows(rows: list, every: int = 5) -> tuple[list, list]:
    """Rows to measure on, and every fifth to judge by."""
    if len(rows) < 2:
        raise ValueError(
            "text: has one row only, and nothing to judge by: give a file "
            "with more lines"
        )
    every = min(every, len(rows))
    held_out = rows[every - 1 :: every]
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


def _about(decoder):
    """Where a measurement comes from (dict)."""
    name = os.path.basename(os.path.normpath(decoder.source))
    return {"model": name, "input": "text", "prompted": False}


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
    about = _about(decoder)
    if isinstance(decoder, StreamedLM):
        decoder.progress = progress
        return first_look(
            decoder,
            batches_of(measured, batch_size),
            batches_of(held_out, batch_size),
            about,
        )
    table = before = None
    if held_out:
        before = perplexity(decoder.lm, held_out, batch_size, progress)
    if measured:
        batches = batches_of(measured, batch_size, "Measuring", progress)
        table = measure(decoder, batches, provenance=about)
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
    data = RuleData(batches, _about(decoder), table)
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


def compare_rules(
    decoder: Decoder | StreamedLM,
    rows: list[torch.Tensor],
    sizes: Iterable[int] | None = None,
    rules: Iterable[str] | None = None,
    batch_size: int = 8,
    progress: bool = False,
    told: Callable[[dict, str | None], Any] = lambda report, rule: None,
) -> dict[str, Any]:
    """Perplexity without layers, by how many are removed and by which rule."""
    sizes = sorted(set(sizes or range(1, decoder.num_layers)))
    rules = list(dict.fromkeys(rules or RULES))
    for name in rules:
        find_rule(name)
    for size in sizes:
        check_size(size, decoder.num_layers)
    measured, held_out = split_rows(rows)

    def judged(plan=None):
        return perplexity_without(decoder, held_out, plan, batch_size, progress)

    report = {
        "model": _about(decoder)["model"],
        "layers": decoder.num_layers,
        "sizes": sizes,
        "rows": len(enough_of(measured, DEFAULT, decoder)),
        "held_out_rows": len(held_out),
        "perplexity_before": judged(),
        "plans": [],
        "left_out": {},
    }
    told(report, None)
    for name in rules:
        some = enough_of(measured, name, decoder)
        longest = max(sizes) if name == "block-influence-run" else 1
        data = rows_data(
            decoder, some, batch_size, progress=progress, longest=longest
        )
        try:
            for plan in choose_plans(name, decoder, data, sizes):
                found = {
                    "rule": plan.rule,
                    "removed": list(plan.layers),
                    "rows": data.sequences,
                    "perplexity": judged(plan),
                    "seconds": plan.about["seconds"],
                    "layer_passes": plan.about["layer_passes"],
                }
                report["plans"].append(found)
        except ValueError as error:
            # The other rules may well be able to.
            report["left_out"][name] = str(error)
        told(report, name)
    if not report["plans"]:
        why = "; ".join(f"{k}: {v}" for k, v in report["left_out"].items())
        raise ValueError(f"no rule could choose layers on this text ({why})")
    return report
