"""A statistic and its interval, from its values in drawn studies.

Legend for shapes: R drawn studies; the value from the result files is first.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Estimate:
    """A statistic with its 95 % interval."""

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
    """Value and percentile interval of a statistic."""
    if drawn_R is None or np.isnan(drawn_R[0]):
        return None
    known_R = drawn_R[1:][~np.isnan(drawn_R[1:])]
    if not known_R.size or (known_R == drawn_R[0]).all():
        return Estimate(float(drawn_R[0]))
    # The nearest value and not one between two: infinities stay sound.
    low, high = np.percentile(known_R, [2.5, 97.5], method="nearest")
    return Estimate(float(drawn_R[0]), float(low), float(high))


def mean(arrays):
    """The mean of statistics, such as those of several sets."""
    found = [one for one in arrays if one is not None]
    return np.mean(found, axis=0) if found else None
