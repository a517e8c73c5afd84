"""A map for each gap, one after the other, its ridge chosen on other data.

A later gap is fitted on what the pruned decoder says with the earlier maps
in it, so that it also mends what those left wrong.

Authors
 * The speechbrain_ext authors, 2026
"""

import math
from dataclasses import dataclass, field

import torch

from speechbrain_ext.closed_form_map.linear_map import LinearMap
from speechbrain_ext.closed_form_map.states import (
    cross_entropy,
    on_device,
    position_weights,
    states_at,
)
from speechbrain_ext.closed_form_map.sums import MapSums
from speechbrain_ext.healing.adapters import ADAPTER
from speechbrain_ext.healing.bridge import (
    FULL,
    Bridge,
    put_bridge,
    remove_bridges,
)
from speechbrain_ext.healing.folding import folded_weights, put_down_proj
from speechbrain_ext.pruning import decoder_layers

FORMS = ("module", "folded")


@dataclass
class FittedMap:
    """A map, and how it came to be.

    Arguments
    ---------
    map : LinearMap
        The best on held-out data; the identity where none was better.
    strength : float or None
        Its ridge; None: the identity.
    positions : int
        How many it was fitted on.
    losses : dict
        Ridge (None: the identity) to cross-entropy on held-out data, in nats
        per target token.

    Example
    -------
    >>> FittedMap(LinearMap.identity(4)).told()
    {'ridge': None, 'positions': 0, 'losses': {}}
    """

    map: LinearMap
    strength: float | None = None
    positions: int = 0
    losses: dict = field(default_factory=dict)

    def told(self):
        """What a result keeps of it (dict)."""
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

    Arguments
    ---------
    whole : speechbrain_ext.decoder.Decoder
        The unpruned decoder; is left as it is.
    pruned : speechbrain_ext.decoder.Decoder
        The pruned one, without adapters and bridges.
    layers : iterable of int
        Indices in the pruned decoder, such as its receiving layers.
    rows : list of speechbrain_ext.prompt.Sequence
        To fit on; gone through once for each layer.
    held_out : list of speechbrain_ext.prompt.Sequence
        With labels, to choose the ridge by; once for each layer and ridge.
    strengths : list of float
        Ridges to try, each a share of the states' mean variance.
    form : str
        "module": in the receiving layer's input, with a bias; "folded": in
        the MLP of the layer before, without.
    rank : int or "full"
        Rank of the maps.
    positions : str
        As `speechbrain_ext.closed_form_map.states.position_weights`.

    Returns
    -------
    dict
        Layer index to `FittedMap`.

    Raises
    ------
    ValueError
        If there are too few positions, or nothing is held out.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> whole, pruned = tiny_speech_llm(), tiny_speech_llm(removed=[1])
    >>> x_BSF, tokens_B = torch.rand(4, 9, 48), torch.tensor([9, 9, 9, 9])
    >>> targets = [torch.arange(5, 15)] * 4
    >>> rows = [whole.sequence(x_BSF, tokens_B, targets)]
    >>> fit_in_sequence(
    ...     whole.decoder.eval(), pruned.decoder.eval(), [1], rows, rows, [0.1]
    ... )[1].positions > 64
    True
    """
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
        if rank == FULL:
            return linear_map
        return linear_map.lowered(rank, sums.covariance())

    identity = lowered(LinearMap.identity(sums.width, sums.x_D.device))
    candidates = {None: identity}
    candidates |= {one: lowered(sums.solve(one)) for one in strengths}
    losses = {}
    for strength, linear_map in candidates.items():
        place.put(linear_map)
        losses[strength] = cross_entropy(place.decoder, held_out)
    # The first of equals is the identity; a map that is not finite loses.
    best = min(losses, key=lambda s: (not math.isfinite(losses[s]), losses[s]))
    place.put(candidates[best])
    return FittedMap(candidates[best], best, int(sums.count), losses)


def _sums(whole, pruned, index, rows, form, positions):
    """Sums over all rows for the map in front of a layer."""
    folded = form == "folded"
    device = pruned.device
    # The sums of the MLP's map have no bias: there is nowhere to put one.
    sums = MapSums(pruned.width, bias=not folded, device=device)
    count = 0
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
    sums.add_up()
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
