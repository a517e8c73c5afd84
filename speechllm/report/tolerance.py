"""How many layers a system can lose: the threshold, over all sets at once."""

import numpy as np


def worst(cells, which, depth, healing, path):
    """The degradation of a cell on the set that suffers most."""
    by_set = [
        cells.degradation(which, depth, healing, path, name)
        for name in cells.sets(which)
    ]
    if not by_set or any(one is None for one in by_set):
        return None
    return np.max(by_set, axis=0)


def tolerated(cells, which, healing="both", path="speech"):
    """The share of layers at which the threshold is crossed, in per cent."""
    depths = cells.depths(which, healing, path)
    values = [worst(cells, which, d, healing, path) for d in depths]
    known = [(d, one) for d, one in zip(depths, values) if one is not None]
    if not known:
        return None
    shares_D = 100 * np.array([0, *(d for d, _ in known)], dtype=float)
    shares_D /= cells.layers(which)
    values_RD = np.stack(
        [np.zeros_like(known[0][1]), *(one for _, one in known)], axis=1
    )
    return np.array(
        [
            crossing(shares_D, values_D, cells.threshold(which))
            for values_D in values_RD
        ]
    )


def largest(cells, which, healing="both", path="speech"):
    """The most layers, of the depths run, within the threshold."""
    within = [
        depth
        for depth in cells.depths(which, healing, path)
        if (one := worst(cells, which, depth, healing, path)) is not None
        and one[0] <= cells.threshold(which)
    ]
    return max(within, default=0)


def crossing(shares_D, values_D, threshold):
    """Where a curve last rises through a threshold."""
    if np.isnan(values_D).any():
        return float("nan")
    within = np.flatnonzero(values_D <= threshold)
    last = within[-1]
    if last == len(values_D) - 1:
        return float(shares_D[last])
    below, above = values_D[last], values_D[last + 1]
    part = (threshold - below) / (above - below)
    return float(shares_D[last] + part * (shares_D[last + 1] - shares_D[last]))
