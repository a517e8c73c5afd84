"""The configuration of a pruned decoder, and whether it describes one.

Some families make a layer by its index. Their configurations say so in lists
(one entry for each layer, or the indices of some layers) and in numbers (how
many of the first layers are of a kind); where that does not suffice, a kept
layer under its new index would be another one, and the family is refused.
"""

import copy

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from speechbrain_ext.blocks import kept_layers
from speechbrain_ext.saved_lm import with_old_rope

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

# What a layer knows of its place alone: `drop_layers` sets it anew.
PLACE = "layer_idx"

# Layers by configuration: built once, of nothing but shapes.
_described = {}


def pruned_config(config, removed):
    """A copy of a configuration that describes only the kept layers.

    Arguments
    ---------
    config : transformers.PretrainedConfig
        Configuration of the whole decoder.
    removed : Block, iterable of int or None
        What is removed.

    Returns
    -------
    transformers.PretrainedConfig

    Raises
    ------
    TypeError
        If no configuration of this family can describe the kept layers.
    """
    whole, config = config, copy.deepcopy(config)
    num_layers = config.num_hidden_layers
    kept = kept_layers(removed, num_layers)
    if len(kept) == num_layers:
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


def _first_difference(whole, pruned, kept):
    """What would be made otherwise under new indices (str or None)."""
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
