"""How many layers a system can lose: the threshold, over all sets at once.

Authors
 * The speechbrain_ext authors, 2026
"""

import numpy as np


def worst(cells, which, depth, healing, path):
    """The degradation of a cell on the set that suffers most.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    which : tuple
        A system.
    depth : int
        Layers removed.
    healing, path : str
        Of the cell.

    Returns
    -------
    numpy.ndarray or None
        ``[1 + R]``; None unless every set of the system has a value, as the
        threshold is for all sets at once.
    """
    by_set = [
        cells.degradation(which, depth, healing, path, name)
        for name in cells.sets(which)
    ]
    if not by_set or any(one is None for one in by_set):
        return None
    return np.max(by_set, axis=0)


def tolerated(cells, which, healing="both", path="speech"):
    """The share of layers at which the threshold is crossed, in per cent.

    The worst set's degradation is joined by straight lines over the
    depths that were run, from nothing at no layer; the share is where
    that line last leaves the threshold. A curve that never does is
    tolerated up to its deepest run: a lower bound.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    which : tuple
        A system.
    healing, path : str
        Of the curve.

    Returns
    -------
    numpy.ndarray or None
        ``[1 + R]``.
    """
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
    """The most layers, of the depths run, within the threshold.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    which : tuple
        A system.
    healing, path : str
        Of the curve.

    Returns
    -------
    int
        0 where no depth is within it.
    """
    within = [
        depth
        for depth in cells.depths(which, healing, path)
        if (one := worst(cells, which, depth, healing, path)) is not None
        and one[0] <= cells.threshold(which)
    ]
    return max(within, default=0)


def crossing(shares_D, values_D, threshold):
    """Where a curve last rises through a threshold.

    Arguments
    ---------
    shares_D : numpy.ndarray
        Where its points are, rising.
    values_D : numpy.ndarray
        How high; NaN makes the answer NaN.
    threshold : float
        The height.

    Returns
    -------
    float

    Example
    -------
    >>> crossing(np.array([0.0, 10.0, 20.0]), np.array([0.0, 0.2, 0.4]), 0.3)
    15.0
    """
    if np.isnan(values_D).any():
        return float("nan")
    within = np.flatnonzero(values_D <= threshold)
    last = within[-1]
    if last == len(values_D) - 1:
        return float(shares_D[last])
    below, above = values_D[last], values_D[last + 1]
    part = (threshold - below) / (above - below)
    return float(shares_D[last] + part * (shares_D[last + 1] - shares_D[last]))
