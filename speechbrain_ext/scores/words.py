"""Word error rates, after a normaliser; Whisper's English one by default.

Rates are in per cent, taken over a whole set: all errors over all reference
words.
"""

import math
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


def word_errors(reference, hypothesis, normalise=normalise_english):
    """Count the word errors of one utterance along a shortest edit path."""
    if normalise is not None:
        reference, hypothesis = normalise(reference), normalise(hypothesis)
    # split() and not split(" "): the latter finds one word in an empty text.
    said, written = reference.split(), hypothesis.split()
    if said == written:
        return WordErrors(words=len(said))
    insertions, deletions, substitutions = _edits(said, written)
    return WordErrors(insertions, deletions, substitutions, len(said))


def _edits(said, written):
    """Insertions, deletions and substitutions of a shortest edit path."""
    # Each cell: cost, insertions, deletions, substitutions up to there. Two
    # rows suffice, as the counts travel with the cost.
    above = [(j, j, 0, 0) for j in range(len(written) + 1)]
    for i, word in enumerate(said, start=1):
        row = [(i, 0, i, 0)]
        for j, other in enumerate(written, start=1):
            left, up, diagonal = row[j - 1], above[j], above[j - 1]
            miss = int(word != other)
            change = diagonal[0] + miss
            if change <= left[0] and change <= up[0]:
                cost, ins, dels, subs = diagonal
                row.append((cost + miss, ins, dels, subs + miss))
            elif up[0] < left[0]:
                cost, ins, dels, subs = up
                row.append((cost + 1, ins, dels + 1, subs))
            else:
                cost, ins, dels, subs = left
                row.append((cost + 1, ins + 1, dels, subs))
        above = row
    return above[-1][1:]


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
