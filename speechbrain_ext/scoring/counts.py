"""What each metric counts in each utterance, and its score from the sums."""

import functools

import numpy as np

from speechbrain_ext.scoring.intervals import wer_from_sums
from speechbrain_ext.scoring.language import load_normaliser, normaliser_name
from speechbrain_ext.scoring.translation import (
    bleu_counts,
    bleu_from_sums,
    chrf_counts,
    chrf_from_sums,
)
from speechbrain_ext.scoring.words import word_errors

STATISTICS = {
    "WER": wer_from_sums,
    "BLEU": bleu_from_sums,
    "chrF": chrf_from_sums,
}


@functools.lru_cache(maxsize=200_000)
def _errors(reference, hypothesis, normaliser):
    """Most runs say the same of most utterances: align each pair once."""
    normalise = load_normaliser(normaliser)
    found = word_errors(reference, hypothesis, normalise)
    return found.errors, found.words


def utterance_counts(rows, metric, language=None):
    """What a score is summed from, utterance by utterance.

    Arguments
    ---------
    rows : list of dict
        reference and hypothesis of each of U utterances.
    metric : str
        "WER", "BLEU" or "chrF".
    language : str or None
        That of the score; None: as older results were scored.

    Returns
    -------
    numpy.ndarray
        ``[U, K]``, to be summed and given to `STATISTICS`.

    Example
    -------
    >>> rows = [{"id": "a", "reference": "red dog", "hypothesis": "red"}]
    >>> utterance_counts(rows, "WER")
    array([[1., 2.]])
    """
    said = [row["hypothesis"] for row in rows]
    wanted = [row["reference"] for row in rows]
    if metric == "BLEU":
        return bleu_counts(said, wanted, language)
    if metric == "chrF":
        return chrf_counts(said, wanted)
    name = normaliser_name(language)
    counts = [_errors(*pair, name) for pair in zip(wanted, said)]
    return np.asarray(counts, dtype=np.float64).reshape(-1, 2)
