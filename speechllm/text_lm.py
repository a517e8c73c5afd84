"""Measure a causal LM with nothing but a text file.

The paper's cheap text-only pass, for any causal LM of the Llama or Qwen2
kind: no speech model is needed. A line of the file is a sequence; a line over
the context is cut.
"""

import math
import os
import shutil
import uuid

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm
from transformers import AutoModelForCausalLM

from speechbrain_ext.layers.distances import measure
from speechbrain_ext.layers.lm_calls import last_states
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.residual import refuse_overflow, states_loss
from speechbrain_ext.layers.rules import (
    DEFAULT,
    RULES,
    choose_plans,
    find_rule,
)
from speechbrain_ext.layers.saved_lm import save_causal_lm
from speechbrain_ext.layers.search import UTTERANCES, RuleData, text_labels
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import DTYPES, Decoder, decoder_config
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import write_json


def load_text_model(source, dtype=None, device="cpu", revision=None):
    """A causal LM with its tokenizer, of any origin."""
    with quiet_loading():
        if dtype is None:
            stored = getattr(decoder_config(source, revision), "dtype", None)
            stored = str(stored).removeprefix("torch.")
            dtype = stored if stored in DTYPES else "float32"
        decoder = Decoder.from_source(
            source, dtype=dtype, device=device, revision=revision
        )
    return decoder


def read_rows(path, tokenizer, context=512):
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


def split_rows(rows, every=5):
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


def batches_of(rows, batch_size, name="", progress=False):
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
def perplexity(lm, rows, batch_size=8, progress=False):
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


def measure_rows(decoder, rows, batch_size=8, progress=False):
    """Redundancy table of a causal LM on rows of text."""
    return measure(
        decoder,
        batches_of(rows, batch_size, "Measuring", progress),
        provenance={
            "model": os.path.basename(os.path.normpath(decoder.source)),
            "input": "text",
            "prompted": False,
        },
    )


# ----------------------------------------------------------------------------
# Prune a causal LM with nothing but a text file, and save a plain smaller LM.

PRUNING = "pruning.json"


def prune_with_text(
    decoder,
    rows,
    size,
    folder,
    batch_size=8,
    overwrite=False,
    progress=False,
    rule=DEFAULT,
):
    """Remove the most redundant layers and save what is left as a plain LM."""
    Removal.of(range(size), decoder.num_layers)
    _check_target(folder, overwrite)
    measured, held_out = split_rows(rows)
    before = perplexity(decoder.lm, held_out, batch_size, progress)
    table = None
    if rule == DEFAULT:
        table = measure_rows(decoder, measured, batch_size, progress)
    else:
        measured = enough_of(measured, rule, decoder)
    data = rows_data(decoder, measured, batch_size, table)
    data.progress = progress
    plan = find_rule(rule)(decoder, data, size)
    lm = drop_layers(decoder.lm, plan)
    report = {
        "model": plan.model,
        "rule": rule,
        "layers": decoder.num_layers,
        "removed": list(plan.layers),
        "kept_layers": list(plan.kept),
        "distance" if table else "value": plan.value,
        "perplexity_before": before,
        "perplexity_after": perplexity(lm, held_out, batch_size, progress),
        "measured_rows": len(measured),
        "held_out_rows": len(held_out),
    }
    _save_checked(lm, decoder.tokenizer, report, folder)
    return report, table


def enough_of(rows, rule, decoder):
    """No more rows than a rule needs, spread over all."""
    wanted = find_rule(rule).positions
    step = -(-len(rows) // UTTERANCES)
    some = rows[::step]
    least = wanted(decoder) if wanted else 0
    while step > 1 and sum(map(len, some)) < least:
        step -= 1
        some = rows[::step]
    return some


def rows_data(decoder, rows, batch_size=8, table=None):
    """Rows of text as the rules of removal plans take them."""
    about = {"input": "text", "prompted": False}
    about["model"] = os.path.basename(os.path.normpath(decoder.source))
    batches = [
        {
            **batch,
            "labels": text_labels(batch["input_ids"], batch["attention_mask"]),
        }
        for batch in batches_of(rows, batch_size)
    ]
    return RuleData(batches, about, table)


def _check_target(folder, overwrite):
    if not os.path.exists(folder):
        return
    if not os.path.isdir(folder):
        raise ValueError(f"{folder}: is a file: give another name")
    ours = os.path.isfile(os.path.join(folder, PRUNING))
    if os.listdir(folder) and not (overwrite and ours):
        raise ValueError(
            f"{folder}: is there already and not empty: give another folder"
            + (", or --overwrite" if ours else "")
        )


def _save_checked(lm, tokenizer, report, folder):
    """Write beside the place, load with transformers, compare, rename."""
    folder = os.path.normpath(folder)
    os.makedirs(os.path.dirname(os.path.abspath(folder)), exist_ok=True)
    unfinished = f"{folder}.unfinished-{uuid.uuid4().hex[:8]}"
    try:
        with quiet_loading():
            save_causal_lm(lm, tokenizer, unfinished)
            write_json(os.path.join(unfinished, PRUNING), report)
            check_saved(lm, unfinished)
        if os.path.isdir(folder):
            shutil.rmtree(folder)
        os.rename(unfinished, folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise


@torch.no_grad()
def check_saved(lm, folder):
    """Refuse a saved causal LM that is not the one in memory."""
    saved, report = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=lm.dtype,
        output_loading_info=True,
        trust_remote_code=False,
    )
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    if wrong:
        raise ValueError(f"{folder}: {wrong[0]} is missing or too much")
    saved = saved.to(lm.device).eval()
    ids = torch.arange(8, device=lm.device)[None] % lm.config.vocab_size
    a, b = (one(input_ids=ids).logits for one in (lm, saved))
    options = dict(
        attention_mask=torch.ones_like(ids),
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=0,
    )
    said = [one.generate(input_ids=ids, **options) for one in (lm, saved)]
    if not torch.equal(a, b) or not torch.equal(*said):
        raise ValueError(
            f"{folder}: what was saved differs from what was pruned: nothing "
            "was kept"
        )


# ----------------------------------------------------------------------------
# Which rule chooses the layers of a causal LM best, with nothing but text.


def compare_rules(
    decoder,
    rows,
    sizes=None,
    rules=None,
    batch_size=8,
    progress=False,
    told=None,
):
    """Perplexity without layers, by how many are removed and by which rule."""
    sizes = sorted(set(sizes or range(1, decoder.num_layers)))
    rules = list(dict.fromkeys(rules or RULES))
    for name in rules:
        find_rule(name)
    for size in sizes:
        Removal.of(range(size), decoder.num_layers)
    measured, held_out = split_rows(rows)
    judge = _Judge(decoder, held_out, batch_size, progress)
    report = {
        "model": rows_data(decoder, []).about["model"],
        "layers": decoder.num_layers,
        "sizes": sizes,
        "rows": len(enough_of(measured, DEFAULT, decoder)),
        "held_out_rows": len(held_out),
        "perplexity_before": judge(),
        "plans": [],
        "left_out": {},
    }
    told = told or (lambda report, name: None)
    told(report, None)
    for name in rules:
        some = enough_of(measured, name, decoder)
        data = rows_data(decoder, some, batch_size)
        data.progress = progress
        try:
            for plan in choose_plans(name, decoder, data, sizes):
                report["plans"].append(_about(plan, data, judge(plan)))
        except ValueError as error:
            # The other rules may well be able to.
            report["left_out"][name] = str(error)
        told(report, name)
    if not report["plans"]:
        why = "; ".join(f"{k}: {v}" for k, v in report["left_out"].items())
        raise ValueError(f"no rule could choose layers on this text ({why})")
    return report


class _Judge:
    """Perplexity on the held-out rows, whole or without a plan's layers."""

    def __init__(self, decoder, rows, batch_size, progress):
        self.lm, self.options = decoder.lm, (rows, batch_size, progress)

    def __call__(self, plan=None):
        lm = drop_layers(self.lm, plan) if plan else self.lm
        return perplexity(lm, *self.options)


def _about(plan, data, perplexity):
    return {
        "rule": plan.rule,
        "removed": list(plan.layers),
        "rows": data.sequences,
        "perplexity": perplexity,
        "seconds": plan.about["seconds"],
        "layer_passes": plan.about["layer_passes"],
    }
