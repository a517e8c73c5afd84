"""Earlier name of `speechbrain_ext.layers`, for one version."""

import warnings

from speechbrain_ext.layers import Block, drop_layers, load_pruned

__all__ = ["Block", "drop_layers", "load_pruned"]

warnings.warn(
    "speechbrain_ext.pruning is speechbrain_ext.layers now",
    DeprecationWarning,
    stacklevel=2,
)
