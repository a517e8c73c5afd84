"""Score the decoded rows of one evaluation set, for a run's result."""

from __future__ import annotations

import functools
from typing import Any

from speechbrain_ext.later import later
from speechbrain_ext.runs.result import SetScore
from speechbrain_ext.scores.language import load_normaliser, normaliser_name
from speechbrain_ext.scores.words import WordErrors, word_errors


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
    errors = [errors_of(r["reference"], r["hypothesis"], name) for r in rows]
    if telling := later("scores.telling"):
        telling.tell_normaliser(language, [row["reference"] for row in rows])
    total = sum(errors, WordErrors())
    counts = [(one.errors, one.words) for one in errors]
    score = SetScore(
        metric="WER",
        value=total.wer,
        interval=interval_of(rows, counts, "WER"),
        insertions=total.insertions,
        deletions=total.deletions,
        substitutions=total.substitutions,
        words=total.words,
        utterances=len(rows),
        language=language,
        normaliser=name,
        hit_limit=at_limit(rows),
        speakers=speakers(rows),
    )
    rows = [
        {**row, "errors": one.errors, "words": one.words}
        for row, one in zip(rows, errors)
    ]
    return score, rows


def score_translation(
    rows: list[dict], language: str | None = None
) -> tuple[SetScore, list[dict]]:
    """BLEU, and chrF beside it: `translation.score_translation`."""
    wanted = "score: score_translation"
    return later("scores.translation", wanted).score_translation(rows, language)


def interval_of(rows: list[dict], counts_UK, metric: str) -> list | None:
    """A 95 % interval over the speakers of a set, where that is counted."""
    counting = later("scores.counts") if rows else None
    return counting and counting.interval(rows, counts_UK, metric)


def at_limit(rows: list[dict]) -> int | None:
    """Answers that ran into their token limit; None: not counted."""
    told: list[Any] = [row.get("hit_limit") for row in rows]
    return None if None in told else sum(told)


def speakers(rows: list[dict]) -> int | None:
    """How many different speakers there are; None: some are not known."""
    told = {row.get("speaker") for row in rows}
    return None if None in told else len(told) or None


@functools.lru_cache(maxsize=200_000)
def errors_of(reference, hypothesis, normaliser):
    """Most runs say the same of most utterances: align each pair once."""
    texts = (_normalised(text, normaliser) for text in (reference, hypothesis))
    return word_errors(*texts, normalise=None)


@functools.lru_cache(maxsize=200_000)
def _normalised(text, normaliser):
    """A text as its words are counted; takes longer than to align two."""
    return load_normaliser(normaliser)(text)
