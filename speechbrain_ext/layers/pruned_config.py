"""The configuration of the kept layers alone."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from transformers import PretrainedConfig

from speechbrain_ext.later import later
from speechbrain_ext.layers.removal import Removal

# Known to be right without a look at their code.
KNOWN = ("llama", "qwen2")

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


def checks_of(config: PretrainedConfig) -> Any:
    """What looks into a family's code (`layers.families`, a later slice).

    Without it, a family that is not known is refused (TypeError).
    """
    families = later("layers.families")
    if families is None and config.model_type not in KNOWN:
        raise TypeError(
            f"{config.model_type}: only {' and '.join(KNOWN)} are known to be "
            "right here: give a decoder of these"
        )
    return families


def pruned_config(
    config: PretrainedConfig, removed: Iterable[int] | None
) -> PretrainedConfig:
    """A copy of a configuration that describes only the kept layers.

    Refuses a family of which no configuration can.
    """
    whole, config = config, copy.deepcopy(config)
    num_layers = config.num_hidden_layers
    removed, families = Removal.of(removed, num_layers), checks_of(config)
    kept = removed.kept
    if not removed:
        return _respelled(config)
    differing = None
    try:
        if families:
            families.plain_sparse_step(config, num_layers)
        _describe_kept(config, kept, num_layers)
        if families:
            differing = families.first_difference(whole, config, kept)
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
    return _respelled(config)


def _respelled(config):
    """The same; whoever saves it writes what transformers 4 reads, too."""
    saving = later("layers.saved_lm")
    return saving.with_old_rope(config) if saving else config


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
