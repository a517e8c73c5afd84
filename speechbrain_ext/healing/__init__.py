"""Healing: what is trained after layers were removed, and where it acts.

A healing has parts, each of which may be there or not: the projector,
adapters (LoRA), bridges across the gaps, and distillation from the unpruned
model. The paper's four are combinations of the first two.
"""

from speechbrain_ext.healing.apply import (
    TrainableSet,
    check_places,
    heal,
    receivers,
    train_parts,
)
from speechbrain_ext.healing.bridge import (
    FULL,
    Bridge,
    add_bridges,
    bridges_of,
    load_bridges,
    remove_bridges,
    save_bridges,
    use_bridges,
)
from speechbrain_ext.healing.closed_form import (
    fold_maps,
    load_folds,
    save_folds,
)
from speechbrain_ext.healing.distillation import Distillation
from speechbrain_ext.healing.frozen_adapter import (
    fold_frozen_adapter,
    put_frozen_adapter,
    updates_of,
)
from speechbrain_ext.healing.lora import (
    ADAPTER,
    ATTENTION,
    MLP,
    MODULES,
    Lora,
    add_adapter,
    load_adapter,
    save_adapter,
)
from speechbrain_ext.healing.presets import (
    PRESETS,
    STRATEGIES,
    healing_parts,
    needs_whole,
    parts_of,
    uses_map,
)

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
