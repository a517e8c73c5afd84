"""How sure a score is: the bootstrap over utterances.

Every score here is a function of sums over utterances (errors and words for
WER, n-gram counts for BLEU). A set of U utterances is drawn again U at a time
with replacement; the score of each such set shows how much the score hangs on
which utterances happened to be in it. Legend for shapes: U utterances, K
counts of each, R resampled sets.

Systems on the same utterances can be resampled together, so that what is hard
for all does not blur their difference: any figure of theirs (a difference, a
ratio of two degradations) is a statistic over their columns side by side, as
`bootstrap_interval` takes it. What pruning does to a score, the paper's
relative degradation, stands at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

# Drawn utterances held at a time: bounds the memory to some 100 MB.
_DRAWN_AT_ONCE = 4_000_000


def wer_from_sums(sums_RK):
    """Word error rate of sets given by their summed counts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * (sums_RK[:, 0] / sums_RK[:, 1])


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


def percentile_interval(values_R, level: float = 0.95) -> tuple[float, float]:
    """The middle ``level`` of drawn values; (nan, nan) where none is known.

    Arguments
    ---------
    values_R : numpy.ndarray
        ``[R]``, a statistic's value in each drawn set; NaN is left out.
    level : float
        Share of the values that lie inside.

    Returns
    -------
    low, high : float
        Two of the values.
    """
    known_R = values_R[~np.isnan(values_R)]
    if known_R.size == 0:
        return float("nan"), float("nan")
    # Rounded: the last bit of the level must not choose between two values.
    tail = round(50 * (1 - level), 9)
    # The nearest value and not one between two: infinities stay sound.
    low, high = np.percentile(known_R, [tail, 100 - tail], method="nearest")
    return float(low), float(high)


def _as_counts(counts_UK):
    counts_UK = np.asarray(counts_UK, dtype=np.float64)
    if counts_UK.ndim != 2 or len(counts_UK) == 0:
        raise ValueError(
            "the bootstrap wants counts of shape [utterances, counts] with "
            f"at least one utterance, not {counts_UK.shape}"
        )
    return counts_UK


def bootstrap_interval(
    counts_UK,
    statistic: Callable,
    n: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a score over utterances."""
    counts_UK = _as_counts(counts_UK)
    return percentile_interval(statistic(_resample(counts_UK, n, seed)), level)


def relative_degradation(score, baseline, higher_is_better: bool = False):
    """How much worse a score is than its baseline, as a share of it.

    (WER - WER0) / WER0, or (BLEU0 - BLEU) / BLEU0 (the paper's delta); below
    zero where the pruned model is the better one.

    Arguments
    ---------
    score : float or numpy.ndarray
        The pruned model's score, or its values in R drawn sets.
    baseline : float or numpy.ndarray
        The unpruned model's, on the same set or drawn sets.
    higher_is_better : bool
        True for BLEU and chrF, False for WER.

    Returns
    -------
    float or numpy.ndarray
        The relative degradation; 0.25 says a quarter worse. Of drawn sets
        NaN where the baseline is zero.

    Raises
    ------
    ValueError
        If a single baseline is zero or not a number.
    """
    change = baseline - score if higher_is_better else score - baseline
    if isinstance(baseline, np.ndarray):
        return change / np.where(baseline > 0, baseline, np.nan)
    if not (math.isfinite(baseline) and baseline > 0):
        raise ValueError(
            f"a relative degradation needs a baseline above zero, not "
            f"{baseline}: measure the baseline on a larger set"
        )
    return change / baseline
