"""A statistic with each unit of chance left out, and the interval of it.

A statistic of the report is a `Drawn`: its value from the result files, then
its value without each unit of chance. Arithmetic on statistics is arithmetic
on their values; `estimate` makes the interval (see
`speechbrain_ext.scores.intervals`). Legend for shapes: N units.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from speechbrain_ext.scores.intervals import (
    LOG,
    PLAIN,
    Scale,
    fieller,
    jackknife,
    moved_together,
    t_bounds,
)

# Of a share from 0 to 1: the angle, on which it moves alike everywhere, and
# an interval's end never passes what a share can be.
SHARE = Scale(
    lambda v: np.arcsin(np.sqrt(v)),
    lambda v: np.sin(np.clip(v, 0, np.pi / 2)) ** 2,
)


@dataclass(frozen=True)
class Estimate:
    """A statistic with its interval, 95 % unless another was asked for."""

    value: float
    low: float | None = None
    high: float | None = None
    # Standard error and degrees of freedom, on the scale.
    error: float | None = None
    freedom: float = math.inf
    scale: Scale = PLAIN
    # Kinds of chance that the interval does not know, in words.
    lacking: tuple[str, ...] = ()
    # Those that it knows, with their numbers of units.
    units: dict[str, int] = field(default_factory=dict)

    def __str__(self):
        return self.said()

    def said(self, form: str = "{:.2f}") -> str:
        """Value and interval in words, each in a format."""
        if self.low is None or self.high is None:
            return form.format(self.value)
        ends = [
            form.format(end) if np.isfinite(end) else "no bound"
            for end in (self.low, self.high)
        ]
        return f"{form.format(self.value)} [{', '.join(ends)}]"

    def p_above(self, limit: float) -> float:
        """One-sided p-value: how well the truth could be at most a limit."""
        from scipy import stats

        if self.error is None:
            return 1.0
        off = float(self.scale.there(self.value) - self.scale.there(limit))
        if not self.error:
            return float(off <= 0)
        return float(stats.t.sf(off / self.error, self.freedom))


class Drawn(np.lib.mixins.NDArrayOperatorsMixin):
    """A statistic's value, and its value without each of N units.

    ``values`` is ``[1 + N]``; ``involved`` ``[N]`` says which units it hangs
    on: another leaves it as it is. NaN: it is not known without that unit.
    """

    def __init__(self, values, involved, layout, scale: Scale = PLAIN):
        self.values, self.involved = values, involved
        self.layout, self.scale = layout, scale

    def __array_ufunc__(self, ufunc, method, *inputs, **how):
        if method != "__call__" or how:
            return NotImplemented
        drawn = [one for one in inputs if isinstance(one, Drawn)]
        plain_ = [o.values if isinstance(o, Drawn) else o for o in inputs]
        with np.errstate(divide="ignore", invalid="ignore"):
            values = ufunc(*plain_)
        involved = np.logical_or.reduce([one.involved for one in drawn])
        # The mean of logarithms is symmetric as a logarithm.
        scale = LOG if ufunc is np.exp else PLAIN
        return Drawn(values, involved, self.layout, scale)

    def on(self, scale: Scale) -> Drawn:
        """The same, its interval made on another scale."""
        return Drawn(self.values, self.involved, self.layout, scale)

    @property
    def value(self) -> float:
        """From all units."""
        return float(self.values[0])

    def without(self) -> tuple[dict, tuple]:
        """By kind of chance the values without a unit; kinds not known."""
        kinds, lacking = {}, []
        for kind, places in self.layout.items():
            own = [i for i in places if self.involved[i]]
            values = self.values[1:][own]
            if len(own) == 1 or np.isnan(values).any():
                lacking.append(kind)
            elif own:
                kinds[kind] = values
        return kinds, tuple(lacking)


def estimate(drawn: Drawn | None, level: float = 0.95) -> Estimate | None:
    """Value and interval of a statistic."""
    if drawn is None or np.isnan(drawn.value):
        return None
    kinds, lacking = drawn.without()
    if not kinds:
        return Estimate(drawn.value, lacking=lacking)
    scale = drawn.scale
    with np.errstate(divide="ignore", invalid="ignore"):
        known = [drawn.values[:1], *kinds.values()]
        if not all(np.isfinite(scale.there(one)).all() for one in known):
            scale = PLAIN
        value = float(scale.there(drawn.values[:1])[0])
        variance, freedom = jackknife(map(scale.there, kinds.values()))
    if not math.isfinite(variance):
        return Estimate(drawn.value, lacking=lacking)
    low, high = (
        float(scale.back(np.float64(end)))
        for end in t_bounds(value, variance, freedom, level)
    )
    error = math.sqrt(variance)
    units = {kind: len(values) for kind, values in kinds.items()}
    return Estimate(
        drawn.value, low, high, error, freedom, scale, lacking, units
    )


def ratio_estimate(above: Drawn | None, below: Drawn | None) -> Estimate | None:
    """A ratio whose base may be near zero, such as that of two degradations.

    None where the base is not above zero: there is nothing to divide.
    """
    if above is None or below is None or not below.value > 0:
        return None
    ratio = above / below
    if np.isnan(ratio.value):
        return None
    if above is below:
        return Estimate(1.0, 1.0, 1.0)
    # What both hang on, in the units of the one that hangs on more.
    involved = above.involved | below.involved
    both = [Drawn(d.values, involved, d.layout) for d in (above, below)]
    (tops, lacking), (bases, more) = (one.without() for one in both)
    kinds = [kind for kind in tops if kind in bases]
    lacking = tuple(dict.fromkeys([*lacking, *more]))
    if not kinds:
        return Estimate(ratio.value, lacking=lacking)
    moved = [moved_together(np.stack([tops[k], bases[k]])) for k in kinds]
    covariance = np.sum(moved, axis=0)
    # Of how far the ratio is off: of the two, taken together.
    _, freedom = jackknife(
        tops[kind] - ratio.value * bases[kind] for kind in kinds
    )
    if not np.isfinite(covariance).all():
        return Estimate(ratio.value, lacking=lacking)
    # A system that says the same as another does not move at all.
    ends = (ratio.value, ratio.value)
    if math.isfinite(freedom):
        ends = fieller(above.value, below.value, covariance, freedom)
    units = {kind: len(bases[kind]) for kind in kinds}
    return Estimate(ratio.value, *ends, lacking=lacking, units=units)


def grouped(pairs: Iterable[tuple]) -> dict[Any, list]:
    """The second ones of pairs by the first ones, in their order."""
    found: dict[Any, list] = {}
    for key, one in pairs:
        found.setdefault(key, []).append(one)
    return found


def mean(drawn: Iterable):
    """The mean of statistics, such as those of several sets, or None."""
    found = [one for one in drawn if one is not None]
    if not found:
        return None
    average = sum(found[1:], start=found[0]) / len(found)
    # Of scores a score, of degradations a degradation: on their scale. The
    # paper's are plain numbers.
    known = isinstance(average, Drawn)
    return average.on(found[0].scale) if known else average
