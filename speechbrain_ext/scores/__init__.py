"""Scores of recognition and translation, and what pruning does to them.

Word error rates are in per cent, taken over a whole set (all errors over all
reference words), after Whisper's text normaliser for the set's language.
Translation is scored by SacreBLEU, its tokenizer that of the target language.
Intervals come from leaving out each speaker.
"""

from speechbrain_ext.scores.intervals import (
    holm,
    relative_degradation,
    score_interval,
    sign_permutation,
)
from speechbrain_ext.scores.language import (
    check_bleu,
    form_of,
    language_of,
    normaliser_name,
)
from speechbrain_ext.scores.score import (
    STATISTICS,
    score_recognition,
    score_translation,
    utterance_counts,
)
from speechbrain_ext.scores.words import (
    normalise_english,
    wer,
    word_errors,
)

__all__ = [
    "STATISTICS",
    "check_bleu",
    "form_of",
    "holm",
    "language_of",
    "normalise_english",
    "normaliser_name",
    "relative_degradation",
    "score_interval",
    "score_recognition",
    "score_translation",
    "sign_permutation",
    "utterance_counts",
    "wer",
    "word_errors",
]
