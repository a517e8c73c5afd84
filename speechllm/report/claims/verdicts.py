"""How a statistic with its interval decides a claim."""

from dataclasses import dataclass, field

from speechllm.report.estimates import Estimate, estimate
from speechllm.report.tables import GAP

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"


@dataclass
class Part:
    """One statistic of a claim."""

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
    """One of the paper's claims, and what this study says to it."""

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
    """A part that holds where a statistic is above a limit."""
    found = estimate(drawn_R)
    verdict = UNDECIDED
    if found and found.low is not None:
        if found.low > limit:
            verdict = CONFIRMED
        elif found.high < limit:
            verdict = REFUTED
    return Part(says, found, wanted, verdict, **more)


def between(drawn_R, low, high, says, wanted, **more):
    """A part that holds where a statistic lies between two limits."""
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
    """A part that is told and not tested."""
    return Part(says, estimate(drawn_R), **more)
