"""Score the decoded rows of one evaluation set, for a run's result."""

from __future__ import annotations

import functools

import numpy as np

from speechbrain_ext.runs.result import SetScore
from speechbrain_ext.scores.intervals import score_interval, wer_from_sums
from speechbrain_ext.scores.language import (
    load_normaliser,
    normaliser_name,
    tell_normaliser,
)
from speechbrain_ext.scores.words import WordErrors, word_errors


def _score_from_sums(metric, sums):
    """SacreBLEU's score from summed counts; loaded where it is asked for."""
    from speechbrain_ext.scores.translation import score_from_sums

    return score_from_sums(metric, sums)


# A metric's score of sets given by their summed counts ``[R, K]``.
STATISTICS = {
    "WER": wer_from_sums,
    "BLEU": functools.partial(_score_from_sums, "BLEU"),
    "chrF": functools.partial(_score_from_sums, "chrF"),
}


def score_recognition(
    rows: list[dict], language: str | None = "en"
) -> tuple[SetScore, list[dict]]:
    """Word error rate after Whisper's normaliser for the set's language.

    Arguments
    ---------
    rows : list of dict
        id, reference, hypothesis of each utterance; speaker and hit_limit
        where they are known.
    language : str
        Code of what is spoken; see `language.normaliser_name`. A warning
        tells where that is not English's own normaliser, or may be wrong.

    Returns
    -------
    score : SetScore
        With a 95 % interval over speakers (`intervals`), or over
        utterances where no speaker is known.
    rows : list of dict
        The same, each with its word errors.
    """
    name = normaliser_name(language)
    errors = [_errors(r["reference"], r["hypothesis"], name) for r in rows]
    tell_normaliser(language, [row["reference"] for row in rows])
    total = sum(errors, WordErrors())
    counts = [(one.errors, one.words) for one in errors]
    score = SetScore(
        metric="WER",
        value=total.wer,
        interval=_interval(rows, counts, "WER"),
        insertions=total.insertions,
        deletions=total.deletions,
        substitutions=total.substitutions,
        words=total.words,
        utterances=len(rows),
        language=language,
        normaliser=name,
        hit_limit=_at_limit(rows),
        speakers=_speakers(rows),
    )
    rows = [
        {**row, "errors": one.errors, "words": one.words}
        for row, one in zip(rows, errors)
    ]
    return score, rows


def score_translation(
    rows: list[dict], language: str | None = None
) -> tuple[SetScore, list[dict]]:
    """BLEU, and chrF beside it, as SacreBLEU gives them.

    Case and punctuation count; nothing is normalised. A line end within a
    translation becomes a space, so that a text file with a line for each
    utterance holds what was scored.

    Arguments
    ---------
    rows : list of dict
        id, reference, hypothesis of each utterance; speaker and hit_limit
        where they are known.
    language : str or None
        Code of the target language, which decides BLEU's tokenizer.

    Returns
    -------
    score : SetScore
        BLEU with its signature and a 95 % interval over speakers (or
        utterances); chrF in the same way under ``others``.
    rows : list of dict
        The same, each on one line.
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
    from speechbrain_ext.scores import translation

    first = translation.bleu(*texts, language)
    second = translation.chrf(*texts)
    score = SetScore(
        metric=first.metric,
        value=first.value,
        interval=_interval(
            rows, utterance_counts(rows, "BLEU", language), "BLEU"
        ),
        utterances=len(rows),
        signature=first.signature,
        language=language,
        hit_limit=_at_limit(rows),
        speakers=_speakers(rows),
    )
    score.others[second.metric] = {
        "value": second.value,
        "interval": _interval(rows, utterance_counts(rows, "chrF"), "chrF"),
        "signature": second.signature,
    }
    return score, rows


def _at_limit(rows):
    """Answers that ran into their token limit; None: not counted."""
    told = [row.get("hit_limit") for row in rows]
    return None if None in told else sum(told)


def _speakers(rows):
    """How many different speakers there are; None: some are not known."""
    told = {row.get("speaker") for row in rows}
    return None if None in told else len(told) or None


def _one_line(text):
    """Text without line ends."""
    return " ".join(text.splitlines())


def _interval(rows, counts_UK, metric):
    """A 95 % interval over the speakers of a set."""
    if not rows:
        return None
    return score_interval(
        counts_UK, speakers_of(rows), metric, STATISTICS[metric]
    )


def speakers_of(rows: list[dict]) -> list:
    """The speaker of each row; the rows themselves where one is unknown."""
    told = [row.get("speaker") for row in rows]
    return list(range(len(rows))) if None in told else told


# ----------------------------------------------------------------------------
# What each metric counts in each utterance.


@functools.lru_cache(maxsize=200_000)
def _errors(reference, hypothesis, normaliser):
    """Most runs say the same of most utterances: align each pair once."""
    texts = (_normalised(text, normaliser) for text in (reference, hypothesis))
    return word_errors(*texts, normalise=None)


@functools.lru_cache(maxsize=200_000)
def _normalised(text, normaliser):
    """A text as its words are counted; takes longer than to align two."""
    return load_normaliser(normaliser)(text)


def utterance_counts(
    rows: list[dict], metric: str, language: str | None = None
) -> np.ndarray:
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
    """
    said = [row["hypothesis"] for row in rows]
    wanted = [row["reference"] for row in rows]
    if metric != "WER":
        from speechbrain_ext.scores.translation import sentence_counts

        return sentence_counts(metric, said, wanted, language)
    name = normaliser_name(language)
    errors = [_errors(*pair, name) for pair in zip(wanted, said)]
    counts = [(one.errors, one.words) for one in errors]
    return np.asarray(counts, dtype=np.float64).reshape(-1, 2)
