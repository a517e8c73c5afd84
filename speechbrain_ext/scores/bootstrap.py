"""How sure a score is: the bootstrap over utterances.

Every score here is a function of sums over utterances (errors and words for
WER, n-gram counts for BLEU). A set of U utterances is drawn again U at a time
with replacement; the score of each such set shows how much the score hangs on
which utterances happened to be in it. Legend for shapes: U utterances, K
counts of each, R resampled sets.

Two systems on the same utterances are resampled together, so that what is
hard for both does not blur their difference. Any other figure (a ratio of two
degradations, say) is a statistic over the columns of several systems side by
side: see `bootstrap_interval`.
"""

import math
from dataclasses import dataclass

import numpy as np

# Drawn utterances held at a time: bounds the memory to some 100 MB.
_DRAWN_AT_ONCE = 4_000_000


def wer_counts(errors):
    """Errors and words of each utterance, as the bootstrap wants them."""
    counts = [(one.errors, one.words) for one in errors]
    return np.asarray(counts, dtype=np.float64).reshape(-1, 2)


def wer_from_sums(sums_RK):
    """Word error rate of sets given by their summed counts."""
    errors_R, words_R = sums_RK[:, 0], sums_RK[:, 1]
    return 100 * _ratio(errors_R, words_R)


def degradation_from_sums(statistic, higher_is_better=False):
    """The relative degradation as a statistic of two systems side by side."""
    sign = -1 if higher_is_better else 1

    def degradation(sums_RK):
        half = sums_RK.shape[1] // 2
        score_R = statistic(sums_RK[:, :half])
        baseline_R = statistic(sums_RK[:, half:])
        return _ratio(sign * (score_R - baseline_R), baseline_R)

    return degradation


def _ratio(above_R, below_R):
    with np.errstate(divide="ignore", invalid="ignore"):
        return above_R / below_R


def _resample(counts_UK, n, seed):
    """Sums ``[n, K]`` of n sets of U utterances drawn with replacement."""
    generator = np.random.default_rng(seed)
    utterances = len(counts_UK)
    at_once = max(1, _DRAWN_AT_ONCE // utterances)
    sums = []
    for first in range(0, n, at_once):
        rows = min(at_once, n - first)
        drawn = generator.integers(utterances, size=(rows, utterances))
        # How often each utterance was drawn; then one matrix product sums.
        drawn += np.arange(rows)[:, None] * utterances
        times = np.bincount(drawn.ravel(), minlength=rows * utterances)
        sums.append(times.reshape(rows, utterances) @ counts_UK)
    return np.concatenate(sums)


def _percentiles(values_R, level):
    """The middle ``level`` of the values; (nan, nan) where none is known."""
    known_R = values_R[~np.isnan(values_R)]
    if known_R.size == 0:
        return float("nan"), float("nan")
    ends = [50 * (1 - level), 50 * (1 + level)]
    # The nearest value and not one between two: infinities stay sound.
    low, high = np.percentile(known_R, ends, method="nearest")
    return float(low), float(high)


def _as_counts(counts_UK):
    counts_UK = np.asarray(counts_UK, dtype=np.float64)
    if counts_UK.ndim != 2 or len(counts_UK) == 0:
        raise ValueError(
            "the bootstrap wants counts of shape [utterances, counts] with "
            f"at least one utterance, not {counts_UK.shape}"
        )
    return counts_UK


def bootstrap_interval(counts_UK, statistic, n=1000, seed=0, level=0.95):
    """Percentile bootstrap interval of a score over utterances."""
    counts_UK = _as_counts(counts_UK)
    return _percentiles(statistic(_resample(counts_UK, n, seed)), level)


@dataclass(frozen=True)
class Difference:
    """The difference of two systems on the same utterances.

    Arguments
    ---------
    value : float
        Score of the first minus score of the second.
    low, high : float
        Its 95 % interval (or the level asked for).
    p_value : float
        Two-sided: twice the share of drawn sets on which the difference is
        zero or has the other sign.
    """

    value: float
    low: float
    high: float
    p_value: float


def bootstrap_difference(a, b, statistic, n=1000, seed=0, level=0.95):
    """Compare two systems on the same utterances, resampled together.

    Arguments
    ---------
    a, b : dict of str to numpy.ndarray
        For each utterance id its counts ``[K]``; the order does not matter.
    statistic : callable
        From sums ``[R, K]`` to scores ``[R]``, as in `bootstrap_interval`.
    n : int
        How many sets are drawn.
    seed : int
        Of the drawing.
    level : float
        Share of the drawn differences inside the interval.

    Returns
    -------
    Difference
        Score of ``a`` minus score of ``b``, with interval and p-value.

    Raises
    ------
    ValueError
        If the two systems were not scored on the same utterances.
    """
    _check_same_ids(a, b)
    ids = sorted(a)
    counts_a = _as_counts([a[name] for name in ids])
    counts_b = _as_counts([b[name] for name in ids])
    both = np.hstack([counts_a, counts_b])
    width = counts_a.shape[1]

    def difference(sums_RK):
        return statistic(sums_RK[:, :width]) - statistic(sums_RK[:, width:])

    value = float(difference(both.sum(axis=0, keepdims=True))[0])
    drawn_R = difference(_resample(both, n, seed))
    against = min((drawn_R <= 0).sum(), (drawn_R >= 0).sum())
    # The sample itself counts as one draw: no p-value is ever quite zero.
    p_value = min(1.0, 2 * (against + 1) / (n + 1))
    low, high = _percentiles(drawn_R, level)
    return Difference(value, low, high, float(p_value))


def _check_same_ids(a, b):
    if set(a) == set(b):
        return
    only_a, only_b = sorted(set(a) - set(b)), sorted(set(b) - set(a))
    raise ValueError(
        "the two systems were not scored on the same utterances: "
        f"{len(only_a)} only in the first {only_a[:3]}, {len(only_b)} only "
        f"in the second {only_b[:3]}; score both on one set"
    )


# ----------------------------------------------------------------------------
# What pruning does to a score: the paper's relative degradation and depth.


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
