"""Where a model keeps its text decoder: here, it is one and nothing else."""

from __future__ import annotations

from typing import Any, cast

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    PretrainedConfig,
    PreTrainedModel,
)

from speechbrain_ext.layers.lm_calls import base_model
from speechbrain_ext.layers.removal import layer_and_rest, renumber


class Place:
    """Where the decoder is in a plain causal LM.

    `layers.nested`, of a later slice, has the places in speech LLMs.
    """

    model_type = ""

    def inner(self, model: torch.nn.Module) -> Any:
        """The base decoder of a model, which has the layers."""
        return base_model(model)

    def decoder_config(self, config: PretrainedConfig) -> PretrainedConfig:
        """The decoder's configuration inside the model's."""
        return config

    def with_decoder(
        self, config: PretrainedConfig, own: PretrainedConfig
    ) -> PretrainedConfig:
        """The model's configuration, with another one of its decoder."""
        return own

    def class_of(self, config: PretrainedConfig) -> Any:
        """The class that a model of this configuration is of."""
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]

    def renumber(self, name: str, new_index: dict[int, int]) -> str | None:
        """A tensor's name in a model without some layers; None: not there."""
        return renumber(name, new_index)

    def layer_and_rest(self, name: str) -> tuple[int | None, str]:
        """Which decoder layer a tensor belongs to, and its name in there."""
        return layer_and_rest(name)

    def put_configs(
        self, model: PreTrainedModel, config: PretrainedConfig
    ) -> None:
        """Let each part of a model have a new configuration."""
        for part in model.modules():
            if hasattr(part, "config"):
                part.config = cast(Any, config)

    def refuse_adapter(self, source: str, revision: str | None) -> None:
        """Nothing: transformers puts no adapter beside a plain causal LM."""


PLAIN = Place()
