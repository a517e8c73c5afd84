"""What each metric counts in each utterance, and the score of such sums."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from speechbrain_ext.scores.intervals import score_interval, wer_from_sums
from speechbrain_ext.scores.language import normaliser_name
from speechbrain_ext.scores.score import errors_of


def _score_from_sums(metric, sums):
    """SacreBLEU's score from summed counts; loaded where it is asked for."""
    from speechbrain_ext.scores.translation import score_from_sums

    return score_from_sums(metric, sums)


# A metric's score of sets given by their summed counts ``[R, K]``.
STATISTICS: dict[str, Callable] = {
    "WER": wer_from_sums,
    "BLEU": functools.partial(_score_from_sums, "BLEU"),
    "chrF": functools.partial(_score_from_sums, "chrF"),
}


def interval(rows: list[dict], counts_UK, metric: str) -> list | None:
    """A 95 % interval over the speakers of a set."""
    return score_interval(
        counts_UK, speakers_of(rows), metric, STATISTICS[metric]
    )


def speakers_of(rows: list[dict]) -> list:
    """The speaker of each row; the rows themselves where one is unknown."""
    told = [row.get("speaker") for row in rows]
    return list(range(len(rows))) if None in told else told


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
    errors = [errors_of(*pair, name) for pair in zip(wanted, said)]
    counts = [(one.errors, one.words) for one in errors]
    return np.asarray(counts, dtype=np.float64).reshape(-1, 2)
