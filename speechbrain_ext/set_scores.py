"""Score the decoded rows of one evaluation set, for a run's result.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.results import SetScore
from speechbrain_ext.scoring import (
    WordErrors,
    bleu,
    bleu_counts,
    bleu_from_sums,
    bootstrap_interval,
    chrf,
    chrf_counts,
    chrf_from_sums,
    normaliser_name,
    normaliser_of,
    wer_counts,
    wer_from_sums,
    word_errors,
)


def score_recognition(rows, language="en"):
    """Word error rate after Whisper's normaliser for the set's language.

    Arguments
    ---------
    rows : list of dict
        id, reference, hypothesis of each utterance; hit_limit where it is
        known.
    language : str
        Code of what is spoken; see `speechbrain_ext.scoring.normaliser_name`.

    Returns
    -------
    score : SetScore
        With a 95 % bootstrap interval over utterances.
    rows : list of dict
        The same, each with its word errors.

    Example
    -------
    >>> rows = [{"id": "a", "reference": "red dog", "hypothesis": "red"}]
    >>> score_recognition(rows)[0].value
    50.0
    """
    normalise = normaliser_of(language)
    errors = [
        word_errors(row["reference"], row["hypothesis"], normalise)
        for row in rows
    ]
    total = sum(errors, WordErrors())
    interval = _interval(wer_counts(errors), wer_from_sums)
    score = SetScore(
        metric="WER",
        value=total.wer,
        interval=interval,
        insertions=total.insertions,
        deletions=total.deletions,
        substitutions=total.substitutions,
        words=total.words,
        utterances=len(rows),
        language=language,
        normaliser=normaliser_name(language),
        hit_limit=_at_limit(rows),
    )
    rows = [
        {**row, "errors": one.errors, "words": one.words}
        for row, one in zip(rows, errors)
    ]
    return score, rows


def score_translation(rows, language=None):
    """BLEU, and chrF beside it, as SacreBLEU gives them.

    Case and punctuation count; nothing is normalised. A line end within a
    translation becomes a space, so that a text file with a line for each
    utterance holds what was scored.

    Arguments
    ---------
    rows : list of dict
        id, reference, hypothesis of each utterance; hit_limit where it is
        known.
    language : str or None
        Code of the target language, which decides BLEU's tokenizer.

    Returns
    -------
    score : SetScore
        BLEU with its signature and a 95 % bootstrap interval over
        utterances; chrF in the same way under ``others``.
    rows : list of dict
        The same, each on one line.

    Example
    -------
    >>> text = "Der Hund sieht das Haus."
    >>> rows = [{"id": "a", "reference": text, "hypothesis": text}]
    >>> score_translation(rows)[0].others["chrF"]["value"]
    100.0
    """
    rows = [
        {
            **row,
            "reference": _one_line(row["reference"]),
            "hypothesis": _one_line(row["hypothesis"]),
        }
        for row in rows
    ]
    texts = (
        [row["hypothesis"] for row in rows],
        [row["reference"] for row in rows],
    )
    first = bleu(*texts, language)
    second = chrf(*texts)
    score = SetScore(
        metric=first.metric,
        value=first.value,
        interval=_interval(bleu_counts(*texts, language), bleu_from_sums),
        utterances=len(rows),
        signature=first.signature,
        language=language,
        hit_limit=_at_limit(rows),
    )
    score.others[second.metric] = {
        "value": second.value,
        "interval": _interval(chrf_counts(*texts), chrf_from_sums),
        "signature": second.signature,
    }
    return score, rows


def _at_limit(rows):
    """Answers that ran into their token limit; None: not counted."""
    told = [row.get("hit_limit") for row in rows]
    return None if None in told else sum(told)


def _one_line(text):
    """Text without line ends."""
    return " ".join(text.splitlines())


def _interval(counts_UK, statistic):
    """A 95 % bootstrap interval over utterances (list of float)."""
    return [float(end) for end in bootstrap_interval(counts_UK, statistic)]
