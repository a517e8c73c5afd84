"""Healings by name beside the paper's."""

from typing import Any

_SAME_BUDGET = {"where": "receivers", "modules": "both", "budget": "paper"}
_SPREAD = {"where": "receivers", "budget": "block"}
_FITTED = {"rank": "full", "start": "map"}

PRESETS: dict[str, dict[str, Any]] = {
    "attention": {"projector": True, "adapters": _SAME_BUDGET},
    "bridge": {
        "projector": True,
        "adapters": _SAME_BUDGET,
        "bridge": {"rank": 16},
    },
    "everywhere": {
        "projector": True,
        "adapters": {"where": "all", "modules": "both"},
    },
    # For layers that are not in a row, at what healing a run of them takes.
    "spread": {"projector": True, "adapters": {**_SPREAD, "modules": "mlp"}},
    "spread_attention": {
        "projector": True,
        "adapters": {**_SPREAD, "modules": "both"},
    },
    # Without training.
    "map": {"bridge": {**_FITTED, "form": "fixed"}},
    "map_folded": {"bridge": {**_FITTED, "form": "folded"}},
}
