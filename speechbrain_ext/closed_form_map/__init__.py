"""The closed-form map: what removed layers did to the stream, as a matrix.

A ridge regression from the stream before a gap to the *difference* that the
whole model's stream has behind it: without data, or with endless ridge, the
map is the identity. It heals without training, tells how well a gap can be
crossed, and can be the start of a trained bridge.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.closed_form_map.linear_map import LinearMap
from speechbrain_ext.closed_form_map.sequence import (
    FittedMap,
    fit_in_sequence,
)
from speechbrain_ext.closed_form_map.sums import MapSums, fit_map

__all__ = [
    "FittedMap",
    "LinearMap",
    "MapSums",
    "fit_in_sequence",
    "fit_map",
]
