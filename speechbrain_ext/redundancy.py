"""Earlier name of `speechbrain_ext.layers`, for one version."""

import warnings

from speechbrain_ext.layers import measure

__all__ = ["measure"]

warnings.warn(
    "speechbrain_ext.redundancy is speechbrain_ext.layers now",
    DeprecationWarning,
    stacklevel=2,
)
