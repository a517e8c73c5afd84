"""CTC of projected speech against the LLM's own embeddings."""

import math

import torch

from speechbrain_ext.training.alignment import token_log_probs


def test_speech_that_is_an_embedding_is_that_token():
    """Speech at a token's embedding, or at their mean, is that token or none."""
    torch.manual_seed(0)
    e_CD = torch.randn(7, 32)
    for length in (0.5, 1.0, 4.0):
        own_CD = e_CD * length
        p_SD = torch.cat([own_CD.mean(0, keepdim=True), own_CD])
        log_probs_BSC = token_log_probs(p_SD[None], own_CD)
        assert log_probs_BSC[0].argmax(-1).tolist() == list(range(8))
        total = log_probs_BSC.exp().sum(-1)
        assert torch.allclose(total, torch.ones_like(total))
        # Neither how long embeddings are nor their type changes what is seen.
        one_BSC = token_log_probs(p_SD[None] / length, e_CD)
        assert torch.allclose(log_probs_BSC, one_BSC, atol=1e-4)


def test_it_is_the_softmax_of_squared_distances():
    """The squares of p, left out, change nothing."""
    torch.manual_seed(1)
    e_CD, p_BSD = torch.randn(3, 4), torch.randn(2, 5, 4)
    points_CD = torch.cat([e_CD.mean(0, keepdim=True), e_CD])
    distances_BSC = torch.cdist(p_BSD, points_CD[None]).square()
    # But for how frequent the blank is.
    frequent = torch.tensor([math.log(3), 0, 0, 0])
    log_probs_BSC = token_log_probs(p_BSD, e_CD) - frequent
    ratio = log_probs_BSC.diff(dim=-1) / distances_BSC.diff(dim=-1)
    assert torch.allclose(ratio, ratio.mean().expand_as(ratio), rtol=1e-3)
    assert ratio.mean() < 0
    # Half precision is too coarse for it.
    with torch.autocast("cpu", torch.bfloat16):
        again_BSC = token_log_probs(p_BSD, e_CD) - frequent
    assert again_BSC.equal(log_probs_BSC)
