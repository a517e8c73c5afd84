"""Healing: what is trained after layers were removed, and where it acts.

A healing has parts, each of which may be there or not: the projector,
adapters (LoRA), bridges across the gaps, and distillation from the unpruned
model. The paper's four are combinations of the first two.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.healing.adapters import (
    ADAPTER,
    ATTENTION,
    MLP,
    MODULES,
    Lora,
    add_adapter,
    load_adapter,
    save_adapter,
)
from speechbrain_ext.healing.bridge import (
    FULL,
    Bridge,
    add_bridges,
    bridges_of,
    remove_bridges,
    use_bridges,
)
from speechbrain_ext.healing.bridge_file import load_bridges, save_bridges
from speechbrain_ext.healing.distillation import Distillation
from speechbrain_ext.healing.folding import fold_maps, load_folds, save_folds
from speechbrain_ext.healing.frozen_adapter import (
    fold_frozen_adapter,
    put_frozen_adapter,
    updates_of,
)
from speechbrain_ext.healing.places import receivers
from speechbrain_ext.healing.presets import (
    PRESETS,
    STRATEGIES,
    healing_parts,
    needs_whole,
    parts_of,
    uses_map,
)
from speechbrain_ext.healing.strategies import check_places, heal
from speechbrain_ext.healing.trainable import TrainableSet, train_parts

__all__ = [
    "ADAPTER",
    "ATTENTION",
    "FULL",
    "MLP",
    "MODULES",
    "PRESETS",
    "STRATEGIES",
    "Bridge",
    "Distillation",
    "Lora",
    "TrainableSet",
    "add_adapter",
    "add_bridges",
    "bridges_of",
    "check_places",
    "fold_frozen_adapter",
    "fold_maps",
    "heal",
    "healing_parts",
    "load_adapter",
    "load_bridges",
    "load_folds",
    "needs_whole",
    "parts_of",
    "put_frozen_adapter",
    "receivers",
    "remove_bridges",
    "save_adapter",
    "save_bridges",
    "save_folds",
    "train_parts",
    "updates_of",
    "use_bridges",
    "uses_map",
]
