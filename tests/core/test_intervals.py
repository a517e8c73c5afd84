"""How sure a score is: against closed forms, by hand, by trying all."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from speechbrain_ext.scores import intervals
from speechbrain_ext.scores.counts import STATISTICS, utterance_counts
from speechbrain_ext.scores.intervals import (
    fieller,
    group_sums,
    holm,
    jackknife,
    left_out,
    score_interval,
    sign_permutation,
    t_bounds,
    wer_from_sums,
)
from speechbrain_ext.scores.score import score_recognition


def test_a_mean_has_the_interval_of_every_textbook():
    """A mean has the interval of every textbook."""
    values = np.random.default_rng(0).normal(3, 2, size=9)
    sums = np.stack([values, np.ones(9)], axis=1)
    without = left_out(sums)
    means = without[:, 0] / without[:, 1]
    found = t_bounds(means[0], *jackknife([means[1:]]))
    expected = stats.t.interval(0.95, 8, values.mean(), stats.sem(values))
    assert found == pytest.approx(expected)


def test_two_kinds_of_chance_have_welchs_degrees_of_freedom():
    """Two kinds of chance have Welch's degrees of freedom."""
    generator = np.random.default_rng(1)
    one, other = generator.normal(0, 1, 6), generator.normal(0, 3, 11)
    without = [(v.sum() - v) / (len(v) - 1) for v in (one, other)]
    variance, freedom = jackknife(without)
    parts = [v.var(ddof=1) / len(v) for v in (one, other)]
    welch = sum(parts) ** 2 / sum(
        p**2 / (len(v) - 1) for p, v in zip(parts, (one, other))
    )
    assert (variance, freedom) == pytest.approx((sum(parts), welch))


def test_counts_are_summed_by_speaker_and_left_out():
    """Counts are summed by speaker and left out."""
    sums, names = group_sums([(1, 10), (2, 20), (4, 30)], ["b", "a", "b"])
    assert names == ["b", "a"]
    assert sums.tolist() == [[5, 40], [2, 20]]
    assert left_out(sums).tolist() == [[7, 60], [2, 20], [5, 40]]
    for counts, groups in (([], []), ([(1, 2)], ["a", "b"])):
        with pytest.raises(ValueError, match="a speaker of each"):
            group_sums(counts, groups)


def test_one_voice_with_most_errors_widens_the_interval():
    """One voice with most errors widens the interval."""
    # 51 errors of 900 words, 30 of them one speaker's.
    errors = np.array([30, 3, 3, 3, 3, 3, 2, 2, 2])
    rows = [(e / 10, 10) for e in errors for _ in range(10)]
    speakers = np.repeat(np.arange(9), 10).tolist()
    by_voice = score_interval(rows, speakers, "WER", wer_from_sums)
    alone = score_interval(rows, range(90), "WER", wer_from_sums)
    assert by_voice[1] - by_voice[0] > 2.5 * (alone[1] - alone[0])
    assert by_voice[0] > 0


def test_no_error_is_not_known_to_be_none():
    """No error is not known to be none."""
    rows = [(0, 50)] * 6
    low, high = score_interval(rows, list("abcdef"), "WER", wer_from_sums)
    assert low == 0
    # 300 words without an error: the exact Poisson bound.
    assert high == pytest.approx(100 * stats.chi2.ppf(0.975, 2) / 2 / 300, 1e-3)


def test_one_speaker_gives_no_interval():
    """One speaker gives no interval."""
    assert score_interval([(1, 9)] * 3, "aaa", "WER", wer_from_sums) is None
    rows = [
        {"id": str(i), "reference": "a b", "hypothesis": "a c", "speaker": "x"}
        for i in range(3)
    ]
    score, _ = score_recognition(rows)
    assert score.interval is None and score.value == 50


def test_a_score_stays_in_its_range():
    """A score stays in its range."""
    counts = [(1, 40), (0, 40), (0, 40)]
    low, high = score_interval(counts, "abc", "WER", wer_from_sums)
    assert 0 <= low < 100 / 120 < high
    refs = ["the cat sat on the mat today", "a b c d e f", "one two three four"]
    hyps = [refs[0], refs[1], "one two three for"]
    rows = [
        {"reference": ref, "hypothesis": hyp} for ref, hyp in zip(refs, hyps)
    ]
    table = utterance_counts(rows, "BLEU", "en")
    low, high = score_interval(table, "abc", "BLEU", STATISTICS["BLEU"])
    assert 0 <= low < high <= 100


def _by_hand(first, second):
    """All exchanges of two systems' speakers, one by one."""
    many = len(first)
    gap = abs(_gap(first, second))
    hits = 0
    for signs in itertools.product([False, True], repeat=many):
        swap = np.array(signs)[:, None]
        one = np.where(swap, second, first)
        other = np.where(swap, first, second)
        hits += abs(_gap(one, other)) >= gap * (1 - 1e-9)
    return hits / 2**many


def _gap(first, second):
    return first[:, 0].sum() / first[:, 1].sum() - (
        second[:, 0].sum() / second[:, 1].sum()
    )


def test_p_values_are_those_of_all_exchanges():
    """P-values are those of all exchanges."""
    generator = np.random.default_rng(2)
    for _ in range(3):
        words = generator.integers(50, 90, 8)
        first, second = (
            np.stack([generator.poisson(rate, 8), words], axis=1).astype(float)
            for rate in (5, 9)
        )
        found = sign_permutation(first, second, wer_from_sums)
        assert found == pytest.approx(_by_hand(first, second))
    assert sign_permutation(first, first, wer_from_sums) == 1
    assert sign_permutation(first[:1], second[:1], wer_from_sums) == 1


def test_many_speakers_are_exchanged_by_chance(monkeypatch):
    """Many speakers are exchanged by chance."""
    generator = np.random.default_rng(3)
    words = np.full(12, 80)
    first, second = (
        np.stack([generator.poisson(rate, 12), words], axis=1).astype(float)
        for rate in (5, 7)
    )
    exact = sign_permutation(first, second, wer_from_sums)
    monkeypatch.setattr(intervals, "EXCHANGES", 999)
    drawn = sign_permutation(first, second, wer_from_sums)
    assert drawn == pytest.approx(exact, abs=0.02) and drawn != exact


def test_p_values_hold_under_the_null():
    """P-values hold under the null."""
    generator = np.random.default_rng(4)
    found = []
    for _ in range(300):
        hard = generator.gamma(1, 8, 9)
        first, second = (
            np.stack([generator.poisson(hard), np.full(9, 99)], axis=1)
            for _ in range(2)
        )
        counts = first.astype(float), second.astype(float)
        found.append(sign_permutation(*counts, wer_from_sums))
    assert np.mean(np.array(found) < 0.05) < 0.08


def test_holm_by_hand():
    """Holm by hand."""
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_ratio_over_nearly_nothing_has_no_bound():
    """A ratio over nearly nothing has no bound."""
    covariance = np.diag([0.01, 0.01])
    assert fieller(0.5, 0.1, covariance, 30) == (-math.inf, math.inf)
    low, high = fieller(5.0, 10.0, covariance, 30)
    # Far from zero: the usual standard error of a ratio.
    error = math.sqrt(0.01 / 100 + 0.25 * 0.01 / 100)
    half = stats.t.ppf(0.975, 30) * error
    assert (low, high) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-3)


def test_a_ratio_to_itself_is_one():
    """A ratio to itself is one."""
    alike = np.full((2, 2), 0.04)
    assert fieller(1.0, 1.0, alike, 12) == pytest.approx((1.0, 1.0))
