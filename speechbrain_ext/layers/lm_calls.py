"""How a causal LM is called in parts: embeddings, states, cache and head.

Training, perplexity, rules and decoding run the base model and ask for logits
at a few positions only. What a family does to its logits there (Granite and
Cohere scale them, Gemma 2 caps them) is done by the model's own forward, which
is handed the states in place of computing them.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from transformers.modeling_outputs import MoeModelOutputWithPast

from speechbrain_ext.model.prompt import positions_from_mask

# What the argument for the key-value cache has been called.
CACHE_NAMES = ("cache", "past_key_values")
# What of a batch the base model is given.
INPUTS = ("inputs_embeds", "input_ids", "attention_mask", "position_ids")

# Hugging Face has no class of which `model`, `lm_head` and `generate` are known.
CausalLM: TypeAlias = Any


def causal_lm(model: torch.nn.Module) -> CausalLM:
    """The plain Hugging Face causal LM inside a wrapper (ours or PEFT's).

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> causal_lm(model.decoder) is model.decoder.lm
    True
    """
    lm: CausalLM = getattr(model, "lm", model)
    return lm.get_base_model() if hasattr(lm, "get_base_model") else lm


def base_model(model: torch.nn.Module) -> Any:
    """The decoder without its LM head, from whatever wraps it.

    Arguments
    ---------
    model : torch.nn.Module
        A Hugging Face causal LM, a PEFT model around one, or an object with
        such a model as its ``lm``.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    TypeError
        If the model keeps its layers elsewhere than in ``model.layers``.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> type(base_model(model.decoder)).__name__
    'Qwen2Model'
    """
    inner = getattr(causal_lm(model), "model", None)
    if not isinstance(getattr(inner, "layers", None), torch.nn.ModuleList):
        raise TypeError(
            f"{type(model).__name__} does not keep its layers in "
            "`model.layers`: use a causal LM of the Llama or Qwen2 kind."
        )
    return inner


def decoder_layers(model: torch.nn.Module) -> Any:
    """The decoder layers of what `base_model` takes."""
    return base_model(model).layers


@contextlib.contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Eval mode for a while; each module's own mode comes back after it."""
    # Setting a mode touches every module: about 1 % of a small batch.
    in_training = [part for part in model.modules() if part.training]
    if in_training:
        model.eval()
    try:
        yield
    finally:
        for part in in_training:
            part.training = True


def embed(lm: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Token ids of shape ``[*]`` to embeddings of shape ``[*, D]``."""
    return base_model(lm).embed_tokens(ids)


def input_of(batch: dict) -> torch.Tensor:
    """A batch's embeddings ``[B, Q, D]`` or ids ``[B, Q]``."""
    embeds = batch.get("inputs_embeds")
    return batch["input_ids"] if embeds is None else embeds


def model_inputs(model: torch.nn.Module, batch: dict) -> dict:
    """What of a batch the base model takes, on its device.

    Mask and positions are made where there are none.
    """
    device = next(base_model(model).parameters()).device
    inputs = {
        name: batch[name].to(device)
        for name in INPUTS
        if batch.get(name) is not None
    }
    if "attention_mask" not in inputs:
        shape = input_of(batch).shape[:2]
        inputs["attention_mask"] = torch.ones(
            shape, dtype=torch.long, device=device
        )
    if "position_ids" not in inputs:
        inputs["position_ids"] = positions_from_mask(inputs["attention_mask"])
    return inputs


def cache_argument(model: torch.nn.Module) -> str:
    """The name under which a forward takes a key-value cache."""
    # A forward swallows arguments it does not know, and would then decode
    # without what it has read.
    parameters = inspect.signature(model.forward).parameters.values()
    named = {p.name for p in parameters if p.kind != p.VAR_KEYWORD}
    kept = [name for name in CACHE_NAMES if name in named]
    # The name changes between releases; the type says what it is for.
    kept += [p.name for p in parameters if "Cache" in str(p.annotation)]
    if not kept:
        raise TypeError(
            f"{type(model).__name__} takes no key-value cache under any name "
            "known here, so it cannot be decoded token by token: use a "
            "causal LM of the Llama or Qwen2 kind."
        )
    return kept[0]


def last_states(
    lm: torch.nn.Module, cache: object = None, **inputs: Any
) -> torch.Tensor:
    """Last hidden states, after the final norm, of what is read now.

    Arguments
    ---------
    lm : torch.nn.Module
        The causal LM, or what wraps it.
    cache : object or None
        What was read before, and what is read now is added to; None: nothing
        is kept.
    **inputs : torch.Tensor
        `input_ids` or `inputs_embeds`, `attention_mask`, `position_ids`.

    Returns
    -------
    torch.Tensor
        Shape ``[B, Q, D]``.
    """
    model = base_model(lm)
    if cache is not None:
        inputs[cache_argument(model)] = cache
    return model(**inputs, use_cache=cache is not None).last_hidden_state


def logits_of(lm, h_ND, head=lambda lm_head, h_ND: lm_head(h_ND)):
    """Logits of last hidden states, as this model's own forward makes them.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The causal LM.
    h_ND : torch.Tensor
        Last hidden states, of any positions.
    head : callable
        How the LM head is applied to rows; is given both.

    Returns
    -------
    torch.Tensor
        Shape ``[N, V]``.
    """
    lm = causal_lm(lm)
    view = copy.copy(lm)
    output = MoeModelOutputWithPast(last_hidden_state=h_ND[None])
    view._modules = {
        **lm._modules,
        "model": _Given(lambda *_: output),
        "lm_head": _Given(lambda h_1ND: head(lm.lm_head, h_1ND[0])[None]),
    }
    # The class's forward: what was hooked onto the model is for whole calls.
    return type(lm).forward(view, inputs_embeds=h_ND[None]).logits[0]


class _Given(torch.nn.Module):
    """Stands where a part of a model stands, and does what it is given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        """What the function gives."""
        return self.function(*args)


def final_norm(lm: torch.nn.Module) -> torch.nn.Module:
    """What stands between the last layer and the LM head."""
    model = base_model(lm)
    parts = dict(model.named_children())
    named = [name for name in parts if "norm" in name]
    # Gemma 3n has another one for what it hands to each layer.
    named = ["norm"] if "norm" in named else named
    if len(named) != 1:
        raise TypeError(
            f"{type(model).__name__} has {len(named)} norms outside its "
            "layers: use a causal LM of the Llama or Qwen2 kind."
        )
    return parts[named[0]]
