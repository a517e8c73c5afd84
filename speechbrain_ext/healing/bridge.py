"""A learned step across a gap: h -> h + W h + b, or h + B A h + b.

It stands in front of a receiving layer, where the removed layers' change of
the residual stream is missing. It starts as the identity, or as a map in
closed form. It is part of the decoder layer, so that whatever runs the
decoder (training, checkpointing, cached and recorded decoding) goes over it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from safetensors.torch import save_file

from speechbrain_ext.healing.lora import ADAPTER
from speechbrain_ext.layers.lm_calls import decoder_layers
from speechbrain_ext.layers.residual import entering
from speechbrain_ext.layers.weights import read_tensors

FULL = "full"


def check_rank(rank: int | str, width: int) -> None:
    """Refuse a low rank that is none: a full bridge has fewer values then.

    An exported model is checked by the same rule.
    """
    if isinstance(rank, int) and rank >= width:
        raise ValueError(
            f"healing_parts.bridge.rank: {rank}, but the stream is {width} "
            f"wide: choose less, or {FULL}."
        )


class Bridge(torch.nn.Module):
    """One linear step beside the identity."""

    def __init__(self, width, rank=FULL):
        super().__init__()
        if rank == FULL:
            self.weight = torch.nn.Parameter(torch.zeros(width, width))
        else:
            # As in LoRA: one factor random, the other zero.
            end = 1 / math.sqrt(width)
            down_RD = torch.empty(rank, width).uniform_(-end, end)
            self.down = torch.nn.Parameter(down_RD)
            self.up = torch.nn.Parameter(torch.zeros(width, rank))
        self.bias = torch.nn.Parameter(torch.zeros(width))

    def forward(self, h_BQD):
        """States of shape ``[*, D]`` to states of that shape and type."""
        x_BQD = h_BQD.to(self.bias.dtype)
        linear = torch.nn.functional.linear
        if hasattr(self, "weight"):
            step_BQD = linear(x_BQD, self.weight, self.bias)
        else:
            step_BQD = linear(linear(x_BQD, self.down), self.up, self.bias)
        return h_BQD + step_BQD.to(h_BQD.dtype)

    @torch.no_grad()
    def start_from(self, linear_map):
        """Take over a map in closed form, of the same rank."""
        if hasattr(self, "weight"):
            self.weight.copy_(linear_map.weight_DD)
        else:
            self.up.copy_(linear_map.up_DR)
            self.down.copy_(linear_map.down_RD)
        if linear_map.bias_D is not None:
            self.bias.copy_(linear_map.bias_D)


class Bridges(torch.nn.Module):
    """All bridges in front of one layer, by name; one of them is used.

    With a name for each row (a batch of several tasks) each row takes its
    own; a row whose name has no bridge here passes as it is.
    """

    def __init__(self):
        super().__init__()
        self.named = torch.nn.ModuleDict()
        self.active_bridge = None
        self.name_of_row = None

    def forward(self, h_BQD):
        """States of shape ``[B, Q, D]`` to states of that shape."""
        if self.name_of_row is None:
            if self.active_bridge not in self.named:
                return h_BQD
            return self.named[self.active_bridge](h_BQD)
        h_BQD = h_BQD.clone()
        for name, bridge in self.named.items():
            rows = [i for i, n in enumerate(self.name_of_row) if n == name]
            if rows:
                h_BQD[rows] = bridge(h_BQD[rows])
        return h_BQD


def _cross(layer, h_BQD, options):
    """Before a decoder layer: its input goes over the layer's bridges."""
    return layer.bridges(h_BQD)


def put_bridge(layer, bridge, name=ADAPTER):
    """Put a bridge in front of a decoder layer and use it."""
    if not hasattr(layer, "bridges"):
        layer.bridges = Bridges()
        # A function of the module, not of an object: it survives deepcopy.
        entering(layer, _cross)
    layer.bridges.named[name] = bridge
    layer.bridges.active_bridge = name


def add_bridges(
    decoder,
    layers: Iterable[int],
    rank: int | str = FULL,
    maps: dict | None = None,
    name: str = ADAPTER,
) -> None:
    """Put a new bridge in front of some layers."""
    check_rank(rank, decoder.width)
    for index in layers:
        bridge = Bridge(decoder.width, rank)
        if maps:
            bridge.start_from(maps[index])
        bridge.requires_grad_(False).to(decoder.device)
        bridge.train(decoder.lm.training)
        put_bridge(decoder_layers(decoder)[index], bridge, name)


def build_bridges(
    decoder, bridge: dict, layers: Iterable[int], maps: dict | None
) -> None:
    """Bridges, or maps folded in, as a healing's part says."""
    fitted = {}
    if bridge["start"] == "map":
        fitted = maps or {}
        missing = sorted(set(layers) - set(fitted))
        if missing:
            raise ValueError(
                "healing: the bridge starts from the closed-form map, which "
                f"was not fitted for the layers {missing}: give heal(maps=...)"
            )
    if bridge["form"] == "folded":
        from speechbrain_ext.healing.closed_form import fold_maps

        fold_maps(decoder, {i: fitted[i].weight_DD for i in layers})
    else:
        add_bridges(decoder, layers, bridge["rank"], fitted)


def all_bridges(decoder) -> dict[int, Bridges]:
    """The layers' `Bridges`, by layer index."""
    return {
        index: layer.bridges
        for index, layer in enumerate(decoder_layers(decoder))
        if hasattr(layer, "bridges")
    }


def bridges_of(decoder, name: str = ADAPTER) -> dict[int, Bridge]:
    """The bridges of one name, by the index of the layer behind."""
    found = all_bridges(decoder).items()
    return {i: b.named[name] for i, b in found if name in b.named}


def use_bridges(decoder, name: str | None) -> None:
    """Use the bridges of one name (None: of none) in all layers."""
    for bridges in all_bridges(decoder).values():
        bridges.active_bridge = name


def remove_bridges(decoder) -> None:
    """Take all bridges out; nothing of them is left in the weights."""
    for bridges in all_bridges(decoder).values():
        bridges.named.clear()
        bridges.active_bridge = None


def save_bridges(decoder, path: str, name: str = ADAPTER) -> None:
    """Write the bridges of one name as safetensors: ``<layer>.<part>``."""
    state = {
        f"{index}.{part}": value.detach().cpu().contiguous()
        for index, bridge in bridges_of(decoder, name).items()
        for part, value in bridge.state_dict().items()
    }
    save_file(state, path)


def load_bridges(decoder, path: str, name: str = ADAPTER) -> None:
    """Put saved bridges back.

    Arguments
    ---------
    decoder : torch.nn.Module
        Gets them, in place: ours, or a causal LM of the Llama kind.
    path : str
        As `save_bridges` wrote it.
    name : str
        What they are called from now on.

    Raises
    ------
    ValueError
        If they do not fit this decoder.
    """
    layers = decoder_layers(decoder)
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in read_tensors(path).items():
        number, _, part = key.partition(".")
        states.setdefault(int(number), {})[part] = value
    for index, state in states.items():
        width = len(layers[0].input_layernorm.weight)
        rank = state["up"].shape[1] if "up" in state else FULL
        bridge = Bridge(width, rank)
        wanted = {k: v.shape for k, v in bridge.state_dict().items()}
        given = {k: v.shape for k, v in state.items()}
        if index >= len(layers) or given != wanted:
            raise ValueError(
                f"{path}: the bridge of layer {index} has the shapes {given}; "
                f"this decoder has {len(layers)} layers of width {width}. It "
                "was made for another model."
            )
        bridge.load_state_dict(state)
        device = layers[index].input_layernorm.weight.device
        bridge.requires_grad_(False).to(device).eval()
        put_bridge(layers[index], bridge, name)
