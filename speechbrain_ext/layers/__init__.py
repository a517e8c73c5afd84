"""Which decoder layers can go, and how they go.

`measure` gives the distances of blocks, `RedundancyTable.path` the pruning
path, `drop_layers` and `load_pruned` a causal LM without the layers of it,
`save_pruned` a folder of it.
"""

from speechbrain_ext.layers.distances import RedundancyTable, measure
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers, load_pruned, save_pruned

__all__ = [
    "Block",
    "RedundancyTable",
    "drop_layers",
    "load_pruned",
    "measure",
    "save_pruned",
]
