"""Scores of recognition and translation, and what pruning does to them.

Word error rates are in per cent, taken over a whole set (all errors over all
reference words), after Whisper's English text normaliser. Translation is
scored by SacreBLEU. Intervals and comparisons come from resampling utterances.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.scoring.degradation import (
    largest_depth,
    relative_degradation,
)
from speechbrain_ext.scoring.intervals import (
    Difference,
    bootstrap_difference,
    bootstrap_interval,
    degradation_from_sums,
    wer_counts,
    wer_from_sums,
)
from speechbrain_ext.scoring.translation import (
    TextScore,
    bleu,
    bleu_counts,
    bleu_from_sums,
    chrf,
    chrf_counts,
    chrf_from_sums,
)
from speechbrain_ext.scoring.words import (
    WordErrors,
    normalise_english,
    wer,
    word_errors,
)

__all__ = [
    "Difference",
    "TextScore",
    "WordErrors",
    "bleu",
    "bleu_counts",
    "bleu_from_sums",
    "bootstrap_difference",
    "bootstrap_interval",
    "chrf",
    "chrf_counts",
    "chrf_from_sums",
    "degradation_from_sums",
    "largest_depth",
    "normalise_english",
    "relative_degradation",
    "wer",
    "wer_counts",
    "wer_from_sums",
    "word_errors",
]
