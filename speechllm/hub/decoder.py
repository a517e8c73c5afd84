"""A speech LLM's decoder as a plain causal LM, over the very same weights."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from transformers import PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from speechbrain_ext.layers.lm_calls import causal_lm, evaluating
from speechbrain_ext.layers.nested import Nested, place_of, refuse
from speechbrain_ext.layers.residual import leaving


def known_place(model: PreTrainedModel) -> Nested:
    """Where a speech LLM keeps its decoder; refuses one that is not known."""
    place = place_of(model)
    if not isinstance(place, Nested):
        raise refuse(model.config, type(model).__name__)
    return place


def text_lm(model: PreTrainedModel) -> Any:
    """The decoder of a speech LLM as a causal LM, which shares its modules."""
    place = known_place(model)
    if not place.config:
        return model
    # Of a class that runs its model and then its head, and no more: so do all
    # of these, also where the decoder's own causal LM would scale its logits.
    with torch.device("meta"):
        lm: Any = Qwen2ForCausalLM(Qwen2Config(num_hidden_layers=1))
    lm.config = place.decoder_config(model.config)
    lm.model, lm.lm_head = place.inner(model), model.lm_head
    lm.generation_config = model.generation_config
    lm.name_or_path = model.name_or_path
    return lm


class _Reached(Exception):
    """The decoder is reached: nothing behind need run."""


def merged(model: PreTrainedModel, inputs: dict) -> dict:
    """What reaches the decoder: sound among the words, as embeddings.

    Of a processor's inputs: ``inputs_embeds`` ``[B, Q, D]`` and
    ``attention_mask`` ``[B, Q]``; gradients go through projector and encoder.
    """
    place = known_place(model)
    found: dict[str, Any] = {}

    def reached(*args, **options):
        """Keep what the base decoder is called with."""
        del args
        found.update(options)
        raise _Reached

    def mixed(h_BQD):
        """Keep what the part that merges gives."""
        found["inputs_embeds"] = h_BQD
        raise _Reached

    with contextlib.ExitStack() as stack:
        if place.merges:
            handle = leaving(model.get_submodule(place.merges), mixed)
            stack.callback(handle.remove)
        else:
            inner = place.inner(model)
            stack.callback(_put_forward, inner, vars(inner).get("forward"))
            inner.forward = reached
        with contextlib.suppress(_Reached):
            causal_lm(model)(**inputs, use_cache=False)
    mask_BQ = found.get("attention_mask")
    if mask_BQ is None:
        mask_BQ = inputs["attention_mask"]
    return {"inputs_embeds": found["inputs_embeds"], "attention_mask": mask_BQ}


def _put_forward(module, own):
    """Give a module the forward that it had: its class's, or one of its own."""
    del module.forward
    if own is not None:
        module.forward = own


@torch.no_grad()
def check_merged(model: PreTrainedModel, lm: Any, inputs: dict) -> None:
    """Refuse a model whose decoder, given what reaches it, says other things."""
    with evaluating(model):
        torch.manual_seed(0)
        whole_BQV = model(**inputs, use_cache=False).logits
        torch.manual_seed(0)
        reached = merged(model, inputs)
        parts_BQV = lm(**reached, use_cache=False).logits
    real = reached["attention_mask"].bool()
    a, b = whole_BQV[real].float(), parts_BQV[real].float()
    limit = 1e-3 if whole_BQV.dtype == torch.float32 else 0.05
    # Not "greater than": NaN must not pass.
    if not (a - b).abs().max() <= limit * a.abs().max():
        raise TypeError(
            f"{type(model).__name__} does more than its decoder says: the "
            "logits of the decoder alone differ from its own. It cannot be "
            "pruned here."
        )
