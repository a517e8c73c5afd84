"""Healing: what is trained after layers were removed, and where it acts.

A healing has parts, each of which may be there or not: the projector,
adapters (LoRA), bridges across the gaps, and distillation from the unpruned
model. The paper's four are combinations of the first two.
"""

from speechbrain_ext.healing.apply import TrainableSet, heal
from speechbrain_ext.healing.lora import Lora
from speechbrain_ext.healing.presets import Healing

__all__ = ["Healing", "Lora", "TrainableSet", "heal"]
