"""Folders that are written, and the plain causal LMs in them."""

from __future__ import annotations

import os
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from speechbrain_ext.layers.lm_calls import CausalLM
from speechbrain_ext.quiet import quiet_loading

# Tokens that are generated to compare two models.
TOKENS = 16


def check_target(folder: str, marker: str, overwrite: bool) -> None:
    """Refuse a place that is taken by more than what may be overwritten."""
    if os.path.exists(folder) and not os.path.isdir(folder):
        raise ValueError(f"{folder}: is a file: give another name")
    if not os.path.isdir(folder) or not os.listdir(folder):
        return
    if not os.path.isfile(os.path.join(folder, marker)):
        raise ValueError(
            f"{folder}: is not empty and holds something else (no {marker}), "
            "which is not overwritten: give another folder"
        )
    if not overwrite:
        raise ValueError(
            f"{folder}: is there already and not empty: give another folder, "
            "or --overwrite"
        )


def load_plain(
    folder: str, dtype: torch.dtype, device: str | torch.device = "cpu"
) -> PreTrainedModel:
    """A causal LM with nothing but transformers; all its weights are there."""
    with quiet_loading():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            output_loading_info=True,
            trust_remote_code=False,
        )
    lm, report = loaded
    wrong = [*report["missing_keys"], *report["unexpected_keys"]]
    wrong += report["mismatched_keys"]
    if wrong:
        raise ValueError(
            f"{folder}: transformers finds weights missing, of another shape "
            f"or too many, first {wrong[0]}"
        )
    return lm.to(device).eval()


@torch.no_grad()
def probe_lm(lm: CausalLM, pad: int = 0) -> tuple[torch.Tensor, list[int]]:
    """Logits ``[Q, V]`` of a causal LM on fixed ids, and what it generates."""
    weight = lm.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(len(weight), (1, 12), generator=generator)
    ids = ids.to(weight.device)
    mask = torch.ones_like(ids)
    logits_QV = lm(input_ids=ids, attention_mask=mask).logits[0]
    with quiet_loading():
        tokens = lm.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=TOKENS,
            do_sample=False,
            pad_token_id=pad,
        )[0, ids.shape[1] :]
    return logits_QV.float().cpu(), tokens.tolist()


def check_saved(lm: PreTrainedModel, folder: str) -> None:
    """Refuse a saved causal LM that is not the one in memory."""
    saved = load_plain(folder, lm.dtype, lm.device)
    (a_QV, a), (b_QV, b) = probe_lm(lm), probe_lm(saved)
    if not torch.equal(a_QV, b_QV) or a != b:
        raise ValueError(
            f"{folder}: what was saved differs from what was pruned: nothing "
            "was kept"
        )
