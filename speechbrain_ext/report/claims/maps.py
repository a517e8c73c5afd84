"""Redundancy tables of a study, each with the run that it was measured on.

Authors
 * The speechbrain_ext authors, 2026
"""

import numpy as np


def table_of(tables, run, kind):
    """The table that was measured on a baseline.

    Arguments
    ---------
    tables : list of dict
        As from `speechbrain_ext.report.read_tables`.
    run : RunResult
        The baseline.
    kind : str
        "speech" or "text".

    Returns
    -------
    dict or None

    Example
    -------
    >>> table_of([], None, "text") is None
    True
    """
    for table in tables:
        origin = table.get("provenance") or {}
        if origin.get("input") == kind and origin.get("run") == run.name:
            return table
    return None


def distances(table):
    """``[L, L]`` of a table; NaN where there is no such block.

    Arguments
    ---------
    table : dict
        Its file's content.

    Returns
    -------
    numpy.ndarray

    Example
    -------
    >>> distances({"distances": [[0.5, None]]})
    array([[0.5, nan]])
    """
    return np.array(table["distances"], dtype=np.float64)


def measured(cells, tables, kind):
    """The unpruned runs that have a table of a kind.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    tables : list of dict
        Its redundancy tables.
    kind : str
        "speech" or "text".

    Returns
    -------
    list of (RunResult, dict)
        Run and table.
    """
    found = [
        (run, table_of(tables, run, kind))
        for run in cells.done
        if run.removed == 0
    ]
    return [(run, table) for run, table in found if table is not None]


def paired_maps(cells, tables, one, other):
    """How far the maps of two kinds of input are apart, over seeds.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    tables : list of dict
        Its redundancy tables.
    one, other : str
        Kinds of input.

    Returns
    -------
    far_R : numpy.ndarray or None
        Mean absolute difference ``[1 + R]``.
    same_R : numpy.ndarray or None
        Share of the sizes for which both name one block ``[1 + R]``.
    """
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
    """How much LoRA moves the mean distance of a map, over seeds.

    Arguments
    ---------
    cells : speechbrain_ext.report.cells.Cells
        A study.
    tables : list of dict
        Its redundancy tables.

    Returns
    -------
    numpy.ndarray or None
        Adapted minus frozen ``[1 + R]``.
    """
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
