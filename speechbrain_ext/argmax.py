"""The best entry of each row of a wide tensor, in one pass over it.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch

# A vocabulary is looked through in stretches of this size.
STRETCH = 128


def first_best(logits_BV):
    """The best id of each row; among equals, the smallest.

    Equal logits come out a rounding apart in batches of different size, so
    that plain ``argmax`` would take one of them here and another there:
    whatever is within a few roundings of float32 of the best counts as equal.
    Half precision is coarser than that; see `speechbrain_ext.greedy`.

    Only the best of each stretch of the vocabulary is computed over the whole
    width; the search for the smallest id looks at those and at one stretch.

    Arguments
    ---------
    logits_BV : torch.Tensor
        Scores.

    Returns
    -------
    torch.Tensor
        Shape ``[B]``, int64.

    Example
    -------
    >>> first_best(torch.tensor([[0.0, 2.0, 2.0]]))
    tensor([1])
    """
    logits_BV = logits_BV.float()
    missing = -logits_BV.shape[-1] % STRETCH
    if missing:
        logits_BV = torch.nn.functional.pad(
            logits_BV, (0, missing), value=-torch.inf
        )
    # P stretches of W entries each.
    logits_BPW = logits_BV.unflatten(-1, (-1, STRETCH))
    best_BP = logits_BPW.amax(dim=-1)
    best_B = best_BP.amax(dim=-1, keepdim=True)
    least_B = best_B - 4 * torch.finfo(torch.float32).eps * best_B.abs()
    # argmax of 0 and 1: the first 1.
    stretch_B = (best_BP >= least_B).int().argmax(dim=-1)
    index_B1W = stretch_B[:, None, None].expand(-1, 1, STRETCH)
    inside_BW = logits_BPW.gather(1, index_B1W)[:, 0]
    place_B = (inside_BW >= least_B).int().argmax(dim=-1)
    return stretch_B * STRETCH + place_B
