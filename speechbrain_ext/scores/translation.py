"""Scores of a translation: BLEU and chrF as SacreBLEU computes them.

Case and punctuation stay as they are; the options are SacreBLEU's defaults
(mixed case, one reference; BLEU's tokenizer is that of the target language),
told in the signature that stands beside every score. The counts of each
sentence are there too, so that a resampled corpus can be scored without
looking at its text again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from speechbrain_ext.runs.result import SetScore
from speechbrain_ext.scores.language import base_language
from speechbrain_ext.scores.score import at_limit, interval_of, speakers

# BLEU counts words, which these languages do not set apart.
TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}
DEFAULT_TOKENIZER = "13a"


@dataclass(frozen=True)
class TextScore:
    """A translation score with the options that it was computed with."""

    metric: str
    value: float
    signature: str


def _metric(name, language=None):
    # Imported when wanted: recognition alone does not need sacrebleu.
    from sacrebleu.metrics import BLEU, CHRF

    if name == "chrF":
        return CHRF()
    return BLEU(tokenize=bleu_tokenizer(language))


def _check(hyps, refs):
    """Refuse what would be scored in silence as another corpus."""
    if isinstance(hyps, str) or isinstance(refs, str):
        raise TypeError("hyps and refs must be lists of sentences, not a text")
    if len(hyps) != len(refs):
        raise ValueError(
            f"{len(hyps)} hypotheses but {len(refs)} references: give one "
            "reference for each hypothesis, in the same order"
        )
    if not hyps:
        raise ValueError("no sentence to score: the lists are empty")


def _score(name, hyps, refs, language=None):
    _check(hyps, refs)
    metric = _metric(name, language)
    value = metric.corpus_score(list(hyps), [list(refs)]).score
    return TextScore(name, float(value), str(metric.get_signature()))


def bleu(
    hyps: list[str], refs: list[str], language: str | None = None
) -> TextScore:
    """BLEU of a corpus.

    Arguments
    ---------
    hyps : list of str
        The translations.
    refs : list of str
        The reference of each.
    language : str or None
        That of the translations, which decides the tokenizer; None: 13a.

    Returns
    -------
    TextScore
        Equal to ``sacrebleu refs -i hyps -m bleu -tok TOKENIZER``.
    """
    return _score("BLEU", hyps, refs, language)


def chrf(hyps: list[str], refs: list[str]) -> TextScore:
    """chrF of a corpus (character 6-grams, no word n-grams).

    Arguments
    ---------
    hyps : list of str
        The translations.
    refs : list of str
        The reference of each.

    Returns
    -------
    TextScore
        Equal to ``sacrebleu refs -i hyps -m chrf``.
    """
    return _score("chrF", hyps, refs)


def sentence_counts(name: str, hyps, refs, language=None) -> np.ndarray:
    """What BLEU or chrF counts in each sentence ``[U, K]``."""
    _check(hyps, refs)
    metric = _metric(name, language)
    counts = metric._extract_corpus_statistics(list(hyps), [list(refs)])
    return np.asarray(counts, dtype=np.float64)


def score_from_sums(name: str, sums_RK) -> np.ndarray:
    """BLEU or chrF of R corpora given by the sums of their counts."""
    metric = _metric(name)
    scores = [
        metric._compute_score_from_stats(row).score
        for row in np.atleast_2d(sums_RK).tolist()
    ]
    return np.asarray(scores)


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
    first, second = bleu(*texts, language), chrf(*texts)
    score = SetScore(
        metric=first.metric,
        value=first.value,
        interval=interval_of(
            rows, sentence_counts("BLEU", *texts, language), "BLEU"
        ),
        utterances=len(rows),
        signature=first.signature,
        language=language,
        hit_limit=at_limit(rows),
        speakers=speakers(rows),
    )
    score.others[second.metric] = {
        "value": second.value,
        "interval": interval_of(rows, sentence_counts("chrF", *texts), "chrF"),
        "signature": second.signature,
    }
    return score, rows


def _one_line(text):
    """Text without line ends."""
    return " ".join(text.splitlines())


def bleu_tokenizer(language=None):
    """SacreBLEU's tokenizer for a target language."""
    if language is None:
        return DEFAULT_TOKENIZER
    return TOKENIZERS.get(base_language(language), DEFAULT_TOKENIZER)


def check_bleu(language):
    """Refuse a target language whose tokenizer is not installed.

    Arguments
    ---------
    language : str
        Code of the target language.

    Raises
    ------
    ValueError
        Saying what to install.
    """
    tokenizer = bleu_tokenizer(language)
    if not tokenizer.endswith("-mecab"):
        return
    from sacrebleu.metrics import BLEU

    try:
        BLEU(tokenize=tokenizer)
    except (RuntimeError, ImportError) as error:
        extra = base_language(language)
        raise ValueError(
            f"BLEU into {language} needs the tokenizer {tokenizer}, which is "
            f"not there: pip install 'sacrebleu[{extra}]'"
        ) from error
