"""Verdicts on statistics: what an interval decides, and when none does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from speechbrain_ext.scores.intervals import holm
from speechllm.report.estimates import Drawn, Estimate, estimate
from speechllm.report.samples import BASELINES, NO_ROWS, SEEDS
from speechllm.report.tables import GAP

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
# Of one-sided tests, of which equivalence is made.
LEVEL = 0.05
WHY_UNKNOWN = {
    SEEDS: "one seed: how much another differs is not known",
    BASELINES: "one baseline seed: how much another differs is not known",
    NO_ROWS: "no hypotheses, so no speakers",
}


@dataclass
class Part:
    """One statistic of a claim."""

    says: str
    found: Estimate | None
    wanted: str = ""
    verdict: str | None = None
    form: str = "{:.2f}"
    paper: str = GAP
    # Why nothing is decided.
    why: str = ""
    # In place of a number.
    text: str = ""
    # Whether the baselines' seeds matter: not where both of two compared
    # systems were made from the same one.
    baselines: bool = False

    def value(self) -> str:
        """The value as a cell of a table."""
        if self.text:
            return self.text
        return self.found.said(self.form) if self.found else GAP

    def over(self) -> str:
        """How many speakers and seeds the interval is over."""
        many: dict = {}
        for kind, count in (self.found.units if self.found else {}).items():
            many.setdefault(kind.split(" of ")[0], []).append(str(count))
        return ", ".join(f"{' + '.join(n)} {kind}" for kind, n in many.items())

    def decided(self) -> str:
        """The verdict as a cell of a table."""
        why = self.why
        if self.verdict and not why and "utterances" in self.over():
            why = "over utterances, as speakers are not known"
        return f"{self.verdict or ''}{f': {why}' if why else ''}"


@dataclass
class Claim:
    """One of the paper's claims, and what this study says to it."""

    number: int
    says: str
    parts: list = field(default_factory=list)
    missing: str = ""

    @property
    def verdict(self) -> str:
        """Refuted by any part, confirmed by all of them, or undecided."""
        tested = [part.verdict for part in self.parts if part.wanted]
        if REFUTED in tested:
            return REFUTED
        if tested and set(tested) == {CONFIRMED} and not self.missing:
            return CONFIRMED
        return UNDECIDED

    def decided(self) -> str:
        """The verdict as a cell of a table."""
        lacks = f" (missing: {self.missing})" if self.missing else ""
        return f"{self.verdict}{lacks}"


def unknown(found: Estimate | None, baselines: bool = False) -> str:
    """Why an interval decides nothing; empty where it does."""
    if found is None:
        return ""
    reasons = [
        WHY_UNKNOWN.get(kind, f"{kind}: too few to leave one out")
        for kind in found.lacking
        if baselines or kind != BASELINES
    ]
    if found.low is None and not reasons:
        reasons = ["no interval"]
    return "; ".join(reasons)


def above(drawn: Drawn | Estimate | None, limit, says, wanted, **more) -> Part:
    """A part that holds where a statistic is above a limit."""
    part = told(drawn, says, wanted=wanted, **more)
    return _decide(part, lambda low, _: low > limit, lambda _, top: top < limit)


def below(drawn: Drawn | Estimate | None, limit, says, wanted, **more) -> Part:
    """A part that holds where a statistic is below a limit."""
    part = told(drawn, says, wanted=wanted, **more)
    return _decide(part, lambda _, top: top < limit, lambda low, _: low > limit)


def equivalent(drawn: Drawn | None, low, high, says, wanted, **more) -> Part:
    """A part that holds where a statistic surely lies between two limits.

    Two one-sided tests: the interval of 90 % lies within (Schuirmann, 1987).
    """
    found = estimate(drawn, level=1 - 2 * LEVEL)
    part = told(found, f"{says} (90 % interval)", wanted=wanted, **more)
    return _decide(
        part,
        lambda least, most: low <= least and most <= high,
        lambda least, most: most < low or least > high,
    )


def _decide(part, holds, fails):
    """A part with the verdict of its interval, if that knows all chance."""
    found, part.verdict = part.found, UNDECIDED
    part.why = unknown(found, part.baselines)
    if found and not part.why and holds(found.low, found.high):
        part.verdict = CONFIRMED
    elif found and not part.why and fails(found.low, found.high):
        part.verdict = REFUTED
    return part


def significant(tests: Iterable[tuple]) -> list[bool]:
    """Which statistics are above their limits, after Holm over all of them.

    One whose interval lacks a kind of chance never is.
    """
    p_values = []
    for drawn, limit in tests:
        found = estimate(drawn)
        known = found is not None and not unknown(found)
        p_values.append(found.p_above(limit) if found and known else 1.0)
    return [one <= LEVEL for one in holm(p_values)]


def unless(part: Part, places: int, what: str) -> Part:
    """A part that is not confirmed where places speak against it."""
    if places and part.verdict == CONFIRMED:
        part.verdict = UNDECIDED
        part.why = f"{places} {what}"
    return part


def places_said(many: int, of: int) -> str:
    """How many places of all are significant."""
    return f"{many} of {of} places (depth and set) after Holm"


def told(drawn, says, **more) -> Part:
    """A part that is told and not tested."""
    found = drawn if isinstance(drawn, Estimate) else estimate(drawn)
    return Part(says, found, **more)


def lacking(*named) -> str:
    """Names of the statistics that could not be had."""
    return ", ".join(name for name, one in named if one is None)
