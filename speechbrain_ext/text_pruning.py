"""Prune a causal LM with nothing but a text file, and save a plain smaller LM.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
import shutil
import uuid

import torch
from transformers import AutoModelForCausalLM

from speechbrain_ext.pruning import drop_layers, removed_layers
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.results import write_json
from speechbrain_ext.rules import DEFAULT, RuleData, find_rule, text_labels
from speechbrain_ext.rules.data import UTTERANCES
from speechbrain_ext.saved_lm import save_causal_lm
from speechbrain_ext.text_lm import (
    batches_of,
    measure_rows,
    perplexity,
    split_rows,
)

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
    """Remove the most redundant layers and save what is left as a plain LM.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The whole causal LM.
    rows : list of torch.Tensor
        Token ids; every fifth row is not measured on, and judged by.
    size : int
        Layers to remove.
    folder : str
        Where the smaller LM goes.
    batch_size : int
        Rows of a batch.
    overwrite : bool
        Replace an LM that was pruned there before.
    progress : bool
        Show bars.
    rule : str
        One of `speechbrain_ext.rules.RULES`. All but the angular one look at
        no more than 200 of the rows.

    Returns
    -------
    report : dict
        rule, layers, removed, kept_layers, distance (the angular rule's) or
        value, perplexity_before and perplexity_after on the held-out rows,
        and how many rows there were.
    table : RedundancyTable or None
        The angular rule's.

    Raises
    ------
    ValueError
        If so many layers cannot go, or the folder is in use.
    """
    removed_layers(range(size), decoder.num_layers)
    _check_target(folder, overwrite)
    measured, held_out = split_rows(rows)
    before = perplexity(decoder.lm, held_out, batch_size, progress)
    table = None
    if rule == DEFAULT:
        table = measure_rows(decoder, measured, batch_size, progress)
    else:
        measured = few_of(measured)
    plan = find_rule(rule)(
        decoder, rows_data(decoder, measured, batch_size, table), size
    )
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


def few_of(rows):
    """No more rows than a search needs, spread over all (list).

    Arguments
    ---------
    rows : list
        All.

    Example
    -------
    >>> len(few_of(list(range(500))))
    167
    """
    return rows[:: -(-len(rows) // UTTERANCES)]


def rows_data(decoder, rows, batch_size=8, table=None):
    """Rows of text as the rules of removal plans take them.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The causal LM.
    rows : list of torch.Tensor
        Token ids.
    batch_size : int
        Rows of a batch.
    table : RedundancyTable or None
        One that was measured on them already.

    Returns
    -------
    speechbrain_ext.rules.RuleData

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> rows = [torch.tensor([5, 6, 7]), torch.tensor([8, 9])]
    >>> rows_data(tiny_speech_llm().decoder, rows).targets
    3
    """
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
    """Refuse a saved causal LM that is not the one in memory.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The one in memory.
    folder : str
        Where it was saved.

    Raises
    ------
    ValueError
        Saying what differs.
    """
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
