"""A statistic and its interval, from its values in drawn studies.

Legend for shapes: R drawn studies; the value from the result files is first.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval.

    Arguments
    ---------
    value : float
        From the result files.
    low, high : float or None
        Ends of the interval; None where nothing was drawn.

    Example
    -------
    >>> str(Estimate(1.0, 0.5, 2.0))
    '1.00 [0.50, 2.00]'
    """

    value: float
    low: float | None = None
    high: float | None = None

    def __str__(self):
        return self.said()

    def said(self, form="{:.2f}"):
        """Value and interval in words, each in a format (str)."""
        text = form.format(self.value)
        if self.low is None:
            return text
        return f"{text} [{form.format(self.low)}, {form.format(self.high)}]"


def estimate(drawn_R):
    """Value and percentile interval of a statistic.

    Arguments
    ---------
    drawn_R : numpy.ndarray or None
        ``[1 + R]``, the value first.

    Returns
    -------
    Estimate or None
        None where there is no value: a gap.

    Example
    -------
    >>> estimate(np.array([2.0, 1.0, 3.0])).high
    3.0
    >>> estimate(np.array([np.nan, 1.0])) is None
    True
    """
    if drawn_R is None or np.isnan(drawn_R[0]):
        return None
    known_R = drawn_R[1:][~np.isnan(drawn_R[1:])]
    if not known_R.size or (known_R == drawn_R[0]).all():
        return Estimate(float(drawn_R[0]))
    # The nearest value and not one between two: infinities stay sound.
    low, high = np.percentile(known_R, [2.5, 97.5], method="nearest")
    return Estimate(float(drawn_R[0]), float(low), float(high))


def mean(arrays):
    """The mean of statistics, such as those of several sets.

    Arguments
    ---------
    arrays : iterable of numpy.ndarray or None
        ``[1 + R]`` each; None is left out.

    Returns
    -------
    numpy.ndarray or None
        ``[1 + R]``.

    Example
    -------
    >>> mean([np.array([1.0, 2.0]), None, np.array([3.0, 4.0])])
    array([2., 3.])
    """
    found = [one for one in arrays if one is not None]
    return np.mean(found, axis=0) if found else None
