"""What chance alone would give: agreeing paths, and bigger models losing more.

Exact, by counting: the numbers of layers and of models are small.
"""

from __future__ import annotations

import functools
import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

Path = Sequence[tuple[int, int]]  # first layer and size of each block


@dataclass(frozen=True)
class Agreement:
    """How far two paths agree, beside random blocks of the same sizes."""

    # Share of sizes with the same first layer; mean share of layers that
    # both remove.
    same: float
    same_by_chance: float
    overlap: float
    overlap_by_chance: float
    # How often random blocks agree at so many sizes, were the sizes
    # independent of one another.
    p_value: float
    # Mean overlap with a path that stays at one relative place of the
    # decoder, for each of as many places as there are layers. The blocks of
    # a path lie close to one another: sizes are not independent.
    at_places: tuple[float, ...]


def path_agreement(one: Path, other: Path, layers: int) -> Agreement:
    """Two paths against each other, and one of them against random blocks."""
    starts = {size: start for start, size in other}
    pairs = [(n, start, starts[n]) for start, n in one if n in starts]
    # A block of n has so many places to start.
    chances = [1 / (layers - n + 1) for n, _, _ in pairs]
    same = [a == b for _, a, b in pairs]
    return Agreement(
        fmean(same),
        fmean(chances),
        fmean(_overlap(n, a, b) for n, a, b in pairs),
        fmean(
            fmean(_overlap(n, a, b) for b in range(layers - n + 1))
            for n, a, _ in pairs
        ),
        at_least(sum(same), chances),
        tuple(
            fmean(
                _overlap(n, a, int((place + 0.5) / layers * (layers - n + 1)))
                for n, a, _ in pairs
            )
            for place in range(layers)
        ),
    )


def overlap_by_place(found: Iterable[Agreement]) -> tuple[float, float]:
    """How likely paths at random places overlap so much, and so little.

    Of one agreement for each model, whose paths are independent.
    """
    found = list(found)
    # Summed in steps of 0.001, which keeps the number of sums small.
    sums = _sums(
        Counter(round(1000 * one) for one in agreement.at_places)
        for agreement in found
    )
    return _tails(sums, sum(round(1000 * one.overlap) for one in found))


def _tails(sums: Counter, ours: int) -> tuple[float, float]:
    """One-sided p-values; neither is below what so few sums can tell."""
    more = sum(many for value, many in sums.items() if value >= ours)
    less = sum(many for value, many in sums.items() if value <= ours)
    return max(more, 1) / sums.total(), max(less, 1) / sums.total()


def _sums(counted: Iterable[Counter]) -> Counter:
    """How often each sum of independent values comes about."""
    whole = Counter({0: 1})
    for own in counted:
        longer: Counter = Counter()
        for (a, many), (b, more) in itertools.product(
            whole.items(), own.items()
        ):
            longer[a + b] += many * more
        whole = longer
    return whole


def _overlap(size, start, other):
    return max(0, size - abs(start - other)) / size


def at_least(hits: int, chances: Iterable[float]) -> float:
    """How often at least so many of some events happen, each by its chance.

    >>> at_least(1, [0.5, 0.5])
    0.75
    """
    each = [np.array([1 - chance, chance]) for chance in chances]
    often: Any = functools.reduce(
        lambda a, b: np.convolve(a, b), each, np.ones(1)
    )
    return min(1.0, float(often[hits:].sum()))


@dataclass(frozen=True)
class Concordance:
    """Pairs of a family's models: does the bigger one lose more?"""

    concordant: int
    discordant: int
    tied: int
    # One-sided: how often at least, and at most, so many more concordant
    # than discordant pairs come about if size says nothing.
    p_more: float
    p_less: float
    # The smallest p that so many models of so many families can give.
    p_least: float

    def __str__(self):
        return (
            f"{self.concordant} concordant, {self.discordant} discordant, "
            f"{self.tied} tied; p = {self.p_more:.2g}"
        )


def concordance(families: Iterable[Sequence[tuple]]) -> Concordance | None:
    """Size against the share of layers that can go, within families.

    All orders of the shares within each family are tried: a model, told by
    its size and share, is the unit, and families may differ in all else.
    None where no family has two sizes.
    """
    pairs: Counter = Counter()
    own: list[Counter] = []
    for members in families:
        sizes = [size for size, _ in members]
        shares = [share for _, share in members]
        pairs.update(_signs(sizes, shares))
        orders = itertools.permutations(shares)
        own.append(Counter(sum(_signs(sizes, one)) for one in orders))
    sums = _sums(own)
    if not pairs:
        return None
    return Concordance(
        pairs[1],
        pairs[-1],
        pairs[0],
        *_tails(sums, pairs[1] - pairs[-1]),
        sums[max(sums)] / sums.total(),
    )


def _signs(sizes, shares):
    """Of each pair of different sizes: 1 where the bigger has more, or -1."""
    found = []
    for (a, x), (b, y) in itertools.combinations(zip(sizes, shares), 2):
        if a != b:
            more = (x > y) - (x < y)
            found.append(more if a > b else -more)
    return found


def sure_pairs(members: Sequence[tuple]) -> tuple[int, int, int]:
    """Pairs of which the bigger model surely loses more, or less, or neither.

    A member: size, share of layers within the threshold, and the first share
    over it (None: no depth run is).
    """
    counts: Counter = Counter()
    for one, other in itertools.combinations(members, 2):
        if one[0] != other[0]:
            small, big = sorted((one, other), key=lambda member: member[0])
            counts[_surely_more(big, small) - _surely_more(small, big)] += 1
    return counts[1], counts[-1], counts[0]


def _surely_more(one, other):
    return other[2] is not None and one[1] >= other[2]
