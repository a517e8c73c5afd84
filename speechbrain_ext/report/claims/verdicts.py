"""How a statistic with its interval decides a claim.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass, field

from speechbrain_ext.report.estimates import Estimate, estimate
from speechbrain_ext.report.tables import GAP

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"


@dataclass
class Part:
    """One statistic of a claim.

    Arguments
    ---------
    says : str
        What it measures, in words.
    found : Estimate or None
        Its value here; None where runs are missing.
    wanted : str
        What the claim asks of it; empty where it is told and not tested.
    verdict : str or None
        One of the three words; None where it is not tested.
    form : str
        Of its numbers.
    paper : str
        The paper's own value.

    Example
    -------
    >>> Part("a ratio", Estimate(1.5, 1.2, 1.8), "over 1", CONFIRMED).value()
    '1.50 [1.20, 1.80]'
    """

    says: str
    found: Estimate | None
    wanted: str = ""
    verdict: str | None = None
    form: str = "{:.2f}"
    paper: str = GAP

    def value(self):
        """The value as a cell of a table (str)."""
        return self.found.said(self.form) if self.found else GAP


@dataclass
class Claim:
    """One of the paper's claims, and what this study says to it.

    Arguments
    ---------
    number : int
        1 to 6.
    says : str
        The claim.
    parts : list of Part
        What tests it; all tested parts must hold.
    missing : str
        What the study lacks for it; empty if nothing.

    Example
    -------
    >>> Claim(1, "all is well", [], "runs of all").verdict
    'undecided'
    """

    number: int
    says: str
    parts: list = field(default_factory=list)
    missing: str = ""

    @property
    def verdict(self):
        """Refuted by any part, confirmed by all of them, or undecided."""
        tested = [part.verdict for part in self.parts if part.wanted]
        if REFUTED in tested:
            return REFUTED
        if tested and set(tested) == {CONFIRMED} and not self.missing:
            return CONFIRMED
        return UNDECIDED


def above(drawn_R, limit, says, wanted, **more):
    """A part that holds where a statistic is above a limit.

    Arguments
    ---------
    drawn_R : numpy.ndarray or None
        ``[1 + R]``.
    limit : float
        Confirmed where the whole interval is above it, refuted where it is
        below it.
    says, wanted : str
        See `Part`.
    **more
        Further fields of the part.

    Returns
    -------
    Part

    Example
    -------
    >>> import numpy as np
    >>> above(np.array([2.0, 1.5, 2.5]), 1.0, "x", "over 1").verdict
    'confirmed'
    """
    found = estimate(drawn_R)
    verdict = UNDECIDED
    if found and found.low is not None:
        if found.low > limit:
            verdict = CONFIRMED
        elif found.high < limit:
            verdict = REFUTED
    return Part(says, found, wanted, verdict, **more)


def between(drawn_R, low, high, says, wanted, **more):
    """A part that holds where a statistic lies between two limits.

    Arguments
    ---------
    drawn_R : numpy.ndarray or None
        ``[1 + R]``.
    low, high : float
        Confirmed where the whole interval is between them, refuted where all
        of it is outside. A statistic that nothing moves (both paths are the
        same) counts as its own interval.
    says, wanted : str
        See `Part`.
    **more
        Further fields of the part.

    Returns
    -------
    Part

    Example
    -------
    >>> import numpy as np
    >>> between(np.array([1.0, 0.9, 1.3]), 0.8, 1.2, "x", "alike").verdict
    'undecided'
    """
    found = estimate(drawn_R)
    verdict = UNDECIDED
    moved = found and found.low is not None
    exactly = found and drawn_R.size > 1 and not moved
    if moved or exactly:
        ends = (found.low, found.high) if moved else (found.value,) * 2
        if low <= ends[0] and ends[1] <= high:
            verdict = CONFIRMED
        elif ends[1] < low or ends[0] > high:
            verdict = REFUTED
    return Part(says, found, wanted, verdict, **more)


def told(drawn_R, says, **more):
    """A part that is told and not tested.

    Arguments
    ---------
    drawn_R : numpy.ndarray or None
        ``[1 + R]``.
    says : str
        See `Part`.
    **more
        Further fields of the part.

    Returns
    -------
    Part

    Example
    -------
    >>> told(None, "x").verdict is None
    True
    """
    return Part(says, estimate(drawn_R), **more)
