"""A baseline's LoRA on a pruned decoder: frozen, always on, never rounded.

Folding LoRA into 16-bit weights rounds most of a small update away. Here the
update stays beside the weight in its own type, inside the linear layer
itself: what heals, maps or distils sees a plain layer, PEFT wraps it like any
other, and the whole model and its pruned twin share it.
"""

from __future__ import annotations

import os
import re
from typing import Any

import torch

from speechbrain_ext.healing.lora import kept_adapter
from speechbrain_ext.layers.lm_calls import decoder_layers

# PEFT's: base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight
PLACE = re.compile(r"(.*\.layers\.(\d+)\.(.+)\.(\w+))\.lora_[AB]\.weight")


class UpdatedLinear(torch.nn.Linear):
    """A linear layer with a low-rank update beside its weight."""

    def __init__(self, linear, down_RE, up_DR, scaling):
        # Without memory of its own: the parameters are the old layer's.
        super().__init__(
            linear.in_features, linear.out_features, False, device="meta"
        )
        self.weight, self.bias = linear.weight, linear.bias
        self.scaling = scaling
        device = linear.weight.device
        # Not persistent: what is saved of the decoder is a plain one.
        for name, value in (("down", down_RE), ("up", up_DR)):
            self.register_buffer(name, value.to(device), persistent=False)

    def forward(self, x):
        """Inputs ``[*, E]`` to outputs ``[*, D]``, in the weight's type."""
        # PEFT's operations in PEFT's order: the same values to the last bit,
        # under autocast too.
        linear = torch.nn.functional.linear
        result = super().forward(x)
        low = linear(x.to(self.down.dtype), self.down)
        update = linear(low, self.up) * self.scaling
        return (result + update).to(result.dtype)

    @torch.no_grad()
    def folded(self):
        """A plain layer with the update in its weight, rounded once."""
        plain = torch.nn.Linear(
            self.in_features, self.out_features, False, device="meta"
        )
        update = self.scaling * (self.up.double() @ self.down.double())
        weight = (self.weight.double() + update).to(self.weight.dtype)
        plain.weight = torch.nn.Parameter(weight, requires_grad=False)
        plain.bias = self.bias
        return plain


def put_frozen_adapter(
    decoder, folder: str, kept: tuple[int, ...] | None = None
) -> None:
    """Put a saved LoRA adapter into a decoder for good.

    Arguments
    ---------
    decoder : speechbrain_ext.model.decoder.Decoder
        Without PEFT's adapters yet; gets the update, in place.
    folder : str
        A PEFT folder.
    kept : tuple of int or None
        Where the adapter was made for the whole decoder: which of its layers
        this one has.

    Raises
    ------
    FileNotFoundError, ValueError
        There is no adapter, or it does not fit this decoder.
    """
    config, state = kept_adapter(decoder, folder, kept)
    _check_plain(config, folder)
    places = {found[1]: found for found in map(PLACE.fullmatch, state) if found}
    for name, found in places.items():
        _, index, path, place = found.groups()
        layer = decoder_layers(decoder)[int(index)]
        parent = layer.get_submodule(path)
        down, up = (state.pop(f"{name}.lora_{x}.weight", None) for x in "AB")
        linear: Any = getattr(parent, place, None)
        _check_fits(folder, name, linear, down, up)
        updated = UpdatedLinear(linear, down, up, config.lora_alpha / config.r)
        setattr(parent, place, updated.train(linear.training))
    if state:
        raise ValueError(
            f"{folder}: the adapter does not fit this decoder "
            f"({next(iter(state))}). It was made for another model."
        )


def fold_frozen_adapter(decoder) -> None:
    """Fold a frozen adapter into the weights, which rounds them."""
    for module in list(decoder.lm.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, UpdatedLinear):
                setattr(module, name, child.folded())


def updates_of(decoder) -> list[UpdatedLinear]:
    """The decoder's updated layers."""
    return [m for m in decoder.modules() if isinstance(m, UpdatedLinear)]


def _check_plain(config, folder):
    """Refuse what is not plain LoRA: its update would be another one."""
    odd = "use_rslora use_dora rank_pattern alpha_pattern lora_bias".split()
    found = [key for key in odd if getattr(config, key, None)]
    if config.bias != "none":
        found.append("bias")
    if found:
        path = os.path.join(folder, "adapter_config.json")
        raise ValueError(
            f"{path}: {found[0]} is set, and a baseline's adapter must be "
            "plain LoRA: train the baseline with adapt_attention: True"
        )


def _check_fits(folder, name, linear, down, up):
    """Refuse an update of another shape than its layer."""
    wanted = None
    if isinstance(linear, torch.nn.Linear):
        wanted = (linear.in_features, linear.out_features)
    found = None
    if down is not None and up is not None and up.shape[1:] == down.shape[:1]:
        found = (down.shape[1], up.shape[0])
    if wanted is None or wanted != found:
        raise ValueError(
            f"{folder}: the adapter does not fit this decoder ({name} is "
            f"{found}, the layer {wanted}). It was made for another model."
        )
