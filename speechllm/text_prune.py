"""A smaller causal LM: which layers go, what a map takes back, and the copy."""

from __future__ import annotations

import functools
import os
import re
from dataclasses import dataclass
from typing import Any

import torch

from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.rules import DEFAULT, check_size, find_rule
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.folders import whole_folder
from speechllm.saved import check_target
from speechllm.streamed.check import check_runs
from speechllm.streamed.copy import Exchanged, write_pruned
from speechllm.streamed.walk import StreamedLM
from speechllm.text_lm import (
    batches_of,
    enough_of,
    look,
    perplexity_without,
    rows_data,
    split_rows,
    stored_dtype,
)
from speechllm.text_rules import best_plan, is_comparison, only_size

# What a pruned folder says of itself.
PRUNING = "pruning.json"


@dataclass(frozen=True)
class Choice:
    """How the layers that go are chosen, one of three ways."""

    # How many; by the rule, or on a file's path.
    size: int | None = None
    # See `speechbrain_ext.layers.rules`; None: the paper's.
    rule: str | None = None
    # A file of plans, a redundancy table, or what `rules` found; of the last,
    # the rule's plan if one is given, or the best.
    plan: str | None = None
    layers: tuple[int, ...] | None = None

    @property
    def needs_text(self) -> bool:
        """Whether they are chosen by looking at a text."""
        by_rule = self.layers is None and self.plan is None
        return by_rule and find_rule(self.rule or DEFAULT).needs is not None


def read_layers(text: str) -> tuple[int, ...]:
    """Layers as a person writes them: ``20-26`` or ``3,5,9`` or both."""
    layers: list[int] = []
    for part in text.split(","):
        found = re.fullmatch(r"\s*(\d+)\s*(?:-\s*(\d+)\s*)?", part)
        if not found:
            raise ValueError(
                f"--plan: {part!r} of {text!r} is no layer, and there is no "
                "such file: give a file, or layers counted from 0 as 3-6 or "
                "3,5,9"
            )
        first, last = int(found[1]), int(found[2] or found[1])
        if last < first:
            raise ValueError(f"--plan: {part!r} runs backwards")
        layers += range(first, last + 1)
    twice = sorted({layer for layer in layers if layers.count(layer) > 1})
    if twice:
        raise ValueError(f"--plan: {text!r} names layer {twice[0]} twice")
    return tuple(sorted(layers))


def prune(
    decoder: Decoder | StreamedLM,
    choice: Choice,
    folder: str,
    rows: list[torch.Tensor] | None = None,
    batch_size: int = 8,
    overwrite: bool = False,
    progress: bool = False,
    heal: bool = False,
    dtype: str | None = None,
) -> tuple[dict[str, Any], RedundancyTable | None]:
    """Write a causal LM without some layers as a plain one.

    With rows of text the perplexity before and after is told; `heal` folds a
    closed-form map in at each gap. The weights are copied as they are stored,
    unless another `dtype` is wanted.
    """
    check_target(folder, PRUNING, overwrite)
    measured, held_out = split_rows(rows) if rows else ([], [])
    if choice.needs_text and not rows:
        raise ValueError(
            f"rule {choice.rule or DEFAULT} looks at a text: give --text"
        )
    if heal and not rows:
        raise ValueError("a map is fitted on text: give --text")
    report, table, removed = _choose(
        decoder, choice, measured, held_out, batch_size, progress
    )
    exchanged: Exchanged = {}
    after = functools.partial(
        perplexity_without,
        rows=held_out,
        removed=removed,
        batch_size=batch_size,
        progress=progress,
    )
    if held_out:
        report["perplexity_after"] = after(decoder)
        report["held_out_rows"] = len(held_out)
    if heal:
        told, healed = _heal(decoder, removed, measured, batch_size, progress)
        report["healing"] = told
        report["perplexity_healed"] = after(healed)
        exchanged = healed.exchanged
    wanted = DTYPES[dtype] if dtype else None
    if dtype == stored_dtype(decoder.source):
        wanted = None
    with whole_folder(folder) as unfinished:
        write_pruned(
            decoder.source,
            removed,
            unfinished,
            decoder.tokenizer,
            wanted,
            exchanged,
            check=functools.partial(
                check_runs, decoder, removed, unfinished, exchanged
            ),
        )
        write_json(os.path.join(unfinished, PRUNING), report)
    return report, table


def _choose(decoder, choice, measured, held_out, batch_size, progress):
    """What is known before, the table if one was made, and what goes."""
    layers, table = decoder.num_layers, None
    report: dict[str, Any] = {
        "model": os.path.basename(os.path.normpath(decoder.source)),
        "layers": layers,
    }
    size, rule = choice.size, choice.rule or DEFAULT
    by_table = choice.needs_text and rule == DEFAULT
    removed = known(choice, layers, report)
    if removed is None and measured and not by_table:
        measured = enough_of(measured, rule, decoder)
    looked_at = measured if by_table else []
    if looked_at or held_out:
        table, before = look(decoder, looked_at, held_out, batch_size, progress)
        if held_out:
            report["perplexity_before"] = before
    if removed is None:
        longest = size if rule == "block-influence-run" else 1
        data = rows_data(
            decoder, measured, batch_size, table, progress, longest
        )
        removed = find_rule(rule)(decoder, data, size)
        report["rule"] = rule
        report["distance" if table else "value"] = removed.value
        report["measured_rows"] = len(measured)
    report["removed"] = list(removed)
    report["kept_layers"] = list(removed.kept)
    return report, table, removed


def known(choice: Choice, layers: int, report: dict[str, Any]) -> Any:
    """The layers, where they are named or stand in a file, which is told of."""
    if choice.layers is not None:
        return Removal.of(choice.layers, layers)
    size: Any = choice.size
    if choice.plan is None:
        check_size(size, layers)
        return None
    size = size or only_size(choice.plan)
    where = choice.plan, size, layers, report["model"]
    if is_comparison(choice.plan):
        block, about = best_plan(*where, choice.rule)
    else:
        # SpeechBrain comes with it: a second that known layers need not wait.
        from speechbrain_ext.training.choose_layers import read_path

        block, about = read_path(*where)
    report |= {"plan": about["file"], "rule": about["rule"]}
    return Removal.of(block, layers)


def _heal(decoder, removed, rows, batch_size, progress):
    """What the maps were, and the streamed model that has them folded in."""
    # PEFT comes with them, and takes seconds.
    from speechbrain_ext.healing.presets import PARTS
    from speechllm.streamed.maps import fold_streamed_maps

    healed = decoder
    if not isinstance(decoder, StreamedLM):
        name = str(decoder.dtype).removeprefix("torch.")
        healed = StreamedLM(decoder.source, name, decoder.device)
    healed.progress = progress
    # Fitted and chosen on rows that the perplexity is not told of.
    fitting, judging = split_rows(rows)
    maps = fold_streamed_maps(
        healed,
        Removal.of(removed, healed.num_layers),
        batches_of(fitting, batch_size),
        batches_of(judging, batch_size),
        PARTS["map"]["ridge"],
    )
    told = {str(place): one.told() for place, one in maps.items()}
    return {"map": told, "rows": len(fitting)}, healed
