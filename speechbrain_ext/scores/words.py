"""Word error rates, after a normaliser; Whisper's English one by default.

Rates are in per cent, taken over a whole set: all errors over all reference
words.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from speechbrain_ext.scores.language import ENGLISH, load_normaliser


def normalise_english(text):
    """Bring an English text into the form in which words are compared."""
    return load_normaliser(ENGLISH)(text)


@dataclass(frozen=True)
class WordErrors:
    """How a hypothesis differs from its reference, counted in words."""

    insertions: int = 0
    deletions: int = 0
    substitutions: int = 0
    words: int = 0

    @property
    def errors(self):
        """Insertions, deletions and substitutions together."""
        return self.insertions + self.deletions + self.substitutions

    @property
    def wer(self):
        """Word error rate in per cent; NaN where the reference is empty."""
        return 100 * self.errors / self.words if self.words else math.nan

    def __add__(self, other):
        return WordErrors(
            self.insertions + other.insertions,
            self.deletions + other.deletions,
            self.substitutions + other.substitutions,
            self.words + other.words,
        )


def word_errors(
    reference: str,
    hypothesis: str,
    normalise: Callable[[str], str] | None = normalise_english,
) -> WordErrors:
    """Count the word errors of one utterance along a shortest edit path.

    Where several paths are equally short, they have the same errors in all
    but may split them in other ways. SpeechBrain's is taken, which is that of
    Kaldi's compute-wer: from the end of both texts backwards, an insertion
    before a deletion before a pair of words ("a b" heard as "b c" is a
    deletion and an insertion, not two substitutions).

    Arguments
    ---------
    reference, hypothesis : str
        What was said, and what was written.
    normalise : callable or None
        Applied to both texts first.

    Returns
    -------
    WordErrors
    """
    if normalise is not None:
        reference, hypothesis = normalise(reference), normalise(hypothesis)
    # split() and not split(" "): the latter finds one word in an empty text.
    said, written = reference.split(), hypothesis.split()
    if said == written:
        return WordErrors(words=len(said))
    # Imported when wanted: it brings torch, which equal texts do not need.
    from speechbrain.utils.edit_distance import count_ops, op_table

    return WordErrors(**count_ops(op_table(said, written)), words=len(said))


def wer(pairs, normalise=normalise_english):
    """Word error rate of a set: all errors over all reference words.

    Arguments
    ---------
    pairs : iterable of (str, str)
        Reference and hypothesis of each utterance.
    normalise : callable or None
        Applied to both texts first.

    Returns
    -------
    float
        Per cent; above 100 where the model writes far too much.

    Raises
    ------
    ValueError
        If no reference holds a word: the rate would be a division by zero.

    Example
    -------
    >>> wer([("one two three", "one two"), ("cat", "cat")], normalise=None)
    25.0
    """
    counts = [word_errors(*pair, normalise=normalise) for pair in pairs]
    total = sum(counts, WordErrors())
    if total.words == 0:
        raise ValueError(
            f"no word in the references of {len(counts)} utterances after "
            "normalisation, so there is no word error rate: check the "
            "transcripts of this set"
        )
    return total.wer
