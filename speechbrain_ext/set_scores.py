"""Score the decoded rows of one evaluation set, for a run's result.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.results import SetScore
from speechbrain_ext.scoring import (
    WordErrors,
    bootstrap_interval,
    wer_counts,
    wer_from_sums,
    word_errors,
)


def score_recognition(rows):
    """Word error rate after Whisper's English normaliser.

    Arguments
    ---------
    rows : list of dict
        id, reference, hypothesis of each utterance.

    Returns
    -------
    score : SetScore
        With a 95 % bootstrap interval over utterances.
    rows : list of dict
        The same, each with its word errors.

    Example
    -------
    >>> rows = [{"id": "a", "reference": "one two", "hypothesis": "one"}]
    >>> score_recognition(rows)[0].value
    50.0
    """
    errors = [word_errors(r["reference"], r["hypothesis"]) for r in rows]
    total = sum(errors, WordErrors())
    interval = bootstrap_interval(wer_counts(errors), wer_from_sums)
    score = SetScore(
        metric="WER",
        value=total.wer,
        interval=[float(end) for end in interval],
        insertions=total.insertions,
        deletions=total.deletions,
        substitutions=total.substitutions,
        words=total.words,
        utterances=len(rows),
    )
    rows = [
        {**row, "errors": one.errors, "words": one.words}
        for row, one in zip(rows, errors)
    ]
    return score, rows
