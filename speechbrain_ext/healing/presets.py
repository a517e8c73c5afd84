"""Healing by name: which parts there are, and ready-made sets of them.

A healing is plain data: which of projector, adapters, bridge and distillation
it has, and how. The paper's four stand first, with the paper's settings. One's
own is written in a YAML under ``healing_parts`` in the same words, with a new
name under ``healing``.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from speechbrain_ext.later import later

# Every word there is, with what stands where nothing is said.
PARTS: dict[str, Any] = {
    # Train the projector (and the speech markers).
    "projector": False,
    # LoRA, or null.
    "adapters": {
        # receivers, after (all from the first gap on), all, or a list of
        # layers as they are numbered after pruning.
        "where": "receivers",
        # mlp, attention, or both.
        "modules": "mlp",
        # null: lora_rank. With another rank alpha goes along.
        "rank": None,
        # Most values to train, spread over all; "paper": as many as LoRA on
        # the receivers' MLP takes at lora_rank; "block": as many as on one
        # receiver's, what the paper's healing of a run of layers takes.
        "budget": None,
    },
    # A linear step in front of layers, or null.
    "bridge": {
        "where": "receivers",
        # A whole number, or full.
        "rank": 16,
        # identity, or map: the closed-form map.
        "start": "identity",
        # trained, fixed, or folded into the layer before the gap.
        "form": "trained",
    },
    # How the closed-form map is fitted, where a bridge starts from it.
    "map": {
        # Of the training data, and of the validation data.
        "utterances": 500,
        "held_out": 200,
        # Shares of the states' mean variance; the best on held-out is taken.
        "ridge": [0.0001, 0.001, 0.01, 0.1, 1.0],
        # all, or target: which positions count.
        "positions": "all",
    },
    # Learn from the unpruned model too, or null.
    "distillation": {
        # Share of the loss, and what logits are divided by.
        "weight": 0.5,
        "temperature": 1.0,
    },
}

_MLP = {"where": "receivers", "modules": "mlp"}
PRESETS: dict[str, dict] = {
    "none": {},
    "decoder": {"adapters": _MLP},
    "projector": {"projector": True},
    "both": {"projector": True, "adapters": _MLP},
}
if more := later("healing.more_presets"):
    PRESETS |= more.PRESETS


@dataclass(frozen=True)
class Healing:
    """The declared parts of a healing, every word of them filled in.

    Arguments
    ---------
    name : str
        A strategy's or preset's, or one's own.
    projector : bool
        Whether the projector is trained.
    adapters, bridge, distillation : dict or None
        The words of `PARTS`; None for a part that is not there.
    map : dict
        How the closed-form map is fitted, where a bridge starts from it.

    Example
    -------
    >>> healing = Healing.of("decoder")
    >>> healing.adapters["modules"], healing.bridge
    ('mlp', None)
    """

    name: str
    projector: bool
    adapters: dict | None
    bridge: dict | None
    map: dict
    distillation: dict | None

    @classmethod
    def of(cls, name: str | Healing, own: dict | None = None) -> Healing:
        """A healing by its name, or of one's own parts.

        Arguments
        ---------
        name : str or Healing
            A strategy's or preset's name, or one's own; a `Healing` is given
            back as it is.
        own : dict or None
            One's own parts, in the words of `PARTS`; None: the preset's.

        Returns
        -------
        Healing

        Raises
        ------
        ValueError
            If there is no such preset.
        """
        if isinstance(name, Healing):
            return name
        if own is None and name not in PRESETS:
            raise ValueError(
                f"healing: {name!r} is none of {', '.join(PRESETS)}; one's "
                "own parts are written under healing_parts."
            )
        said = copy.deepcopy(PRESETS[name] if own is None else own)
        parts = {
            part: None
            if said.get(part) is None
            else {**PARTS[part], **said[part]}
            for part in ("adapters", "bridge", "distillation")
        }
        return cls(
            name,
            projector=said.get("projector", PARTS["projector"]),
            map={**PARTS["map"], **(said.get("map") or {})},
            **parts,
        )

    @property
    def uses_map(self) -> bool:
        """Whether it needs the closed-form map."""
        return self.bridge is not None and self.bridge["start"] == "map"

    @property
    def needs_whole(self) -> bool:
        """Whether it needs the unpruned model beside the pruned one."""
        return self.uses_map or self.distillation is not None
