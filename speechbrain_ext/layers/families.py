"""Which families of decoders can be pruned, and how they are described.

A family must say of the kept layers alone what it said of all (its
configuration), and do the same when it is called in parts (its code).
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    DynamicCache,
    PretrainedConfig,
)

from speechbrain_ext.layers.lm_calls import (
    base_model,
    causal_lm,
    embed,
    evaluating,
    final_norm,
    last_states,
    logits_of,
)
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.residual import leaving, on_stream

# Keys of transformers 4 for what `rope_parameters` holds.
OLD_ROPE = (
    "rope_theta",
    "rope_scaling",
    "partial_rotary_factor",
    "rope_local_base_freq",
)
FULL, SLIDING = "full_attention", "sliding_attention"

# Some families make a layer by its index. Their configurations say so in lists
# (one entry for each layer, or the indices of some layers) and in numbers (how
# many of the first layers are of a kind); where that does not suffice, a kept
# layer under its new index would be another one, and the family is refused.

# Attributes of a configuration that hold one entry for each layer.
PER_LAYER_LISTS = (
    "layer_types",
    "no_rope_layers",
    "mlp_layer_types",
    "layers_block_type",
    "moe_layer_freq",
    "moe_router_types",
    "indexer_types",
    "num_attention_heads_per_layer",
)
# Attributes that hold the indices of some layers.
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices")
# Attributes that say how many of the first layers are of a kind.
FIRST_LAYERS = (
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_start_index",
    # The list of kinds says which layers slide; this older switch would be
    # applied to the new indices and contradict it.
    "max_window_layers",
)

CHOOSE = (
    "Remove other layers, or choose a decoder of a family that "
    "docs/families.md calls right."
)

# Largest difference of two logits that is rounding, as a share of the largest.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_ROUNDING = 0.05

# What a layer knows of its place alone: `drop_layers` sets it anew.
PLACE = "layer_idx"

# Layers by configuration: built once, of nothing but shapes.
_described: dict[tuple, tuple] = {}


def pruned_config(
    config: PretrainedConfig, removed: Iterable[int] | None
) -> PretrainedConfig:
    """A copy of a configuration that describes only the kept layers.

    Refuses a family of which no configuration can.
    """
    whole, config = config, copy.deepcopy(config)
    num_layers = config.num_hidden_layers
    removed = Removal.of(removed, num_layers)
    kept = removed.kept
    if not removed:
        return with_old_rope(config)
    try:
        _plain_sparse_step(config, num_layers)
        _describe_kept(config, kept, num_layers)
        differing = _first_difference(whole, config, kept)
    except Exception as error:
        # Configurations check themselves, each in its own way.
        raise TypeError(
            f"{whole.model_type}: no configuration of layers {list(kept)} "
            f"alone can be made: {error}. {CHOOSE}"
        ) from error
    if differing:
        raise TypeError(
            f"{whole.model_type}: {differing}, and its configuration cannot "
            f"say otherwise. {CHOOSE}"
        )
    # Whoever saves the model writes what transformers 4 reads, too.
    return with_old_rope(config)


def with_old_rope(config):
    """The configuration, which is saved in both spellings from now on.

    What is set in ``rope_parameters`` afterwards needs this again.
    """
    # Past the class: there, rope_scaling is another name of rope_parameters.
    for key in OLD_ROPE:
        config.__dict__.pop(key, None)
    config.__dict__.update(old_rope(config))
    return config


def old_rope(config):
    """``rope_parameters`` under the names of transformers 4 (dict)."""
    rope = getattr(config, "rope_parameters", None)
    if not rope:
        return {}
    old = {}
    if isinstance(rope.get(FULL), dict):
        # Gemma 3's kind: of its own for each kind of attention.
        if isinstance(rope.get(SLIDING), dict):
            old["rope_local_base_freq"] = rope[SLIDING].get("rope_theta")
        rope = rope[FULL]
    scaling = copy.deepcopy(rope)
    old["rope_theta"] = scaling.pop("rope_theta", None)
    factor = scaling.pop("partial_rotary_factor", None)
    if factor is not None:
        old["partial_rotary_factor"] = factor
    kind = scaling.get("rope_type", "default")
    old["rope_scaling"] = None if kind == "default" else scaling
    if not isinstance(old["rope_theta"], (int, float)):
        return {}
    plain = {k: v for k, v in config.to_dict().items() if k not in OLD_ROPE}
    # Nothing, where version 5 would not read the same from both spellings.
    again = type(config)(**plain, **copy.deepcopy(old))
    return old if again.rope_parameters == config.rope_parameters else {}


def _describe_kept(config, kept, num_layers):
    """Make a configuration of the whole decoder one of the kept layers."""
    lists = {
        name: getattr(config, name)
        for name in (*PER_LAYER_LISTS, *INDEX_LISTS)
        if isinstance(getattr(config, name, None), (list, tuple))
        # Some families work a list out of others of their numbers.
        if not isinstance(
            getattr(type(config), config.attribute_map.get(name, name), None),
            property,
        )
    }
    for name, entries in lists.items():
        if name in INDEX_LISTS:
            places = [kept.index(old) for old in entries if old in kept]
            setattr(config, name, places)
        elif len(entries) == num_layers:
            setattr(config, name, [entries[old] for old in kept])
    for name in FIRST_LAYERS:
        first = getattr(config, name, None)
        if isinstance(first, int):
            setattr(config, name, sum(old < first for old in kept))
    config.num_hidden_layers = len(kept)


def _plain_sparse_step(config, num_layers):
    """Say which layers are dense by a list in place of every how many."""
    step = getattr(config, "decoder_sparse_step", 1)
    if step != 1 and hasattr(config, "mlp_only_layers"):
        dense = {i for i in range(num_layers) if (i + 1) % step}
        config.mlp_only_layers = sorted(dense | set(config.mlp_only_layers))
        config.decoder_sparse_step = 1


def _first_difference(whole, pruned, kept) -> str | None:
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
        raise TypeError(
            f"{type(causal_lm(lm)).__name__} is not of the kind that can be "
            f"pruned here: {wrong}. docs/families.md lists the families that "
            "can."
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
