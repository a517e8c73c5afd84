"""What a search of layers costs, and what it may.

Authors
 * The speechbrain_ext authors, 2026
"""

import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What a search has spent.

    Arguments
    ---------
    seconds : float
        Wall-clock.
    layer_passes : int
        One layer run over one sequence is one.

    Example
    -------
    >>> Cost(1.0, 5) + Cost(0.5, 2)
    Cost(seconds=1.5, layer_passes=7)
    """

    seconds: float = 0.0
    layer_passes: int = 0

    def __add__(self, other):
        return Cost(
            self.seconds + other.seconds,
            self.layer_passes + other.layer_passes,
        )


@dataclass(frozen=True)
class Budget:
    """What a search may spend on one plan; None: as much as it takes.

    Arguments
    ---------
    seconds : float or None
        Wall-clock; looked at between two batches.
    layer_passes : int or None
        One layer run over one sequence is one; known before the search.

    Example
    -------
    >>> Budget(layer_passes=10).check(Cost(layer_passes=11))
    Traceback (most recent call last):
    ...
    ValueError: The search takes 11 layer passes, over its budget of 10. ...
    """

    seconds: float | None = None
    layer_passes: int | None = None

    def check(self, cost):
        """Refuse a cost over the budget.

        Arguments
        ---------
        cost : Cost
            What was spent, or is about to be.

        Raises
        ------
        ValueError
            If it is more than there is.
        """
        for name in ("layer_passes", "seconds"):
            most, taken = getattr(self, name), getattr(cost, name)
            if most is not None and taken > most:
                what = name.replace("_", " ")
                told = taken if name == "layer_passes" else f"{taken:.1f}"
                raise ValueError(
                    f"The search takes {told} {what}, over its budget of "
                    f"{most}. Give fewer utterances, a smaller size, or a "
                    "larger budget."
                )


def clock():
    """A function that tells the seconds since now.

    Returns
    -------
    callable

    Example
    -------
    >>> clock()() < 1.0
    True
    """
    began = time.monotonic()
    return lambda: time.monotonic() - began
