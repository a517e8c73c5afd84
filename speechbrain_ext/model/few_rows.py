"""An LM head on a few rows, in the order that a CPU is faster in."""

import torch

# A CPU multiplies a large vocabulary's head by a few rows faster in the other
# order, and by one row, where rows are narrow, faster if there are two of it:
# the usual ways read the head at less than half of the memory's speed.
FEW_ROWS = 7
NARROW = 1024
LARGE_VOCABULARY = 8192


def head(lm_head, h_BD):
    """Logits ``[B, V]`` of a few rows; see `FEW_ROWS`."""
    rows, width = h_BD.shape
    few = rows <= FEW_ROWS and (rows > 1 or width <= NARROW)
    on_cpu = h_BD.device.type == "cpu" and h_BD.dtype == torch.float32
    if few and on_cpu and _is_large_and_plain(lm_head):
        twice_BD = h_BD.repeat(2, 1) if rows == 1 else h_BD
        return (lm_head.weight @ twice_BD.T).T[:rows].contiguous()
    return lm_head(h_BD)


def _is_large_and_plain(lm_head):
    """Whether a head is a large matrix and nothing else."""
    plain = type(lm_head) is torch.nn.Linear and lm_head.bias is None
    # Whoever has hooked something on is to be called.
    hooked = lm_head._forward_hooks or lm_head._forward_pre_hooks
    return plain and not hooked and lm_head.out_features >= LARGE_VOCABULARY
