"""Ridge regression of the difference across a gap, from streamed sums.

Only sums of products are kept, in float64: how states come in batches, in
which order and with how much padding does not matter, and memory is that of
a few D x D matrices whatever the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from speechbrain_ext.layers.residual import refuse_overflow

# Positions for each value of the width, below which no map is fitted.
LEAST = 2


@dataclass(frozen=True)
class LinearMap:
    """A linear step beside the identity, h -> h + W h + b, as a value."""

    weight_DD: torch.Tensor
    bias_D: torch.Tensor | None = None
    up_DR: torch.Tensor | None = None
    down_RD: torch.Tensor | None = None

    def __call__(self, h_BQD):
        """States of shape ``[*, D]`` across the gap, in their own type."""
        weight_DD = self.weight_DD.to(h_BQD.device)
        bias_D = self.bias_D
        if bias_D is not None:
            bias_D = bias_D.to(weight_DD)
        x_BQD = h_BQD.to(weight_DD.dtype)
        step_BQD = torch.nn.functional.linear(x_BQD, weight_DD, bias_D)
        return h_BQD + step_BQD.to(h_BQD.dtype)

    @classmethod
    def identity(cls, width, device="cpu"):
        """The map that changes nothing, of a width D."""
        shape = (width, width)
        return cls(torch.zeros(shape, dtype=torch.float64, device=device))

    def lowered(self, rank, covariance_DD):
        """The map of this rank that says nearly the same on the same states."""
        said_DD = self.weight_DD @ covariance_DD @ self.weight_DD.T
        # U U^T W, with the main directions U of what W says, is the nearest of
        # this rank on such states. Ascending: the last are the main ones.
        up_DR = torch.linalg.eigh(said_DD)[1][:, -rank:]
        down_RD = up_DR.T @ self.weight_DD
        return LinearMap(up_DR @ down_RD, self.bias_D, up_DR, down_RD)


class MapSums:
    """Sums over positions; gives a map for each ridge strength."""

    def __init__(self, width, bias=True, device="cpu"):
        self.width = width
        self.bias = bias

        def zeros(*shape):
            """Sums in double precision."""
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        self.count = zeros(1)  # positions, whatever they weigh
        self.weight = zeros(1)
        self.x_D, self.y_D = zeros(width), zeros(width)
        self.xx_DD, self.xy_DD = zeros(width, width), zeros(width, width)

    def add(self, x_ND, y_ND, weights_N=None):
        """Add states, and the differences that the map has to say of them."""
        device = self.x_D.device
        x_ND, y_ND = x_ND.to(device).double(), y_ND.to(device).double()
        if weights_N is None:
            weights_N = x_ND.new_ones(len(x_ND))
        weights_N = weights_N.to(device).double()
        heavy_ND = weights_N[:, None] * x_ND
        self.count += (weights_N > 0).sum()
        self.weight += weights_N.sum()
        self.x_D += heavy_ND.sum(0)
        self.y_D += weights_N @ y_ND
        self.xx_DD += heavy_ND.T @ x_ND
        self.xy_DD += heavy_ND.T @ y_ND

    def add_up(self):
        """Add up the sums of all processes, each of which had its share."""
        if torch.distributed.is_initialized():
            for name in ("count", "weight", "x_D", "y_D", "xx_DD", "xy_DD"):
                torch.distributed.all_reduce(getattr(self, name))

    def check(self, what: str = "positions") -> None:
        """Refuse too few positions, and states that are no numbers."""
        least, count = LEAST * self.width, int(self.count)
        if count < least:
            raise ValueError(
                f"healing: a map of width {self.width} wants at least {least} "
                f"positions, {LEAST} for each value, and there are {count} "
                f"({what}): give more data."
            )
        refuse_overflow(
            torch.stack([self.xx_DD.sum(), self.xy_DD.sum()]),
            "sums over the states that a map is fitted on",
        )

    def covariance(self):
        """Covariance of the states, ``[D, D]``; about zero without a bias."""
        xx_DD = self.xx_DD / self.weight
        if self.bias:
            mean_D = self.x_D / self.weight
            xx_DD = xx_DD - torch.outer(mean_D, mean_D)
        return xx_DD

    def solve(self, strength: float) -> LinearMap:
        """The map of one ridge strength, a share of the mean variance."""
        xx_DD, xy_DD = self.covariance(), self.xy_DD / self.weight
        if self.bias:
            mean_x_D, mean_y_D = self.x_D / self.weight, self.y_D / self.weight
            xy_DD = xy_DD - torch.outer(mean_x_D, mean_y_D)
        ridge = strength * xx_DD.diagonal().mean()
        eye_DD = torch.eye(self.width).to(xx_DD)
        weight_DD = torch.linalg.solve(xx_DD + ridge * eye_DD, xy_DD).T
        if not self.bias:
            return LinearMap(weight_DD.contiguous())
        bias_D = mean_y_D - weight_DD @ mean_x_D
        return LinearMap(weight_DD.contiguous(), bias_D)


def fit_map(
    states_before, states_after, strength=0.01, weights=None, bias=True
):
    """The map across a gap, from states on both sides of it."""
    if torch.is_tensor(states_before):
        states_before, states_after = [states_before], [states_after]
        weights = None if weights is None else [weights]
    first = states_before[0]
    sums = MapSums(first.shape[-1], bias, first.device)
    for place, (before, after) in enumerate(zip(states_before, states_after)):
        x_ND = before.reshape(-1, sums.width).double()
        y_ND = after.reshape(-1, sums.width).double() - x_ND
        if weights is None:
            sums.add(x_ND, y_ND)
        else:
            sums.add(x_ND, y_ND, weights[place].reshape(-1))
    sums.check()
    return sums.solve(strength)
