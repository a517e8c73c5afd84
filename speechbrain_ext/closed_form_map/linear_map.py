"""A linear step beside the identity, as a plain value.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class LinearMap:
    """h -> h + W h + b; call it with states.

    Arguments
    ---------
    weight_DD : torch.Tensor
        W.
    bias_D : torch.Tensor or None
        b; None: there is none.
    up_DR, down_RD : torch.Tensor or None
        W's two factors, where its rank is below D.

    Example
    -------
    >>> gap = LinearMap(torch.eye(2), torch.ones(2))
    >>> gap(torch.tensor([[1.0, 2.0]]))
    tensor([[3., 5.]])
    """

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
        """The map of this rank that says nearly the same on the same states.

        Of all matrices of rank r, ``U U^T W`` with the r main directions U
        of W's outputs is the nearest to W in what it does to states of this
        covariance. The bias is not lowered.

        Arguments
        ---------
        rank : int
            r.
        covariance_DD : torch.Tensor
            Of the states that it was fitted on.

        Returns
        -------
        LinearMap
            With its two factors.
        """
        said_DD = self.weight_DD @ covariance_DD @ self.weight_DD.T
        # Ascending: the last are the main ones.
        up_DR = torch.linalg.eigh(said_DD)[1][:, -rank:]
        down_RD = up_DR.T @ self.weight_DD
        return LinearMap(up_DR @ down_RD, self.bias_D, up_DR, down_RD)
