"""One decoder layer, or what stands around the layers, read from the files.

transformers itself loads each part: a class that makes the whole model without
memory, as it always does, and forgets the other parts before their weights
would be read. Whatever it does to a checkpoint (renames, fused experts, tied
heads, rotary tables) it then does here, too.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from speechbrain_ext.layers.lm_calls import base_model
from speechbrain_ext.layers.removal import layer_and_rest
from speechbrain_ext.layers.surgery import check_report, load_pruned
from speechbrain_ext.layers.weights import (
    source_config,
    wanted_weights,
    weight_files,
)
from speechbrain_ext.quiet import quiet_loading

MEND = "It has to be in memory as a whole: leave out --stream."


class Parts:
    """The parts of a causal LM, each loaded when it is asked for.

    On a CPU, and in the type that is stored, a part is mapped from its file:
    what is not looked at takes no memory.
    """

    def __init__(self, source: str, dtype: torch.dtype, device: str = "cpu"):
        self.source, self.dtype, self.device = source, dtype, device
        self.config = source_config(source)
        self.model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(self.config)]
        self.files = weight_files(source)

    def check(self) -> PreTrainedModel:
        """Refuse weights that do not fit; gives the model without memory."""
        with quiet_loading():
            return load_pruned(self.source, device_map={"": "meta"})

    def around(self) -> tuple[PreTrainedModel, torch.nn.ModuleList]:
        """The model without its layers, and these without memory."""
        layers = []

        def forget(lm):
            """Take the layers out."""
            inner = base_model(lm)
            layers.append(inner.layers)
            inner.layers = torch.nn.ModuleList()

        lm = self._load(forget, None)
        return lm, layers[0]

    def layer(self, index: int) -> torch.nn.Module:
        """One decoder layer."""

        def forget(lm):
            """Take all but the layer out."""
            inner = base_model(lm)
            layer = inner.layers[index]
            for owner, kept in ((lm, "model"), (inner, "layers")):
                for name, _ in list(owner.named_children()):
                    if name != kept:
                        setattr(owner, name, None)
                owner.all_tied_weights_keys = {}
            inner.layers = torch.nn.ModuleList()
            # Under its own number, which the checkpoint's names have, too.
            inner.layers.add_module(str(index), layer)

        lm = self._load(forget, index)
        return base_model(lm).layers.get_submodule(str(index))

    def _load(self, forget: Callable, index: int | None) -> PreTrainedModel:
        """What is left of the model once a part of it is forgotten."""

        class Part(self.model_class):  # type: ignore[name-defined]
            """The class whose own loading is wanted."""

            def __init__(self, config, *args, **kwargs):
                super().__init__(config, *args, **kwargs)
                forget(self)

        Part.__name__ = Part.__qualname__ = self.model_class.__name__
        state = {
            name: value
            for _, name, value in wanted_weights(
                self.files,
                self.source,
                None,
                lambda name: layer_and_rest(name)[0] == index,
                self.dtype,
            )
        }
        with quiet_loading():
            lm, report = Part.from_pretrained(
                None,
                config=copy.deepcopy(self.config),
                state_dict=state,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                dtype=self.dtype,
                device_map={"": self.device},
                trust_remote_code=False,
            )
        try:
            check_report(report, self.source)
        except ValueError as error:
            # The whole was checked, and fits: see `check`.
            raise TypeError(
                f"{self.source}: a {self.config.model_type} checkpoint cannot "
                f"be read a layer at a time ({error}). {MEND}"
            ) from error
        return lm.eval().requires_grad_(False)

    @property
    def bytes(self) -> int:
        """Bytes of all weights in the wanted type."""
        lm = self.check()
        return sum(p.numel() for p in lm.parameters()) * self.dtype.itemsize
