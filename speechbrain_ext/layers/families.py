"""Which families of decoders can be pruned.

A family must say of the kept layers alone what it said of all (its
configuration, `layers.pruned_config`), and do the same when it is called in parts (its code).
"""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, DynamicCache

from speechbrain_ext.layers.lm_calls import (
    base_model,
    causal_lm,
    embed,
    evaluating,
    final_norm,
    last_states,
    logits_of,
)
from speechbrain_ext.layers.residual import leaving, on_stream

# Largest difference of two logits that is rounding, as a share of the largest.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_ROUNDING = 0.05

# What a layer knows of its place alone: `drop_layers` sets it anew.
PLACE = "layer_idx"

# Layers by configuration: built once, of nothing but shapes.
_described: dict[tuple, tuple] = {}


def plain_sparse_step(config, num_layers):
    """Say which layers are dense by a list in place of every how many."""
    step = getattr(config, "decoder_sparse_step", 1)
    if step != 1 and hasattr(config, "mlp_only_layers"):
        dense = {i for i in range(num_layers) if (i + 1) % step}
        config.mlp_only_layers = sorted(dense | set(config.mlp_only_layers))
        config.decoder_sparse_step = 1


def first_difference(whole, pruned, kept) -> str | None:
    """What would be made otherwise under new indices."""
    if type(whole) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        # Whoever loads it says of which kind it is.
        return None
    layers, around = _describe(whole)
    new_layers, new_around = _describe(pruned)
    for new, old in enumerate(kept):
        for fact in sorted(layers[old].keys() | new_layers[new].keys()):
            if layers[old].get(fact) != new_layers[new].get(fact):
                return (
                    f"layer {old} would be another one as layer {new} of the "
                    f"pruned model ({fact.removeprefix('.')})"
                )
    for name in sorted(around.keys() | new_around.keys()):
        if around.get(name) != new_around.get(name):
            return (
                "what stands around the layers depends on how many there "
                f"are ({name})"
            )
    return None


def _describe(config):
    """What each layer is, and the shapes around them: plain values."""
    key = type(config), config.to_json_string(use_diff=False)
    if key not in _described:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        # Shapes without memory: this is no more than the code's own time.
        with torch.device("meta"):
            model = model_class._from_config(copy.deepcopy(config))
        inner = getattr(model, "model", None)
        layers = getattr(inner, "layers", ())
        inside = {id(p) for layer in layers for p in layer.parameters()}
        around = {
            name: tuple(p.shape)
            for name, p in model.named_parameters()
            if id(p) not in inside
        }
        if len(_described) >= 8:
            _described.clear()
        _described[key] = [_facts(layer) for layer in layers], around
    return _described[key]


def _facts(layer):
    """A layer's classes, settings and shapes, by name."""
    facts = {}
    for name, module in layer.named_modules():
        facts[name or "layer"] = type(module).__qualname__
        for setting, value in vars(module).items():
            # How it is loaded is no part of what it is.
            if setting.startswith("_") or setting in (PLACE, "training"):
                continue
            if isinstance(value, (bool, int, float, str, type(None), tuple)):
                facts[f"{name}.{setting}"] = value
            elif isinstance(value, list):
                facts[f"{name}.{setting}"] = repr(value)
        tensors = [*module.named_parameters(recurse=False)]
        tensors += module.named_buffers(recurse=False)
        facts.update({f"{name}.{n}": tuple(t.shape) for n, t in tensors})
    return facts


@torch.no_grad()
def check_calls(lm: torch.nn.Module, cached: bool = True) -> None:
    """Refuse a causal LM that does something else when called in parts.

    Without `cached` it is not tried token by token.
    """
    try:
        with evaluating(lm):
            wrong = _difference(lm, cached)
    except (torch.OutOfMemoryError, TypeError):
        raise
    except Exception as error:
        # Families with a cache or masks of their own say so in many ways.
        wrong = f"called in parts, it fails with {error!r:.200}"
    if wrong:
        source = causal_lm(lm).name_or_path
        raise TypeError(
            f"{source}: {type(causal_lm(lm)).__name__} is not of the kind "
            f"that can be pruned here: {wrong}. docs/families.md lists the "
            "families that can."
        )


def rounding_of(h_BQD: torch.Tensor) -> tuple[float, bool]:
    """Largest relative difference that is rounding; whether it is exact."""
    # SpeechBrain lets a card multiply float32 as TF32, ten bits of it.
    full = h_BQD.device.type == "cpu" or h_BQD.dtype == torch.float64
    limit = ROUNDING.get(h_BQD.dtype) if full else None
    return limit or HALF_ROUNDING, limit is not None


def _difference(lm, cached) -> str | None:
    """In what a model called in parts differs from itself."""
    model = base_model(lm)
    head: Any = getattr(causal_lm(lm), "lm_head", None)
    if getattr(head, "weight", None) is None:
        return "its LM head is no matrix called lm_head"
    device = head.weight.device
    size = min(7, causal_lm(lm).config.vocab_size)
    ids = torch.arange(size, device=device)[None]
    positions = torch.arange(size, device=device)[None]
    inputs = {
        "position_ids": positions,
        "attention_mask": ids.new_ones(1, size),
    }
    with _watched(lm) as whole:
        output = causal_lm(lm)(input_ids=ids, **inputs, use_cache=False)
    with _watched(lm) as parts:
        h_BQD = last_states(lm, inputs_embeds=embed(lm, ids), **inputs)
    logits_QV = output.logits[0].float()
    limit, exact = rounding_of(h_BQD)

    def differs(a, b):
        """Whether two results are not the same."""
        # Not "greater than": NaN must not pass.
        return not (a - b).abs().max() <= limit * b.abs().max()

    if len(whole["entered"]) != len(model.layers):
        return "it does not run its layers once each, one after the other"
    if differs(parts["entered"][0].float(), whole["entered"][0].float()):
        return "it treats token ids and their embeddings differently"
    if differs(final_norm(lm)(whole["left"]), whole["normed"]):
        return "it does more than a norm between its last layer and its head"
    if differs(logits_of(lm, whole["normed"][0]).float(), logits_QV):
        return "its logits depend on more than its last hidden states"
    if not cached:
        return None
    cache = DynamicCache(config=causal_lm(lm).config)
    steps = []
    for start, end in ((0, size - 2), (size - 2, size - 1), (size - 1, size)):
        h_BQD = last_states(
            lm,
            cache,
            input_ids=ids[:, start:end],
            position_ids=positions[:, start:end],
            attention_mask=inputs["attention_mask"][:, :end],
        )
        if cache.get_seq_length() != end:
            return "it does not put what it reads into the key-value cache"
        steps.append(h_BQD)
    # In half precision a rounding may send a token to another expert.
    if exact and differs(torch.cat(steps, 1), whole["normed"]):
        return "token by token, from its cache, it reads something else"
    return None


@contextlib.contextmanager
def _watched(lm):
    """Keep what enters and leaves the layers and the base model."""
    seen = {"entered": []}

    def see(index, h_BQD, options):
        """Note the stream and the options."""
        if options is None:
            seen["left"] = h_BQD
        else:
            seen["entered"].append(h_BQD)

    def at_end(h_BQD):
        """Note the stream behind the last layer."""
        seen["normed"] = h_BQD

    handle = leaving(base_model(lm), at_end)
    try:
        with on_stream(lm, see):
            yield seen
    finally:
        handle.remove()
