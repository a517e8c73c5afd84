"""What pruning does to a score: the paper's relative degradation and depth.

Authors
 * The speechbrain_ext authors, 2026
"""

import math


def relative_degradation(score, baseline, higher_is_better=False):
    """How much worse a score is than its baseline, as a share of it.

    (WER - WER0) / WER0, or (BLEU0 - BLEU) / BLEU0 (the paper's delta); below
    zero where the pruned model is the better one.

    Arguments
    ---------
    score : float
        The pruned model's score.
    baseline : float
        The unpruned model's score, on the same set.
    higher_is_better : bool
        True for BLEU and chrF, False for WER.

    Returns
    -------
    float
        The relative degradation; 0.25 says a quarter worse.

    Raises
    ------
    ValueError
        If the baseline is zero or not a number.

    Example
    -------
    >>> relative_degradation(2.5, 2.0)
    0.25
    >>> relative_degradation(36.0, 40.0, higher_is_better=True)
    0.1
    """
    if not (math.isfinite(baseline) and baseline > 0):
        raise ValueError(
            f"a relative degradation needs a baseline above zero, not "
            f"{baseline}: measure the baseline on a larger set"
        )
    change = baseline - score if higher_is_better else score - baseline
    return change / baseline


def largest_depth(degradations, threshold=0.25):
    """The most layers that can go with every set within the threshold.

    All evaluation sets must be within it at once (paper, caption of
    Figure 2). A deeper model that is within it again counts, even where one
    before it was not. A depth that lacks a set, or whose value is None or
    NaN, is not known to be within it and does not count.

    Arguments
    ---------
    degradations : dict of int to dict of str to float
        For each number of removed layers the relative degradation by set.
    threshold : float
        0.25 for recognition, 0.10 for translation in the paper.

    Returns
    -------
    int
        The number of layers; 0 where no depth is within the threshold.

    Example
    -------
    >>> largest_depth({2: {"clean": 0.1, "other": 0.2},
    ...                4: {"clean": 0.2, "other": 0.3}})
    2
    """
    wanted = {name for by_set in degradations.values() for name in by_set}
    within = [
        depth
        for depth, by_set in degradations.items()
        if set(by_set) == wanted and wanted and _all_within(by_set, threshold)
    ]
    return max(within, default=0)


def _all_within(by_set, threshold):
    # A comparison with NaN is false, so that NaN is never within.
    return all(v is not None and v <= threshold for v in by_set.values())
