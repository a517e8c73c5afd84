"""How much two tables of redundancy agree."""

import numpy as np

from speechbrain_ext.layers.distances import RedundancyTable


def compare(one: RedundancyTable, other: RedundancyTable) -> dict:
    """How much two tables agree (the paper's Figure 1, a against b).

    Returns
    -------
    dict
        mean_difference : mean absolute difference of the distances.
        correlation : Pearson's, over all blocks.
        same_start : fraction of sizes at which both paths start alike.
        overlap : mean share of layers that both paths remove, over sizes.

    Raises
    ------
    ValueError
        If the tables are of different depths.
    """
    if one.num_layers != other.num_layers:
        raise ValueError(
            f"Tables of {one.num_layers} and {other.num_layers} layers cannot "
            "be compared."
        )
    there = ~np.isnan(one.distances)
    a, b = one.distances[there], other.distances[there]
    pairs = list(zip(one.path(), other.path()))
    shared = [len(set(p.removed) & set(q.removed)) / p.size for p, q in pairs]
    return {
        "mean_difference": float(np.abs(a - b).mean()),
        "correlation": float(np.corrcoef(a, b)[0, 1]),
        "same_start": float(np.mean([p == q for p, q in pairs])),
        "overlap": float(np.mean(shared)),
    }
