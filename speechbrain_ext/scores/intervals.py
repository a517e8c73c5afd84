"""How sure a score is: speakers are left out one by one.

Utterances of one speaker are not independent: one voice may make half of all
errors. What is drawn by chance is the speaker (and, where several were run,
the seed), so each is left out in turn and the figure computed again from the
sums of the others. How much it moves gives its standard error (the delete-one
jackknife), Student's t the interval, on a scale where a ratio is a difference.
Any figure of several systems (a degradation, a ratio of two) is left out in
the same way, and what is hard for all of them cancels. Legend for shapes: U
utterances, K counts of each, G groups (speakers), R sets of summed counts.

Efron and Tibshirani, An Introduction to the Bootstrap (1993), chapter 11;
Bisani and Ney, Bootstrap estimates for confidence intervals in ASR (2004), on
why errors of systems are compared on the same draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from numbers import Real

import numpy as np

# The error counts of so few words that no error at all says this at most:
# the upper end of the exact 95 % interval of a Poisson count of 0.
MOST_WITHOUT_ERROR = 3.689
# Exchanges of labels that are tried: all of them for up to 14 speakers.
EXCHANGES = 2**14


@dataclass(frozen=True)
class Scale:
    """A scale on which a statistic is nearly symmetric about the truth."""

    there: Callable
    back: Callable


def _logit(value):
    return np.log(value) - np.log(100 - value)


PLAIN = Scale(lambda v: v, lambda v: v)
LOG = Scale(np.log, np.exp)
# Of a score between 0 and 100.
LOGIT = Scale(_logit, lambda v: 100 / (1 + np.exp(-v)))
# Of a relative degradation: that of the ratio of the two scores.
WORSE = Scale(np.log1p, np.expm1)
LESS = Scale(lambda v: -np.log1p(-v), lambda v: -np.expm1(-v))


def scale_of(metric: str) -> Scale:
    """The scale of a score; a WER may pass 100."""
    return LOG if metric == "WER" else LOGIT


def degradation_scale(higher_is_better: bool) -> Scale:
    """The scale of a relative degradation."""
    return LESS if higher_is_better else WORSE


def wer_from_sums(sums_RK):
    """Word error rate of sets given by their summed counts."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return 100 * (sums_RK[:, 0] / sums_RK[:, 1])


def group_sums(
    counts_UK, groups: Sequence[Hashable]
) -> tuple[np.ndarray, list]:
    """Counts summed over the utterances of each speaker.

    Arguments
    ---------
    counts_UK : array_like
        What a score is summed from, ``[U, K]``.
    groups : sequence of hashable
        The speaker of each utterance.

    Returns
    -------
    sums_GK : numpy.ndarray
        ``[G, K]``.
    names : list
        The G speakers, in the order of their first utterance.
    """
    counts_UK = np.asarray(counts_UK, dtype=np.float64)
    if counts_UK.ndim != 2 or len(counts_UK) != len(groups) or not groups:
        raise ValueError(
            "an interval wants counts of shape [utterances, counts] with at "
            f"least one utterance and a speaker of each, not "
            f"{counts_UK.shape} and {len(groups)} speakers"
        )
    places = {name: i for i, name in enumerate(dict.fromkeys(groups))}
    sums_GK = np.zeros((len(places), counts_UK.shape[1]))
    np.add.at(sums_GK, [places[name] for name in groups], counts_UK)
    return sums_GK, list(places)


def left_out(sums_GK: np.ndarray) -> np.ndarray:
    """Sums ``[1 + G, K]``: of all groups, then of all but each."""
    total_K = sums_GK.sum(axis=0)
    return np.vstack([total_K, total_K - sums_GK])


def moved_together(values_RG: np.ndarray) -> np.ndarray:
    """Covariance ``[R, R]`` of R statistics by what leaving out moves them."""
    many = values_RG.shape[1]
    off_RG = values_RG - values_RG.mean(axis=1, keepdims=True)
    return (many - 1) / many * (off_RG @ off_RG.T)


def jackknife(groups: Iterable[np.ndarray]) -> tuple[float, float]:
    """Variance of a statistic, and its degrees of freedom.

    Arguments
    ---------
    groups : iterable of numpy.ndarray
        For each kind of chance (speakers of a set, seeds) the statistic's
        values ``[G]`` with each of its G members left out.

    Returns
    -------
    variance, freedom : float
        The sum of the kinds' variances; degrees of freedom by Satterthwaite.
        What two kinds have in common counts in both: never too narrow.
    """
    variance = weight = 0.0
    for values_G in groups:
        many = len(values_G)
        if many < 2:
            continue
        own = float(moved_together(values_G[None])[0, 0])
        variance += own
        weight += own**2 / (many - 1)
    return variance, variance**2 / weight if weight else math.inf


def t_bounds(
    value: float, variance: float, freedom: float, level: float = 0.95
) -> tuple[float, float]:
    """The ends of Student's interval about a value."""
    from scipy import stats

    half = stats.t.ppf((1 + level) / 2, freedom) * math.sqrt(variance)
    return float(value - half), float(value + half)


def score_interval(
    counts_UK,
    groups: Sequence[Hashable],
    metric: str,
    statistic: Callable,
    level: float = 0.95,
) -> list[float] | None:
    """The interval of one score over the speakers of its set.

    Arguments
    ---------
    counts_UK : array_like
        What the score is summed from, ``[U, K]``.
    groups : sequence of hashable
        The speaker of each utterance; where none is known, the utterances
        themselves.
    metric : str
        "WER", "BLEU" or "chrF".
    statistic : callable
        The score of R sets given their summed counts ``[R, K]``.
    level : float
        How often such an interval holds the true score.

    Returns
    -------
    list of float or None
        Its ends; None for a single speaker, from which nothing follows.
    """
    sums_GK, names = group_sums(counts_UK, groups)
    if len(names) < 2:
        return None
    values = np.asarray(statistic(left_out(sums_GK)), dtype=np.float64)
    if metric == "WER" and values[0] == 0:
        return [0.0, 100 * MOST_WITHOUT_ERROR / float(sums_GK[:, 1].sum())]
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = scale_of(metric)
        if not np.isfinite(scale.there(values)).all():
            scale = PLAIN
        moved = scale.there(values)
    if not np.isfinite(moved).all():
        return None
    ends = t_bounds(moved[0], *jackknife([moved[1:]]), level)
    # On the plain scale an end may pass what a score can be.
    most = math.inf if metric == "WER" else 100.0
    return [min(max(float(scale.back(end)), 0.0), most) for end in ends]


def fieller(
    value: float,
    base: float,
    covariance: np.ndarray,
    freedom: float,
    level: float = 0.95,
) -> tuple[float, float]:
    """The interval of a ratio whose base may be near zero (Fieller, 1954).

    Arguments
    ---------
    value, base : float
        What is divided, and by what.
    covariance : numpy.ndarray
        ``[2, 2]``, of the two.
    freedom : float
        Degrees of freedom of these.
    level : float
        How often such an interval holds the true ratio.

    Returns
    -------
    low, high : float
        Minus and plus infinity where the base may be zero: the data then
        exclude no ratio, or only some in the middle.
    """
    from scipy import stats

    t = float(stats.t.ppf((1 + level) / 2, freedom))
    a = base**2 - t**2 * covariance[1, 1]
    if a <= 0:
        return -math.inf, math.inf
    b = value * base - t**2 * covariance[0, 1]
    c = value**2 - t**2 * covariance[0, 0]
    # A ratio that is the same whoever is left out has a width of zero.
    root = math.sqrt(max(b**2 - a * c, 0.0))
    return (b - root) / a, (b + root) / a


def sign_permutation(
    first_GK: np.ndarray, second_GK: np.ndarray, statistic: Callable
) -> float:
    """Two-sided p-value of two systems' difference, their labels exchanged.

    If the systems were alike, which of a speaker's two sets of answers is
    whose would not matter. All ways to exchange them are tried for up to 14
    speakers (exact), and as many drawn ones beyond.

    Arguments
    ---------
    first_GK, second_GK : numpy.ndarray
        Summed counts of the same G speakers ``[G, K]``.
    statistic : callable
        The score of R sets given their summed counts ``[R, K]``.

    Returns
    -------
    float
        At least 1 / 2**G, or 1 / 16,385; 1 for a single speaker, from whom
        nothing follows.
    """
    from scipy import stats

    if len(first_GK) < 2:
        return 1.0
    counts = np.concatenate([first_GK, second_GK])
    many = len(first_GK)

    def difference(one, other, axis=-1):
        """Of two systems' scores, their answers exchanged."""
        # Places in `counts` are exchanged, so that all K counts go together.
        sums = [
            counts[np.asarray(places, dtype=int)].sum(axis=-2)
            for places in (one, other)
        ]
        scores = [statistic(np.atleast_2d(each)) for each in sums]
        found = scores[0] - scores[1]
        return found if np.ndim(one) > 1 else found[0]

    test = stats.permutation_test(
        (np.arange(many), many + np.arange(many)),
        difference,
        permutation_type="samples",
        vectorized=True,
        n_resamples=EXCHANGES,
        batch=1000,
        axis=-1,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values of several tests at once, each made larger (Holm, 1979).

    >>> [round(p, 6) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    adjusted, most = [0.0] * len(p_values), 0.0
    ranked = sorted(range(len(p_values)), key=lambda i: p_values[i])
    for rank, place in enumerate(ranked):
        own = min(1.0, (len(ranked) - rank) * p_values[place])
        most = max(most, own)
        adjusted[place] = most
    return adjusted


def relative_degradation(score, baseline, higher_is_better: bool = False):
    """How much worse a score is than its baseline, as a share of it.

    (WER - WER0) / WER0, or (BLEU0 - BLEU) / BLEU0 (the paper's delta); below
    zero where the pruned model is the better one.

    Arguments
    ---------
    score : float or numpy.ndarray
        The pruned model's score, or its values with each speaker left out
        (also as a type that does arithmetic on such values).
    baseline : float or numpy.ndarray
        The unpruned model's, on the same sets.
    higher_is_better : bool
        True for BLEU and chrF, False for WER.

    Returns
    -------
    float or numpy.ndarray
        The relative degradation; 0.25 says a quarter worse.

    Raises
    ------
    ValueError
        If a single baseline is zero or not a number.
    """
    change = baseline - score if higher_is_better else score - baseline
    # Of a statistic a speaker without whom no error is left gives no number.
    if isinstance(baseline, Real) and not 0 < float(baseline) < math.inf:
        raise ValueError(
            f"a relative degradation needs a baseline above zero, not "
            f"{baseline}: measure the baseline on a larger set"
        )
    return change / baseline
