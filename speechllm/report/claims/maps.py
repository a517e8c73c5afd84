"""Redundancy tables of a study, each with the run that it was measured on."""

import numpy as np


def table_of(tables, run, kind):
    """The table that was measured on a baseline."""
    for table in tables:
        origin = table.get("provenance") or {}
        if origin.get("input") == kind and origin.get("run") == run.name:
            return table
    return None


def distances(table):
    """``[L, L]`` of a table; NaN where there is no such block."""
    return np.array(table["distances"], dtype=np.float64)


def measured(cells, tables, kind):
    """The unpruned runs that have a table of a kind."""
    found = [
        (run, table_of(tables, run, kind))
        for run in cells.done
        if run.removed == 0
    ]
    return [(run, table) for run, table in found if table is not None]


def paired_maps(cells, tables, one, other):
    """How far the maps of two kinds of input are apart, over seeds."""
    far, same = {}, {}
    for run, table in measured(cells, tables, one):
        beside = table_of(tables, run, other)
        if beside is None:
            continue
        gap = np.nanmean(np.abs(distances(table) - distances(beside)))
        agree = [a == b for a, b in zip(table["path"], beside["path"])]
        far.setdefault(run.seed, []).append(gap)
        same.setdefault(run.seed, []).append(np.mean(agree))
    return _over_seeds(cells, far), _over_seeds(cells, same)


def adapted_against_frozen(cells, tables):
    """How much LoRA moves the mean distance of a map, over seeds."""
    frozen = {
        (run.backbone, run.encoder, run.task, run.seed): table
        for run, table in measured(cells, tables, "speech")
        if not run.adapter
    }
    changes = {}
    for run, table in measured(cells, tables, "speech"):
        alike = run.backbone, run.encoder, run.task, run.seed
        beside = frozen.get(alike)
        if run.adapter and beside is not None:
            change = np.nanmean(distances(table) - distances(beside))
            changes.setdefault(run.seed, []).append(change)
    return _over_seeds(cells, changes)


def _over_seeds(cells, by_seed):
    drawn = 1 + cells.samples.draws
    return cells.samples.over_seeds(
        {seed: np.full(drawn, np.mean(v)) for seed, v in by_seed.items()}
    )
