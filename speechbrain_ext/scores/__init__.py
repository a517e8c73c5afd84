"""Scores of recognition and translation, and what pruning does to them.

Word error rates are in per cent, taken over a whole set (all errors over all
reference words), after Whisper's text normaliser for the set's language.
Translation is scored by SacreBLEU (`speechbrain_ext.scores.translation`), its
tokenizer that of the target language. Intervals and comparisons come from
resampling utterances.
"""

from speechbrain_ext.scores.bootstrap import (
    bootstrap_interval,
    percentile_interval,
    relative_degradation,
    wer_counts,
    wer_from_sums,
)
from speechbrain_ext.scores.language import (
    check_bleu,
    form_of,
    normaliser_name,
    normaliser_of,
)
from speechbrain_ext.scores.score import statistic_of, utterance_counts
from speechbrain_ext.scores.words import (
    WordErrors,
    normalise_english,
    wer,
    word_errors,
)

__all__ = [
    "WordErrors",
    "bootstrap_interval",
    "check_bleu",
    "form_of",
    "normalise_english",
    "normaliser_name",
    "normaliser_of",
    "percentile_interval",
    "relative_degradation",
    "statistic_of",
    "utterance_counts",
    "wer",
    "wer_counts",
    "wer_from_sums",
    "word_errors",
]
