"""A map for each gap, one after the other, its ridge chosen on other data.

A later gap is fitted on what the pruned decoder says with the earlier maps
in it, so that it also mends what those left wrong.

A map is a bridge in front of the receiving layer, or folded into the layer
before the gap: there it acts on the MLP's output, m -> m + W m. The last thing
that makes m is a matrix, so both are one matrix, and the pruned decoder stays
a plain one without anything beside it. There is no bias then: the decoders'
MLPs have none to put it into.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from safetensors.torch import save_file

from speechbrain_ext.healing.bridge import (
    FULL,
    Bridge,
    check_rank,
    put_bridge,
    remove_bridges,
)
from speechbrain_ext.healing.lora import ADAPTER
from speechbrain_ext.layers.linear_map import LinearMap, MapSums
from speechbrain_ext.layers.lm_calls import decoder_layers
from speechbrain_ext.layers.residual import no_numbers, target_loss
from speechbrain_ext.layers.streams import states_at
from speechbrain_ext.layers.weights import read_tensors
from speechbrain_ext.model.prompt import IGNORE

POSITIONS = ("all", "target")


@torch.no_grad()
def folded_weights(down_proj, weight_DD):
    """Weight and bias of an MLP's last matrix with a map behind it."""
    old = down_proj.weight
    step_DD = weight_DD.to(old.device, torch.float64)

    def folded(value):
        """The weight with the map in it."""
        value = value.double()
        return (value + step_DD @ value).to(old.dtype)

    bias = down_proj.bias
    return folded(old), None if bias is None else folded(bias)


def put_down_proj(layer, weight, bias=None):
    """Exchange the last matrix of a layer's MLP."""
    # New parameters, not new values: a whole model may share the old ones.
    down_proj = layer.mlp.down_proj
    down_proj.weight = torch.nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        down_proj.bias = torch.nn.Parameter(bias, requires_grad=False)


def fold_maps(decoder, weights: dict[int, torch.Tensor]) -> None:
    """Fold maps into a decoder's layers, in place."""
    check_layer_before(weights)
    layers = decoder_layers(decoder)
    for index, weight_DD in weights.items():
        weight_DD = weight_DD.detach().float().cpu().contiguous()
        layer = layers[index - 1]
        put_down_proj(layer, *folded_weights(layer.mlp.down_proj, weight_DD))
        decoder.folded[index] = weight_DD


def check_layer_before(receivers: Iterable[int]) -> None:
    """Refuse a receiving layer that has no layer before it."""
    if 0 in receivers:
        raise ValueError(
            "healing: the first layers were removed, so that there is no "
            "layer before the gap to fold a map into: keep layer 0, or choose "
            "bridge form: fixed"
        )


def save_folds(decoder, path: str) -> None:
    """Write what was folded as safetensors: ``<receiving layer>.weight``."""
    save_file(
        {f"{index}.weight": value for index, value in decoder.folded.items()},
        path,
    )


def load_folds(decoder, path: str) -> None:
    """Fold saved maps into a decoder, in place."""
    weights = read_tensors(path)
    fold_maps(decoder, {int(k.split(".")[0]): v for k, v in weights.items()})


def on_device(sequence, device: str | torch.device):
    """A `speechbrain_ext.model.prompt.Sequence`, its tensors on a device."""
    parts = {
        name: value.to(device) if torch.is_tensor(value) else value
        for name, value in vars(sequence).items()
    }
    return type(sequence)(**parts)


def position_weights(sequence, positions: str = "all") -> torch.Tensor:
    """How much each position counts in a fit."""
    if positions not in POSITIONS:
        raise ValueError(
            f"positions: {positions!r} is none of {', '.join(POSITIONS)}."
        )
    if positions == "target":
        return (sequence.labels_BQ != IGNORE).float()
    return sequence.mask_BQ.float()


@torch.no_grad()
def held_out_loss(decoder, sequences: Iterable) -> float:
    """Mean negative log-likelihood per target token, in nats."""
    sums = torch.zeros(2, dtype=torch.float64, device=decoder.device)
    for sequence in sequences:
        logits_NV, labels_N = decoder.target_logits(
            on_device(sequence, decoder.device)
        )
        sums[0] += target_loss(logits_NV, labels_N)
        sums[1] += len(labels_N)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    if not sums[1]:
        raise ValueError("healing: no held-out target to judge a map by.")
    return (sums[0] / sums[1]).item()


@dataclass
class FittedMap:
    """A map, and how it came to be."""

    map: LinearMap
    strength: float | None = None
    positions: int = 0
    losses: dict = field(default_factory=dict)

    def told(self) -> dict:
        """What a result keeps of it."""
        return {
            "ridge": self.strength,
            "positions": self.positions,
            "losses": {str(k): v for k, v in self.losses.items()},
        }


def fit_in_sequence(
    whole,
    pruned,
    layers,
    rows,
    held_out,
    strengths,
    form="module",
    rank=FULL,
    positions="all",
):
    """Fit a map in front of each layer; leaves both decoders as they were.

    Layers are numbered as in the pruned one. Maps are fitted on some
    assembled rows, and of the ridge strengths (shares of the states' mean
    variance) that one is taken which does best on those held out. Gives a
    `FittedMap` for each layer.
    """
    check_rank(rank, pruned.width)
    fitted, places = {}, []
    try:
        for index in sorted(layers):
            sums = _sums(whole, pruned, index, rows, form, positions)
            places.append(_Place(pruned, index, form))
            fitted[index] = _choose(sums, places[-1], held_out, strengths, rank)
    finally:
        for place in places:
            place.clear()
    return fitted


def _choose(sums, place, held_out, strengths, rank):
    """The map of the best ridge, which stays in its place (FittedMap)."""

    def lowered(linear_map):
        """The map at the bridge's rank."""
        if rank == FULL:
            return linear_map
        return linear_map.lowered(rank, sums.covariance())

    identity = lowered(LinearMap.identity(sums.width, sums.x_D.device))
    candidates = {None: identity}
    candidates |= {one: lowered(sums.solve(one)) for one in strengths}
    losses = {}
    for strength, linear_map in candidates.items():
        place.put(linear_map)
        losses[strength] = held_out_loss(place.decoder, held_out)
    if not math.isfinite(losses[None]):
        place.put(identity)
        _refuse_held_out(place.decoder, held_out)
    best = least_loss(losses)
    place.put(candidates[best])
    return FittedMap(candidates[best], best, int(sums.count), losses)


def _refuse_held_out(decoder, sequences):
    """Say whose loss it is that is no number (ValueError)."""
    bad = []
    for sequence in sequences:
        logits_NV, labels_N = decoder.target_logits(
            on_device(sequence, decoder.device)
        )
        bad_N = ~target_loss(logits_NV, labels_N, "none").isfinite()
        counts_B = (sequence.labels_BQ != IGNORE).sum(1).tolist()
        bad += _named(sequence, [one.any() for one in bad_N.split(counts_B)])
    raise ValueError(no_numbers(bad or ["an utterance"], "the held-out loss"))


def _named(sequence, bad_B):
    """Names of those rows of a batch that are marked (list of str)."""
    rows = range(len(sequence.mask_BQ))
    names = sequence.names or [f"row {row} of a batch" for row in rows]
    return [name for name, bad in zip(names, bad_B) if bad]


def least_loss(losses: dict) -> float | None:
    """The ridge of least loss; None, the identity, among equals."""
    # It is the first; a map that is not finite loses.
    return min(losses, key=lambda s: (not math.isfinite(losses[s]), losses[s]))


def _sums(whole, pruned, index, rows, form, positions):
    """Sums over all rows for the map in front of a layer."""
    folded = form == "folded"
    device = pruned.device
    # The sums of the MLP's map have no bias: there is nowhere to put one.
    sums = MapSums(pruned.width, bias=not folded, device=device)
    count, bad = 0, []
    for sequence in rows:
        sequence = on_device(sequence, device)
        before_BQD, m_BQD = states_at(pruned, index, sequence, mlp=folded)
        after_BQD, _ = states_at(whole, pruned.kept[index], sequence)
        x_BQD = m_BQD if folded else before_BQD
        y_BQD = after_BQD.double() - before_BQD.double()
        weights_BQ = position_weights(sequence, positions)
        real = weights_BQ > 0
        sums.add(x_BQD[real], y_BQD[real], weights_BQ[real])
        count += len(sequence.mask_BQ)
        is_bad_BQ = ~y_BQD.isfinite().all(-1) & real
        bad += _named(sequence, is_bad_BQ.any(1).tolist())
    sums.add_up()
    if bad:
        what = "a state that a map is to be fitted on"
        raise ValueError(no_numbers(bad, what))
    sums.check(f"from {count} utterances, counting {positions} positions")
    return sums


class _Place:
    """Where a map is tried, and stays in the end."""

    def __init__(self, decoder, index, form):
        self.decoder, self.form = decoder, form
        layers = decoder_layers(decoder)
        self.layer = layers[index - 1] if form == "folded" else layers[index]
        if form == "folded":
            self.down_proj = torch.nn.Linear(1, 1)
            self.down_proj.weight = self.layer.mlp.down_proj.weight
            self.down_proj.bias = self.layer.mlp.down_proj.bias

    def put(self, linear_map):
        """Let the decoder run with this map."""
        if self.form == "folded":
            weight_DD = linear_map.weight_DD.float()
            weights = folded_weights(self.down_proj, weight_DD)
            put_down_proj(self.layer, *weights)
            return
        bridge = Bridge(self.decoder.width).requires_grad_(False)
        bridge.start_from(linear_map)
        put_bridge(self.layer, bridge.to(self.decoder.device).eval(), ADAPTER)

    def clear(self):
        """Leave the decoder as it was found."""
        if self.form == "folded":
            self.layer.mlp.down_proj.weight = self.down_proj.weight
            self.layer.mlp.down_proj.bias = self.down_proj.bias
        else:
            remove_bridges(self.decoder)
