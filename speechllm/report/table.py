"""The table of a study in the form of the paper's Table 1, as Markdown."""

import itertools

from speechbrain_ext.layers.removal import ranges
from speechllm.report.summary import (
    at_limit,
    healing_rank,
    order,
    sets_of,
    system,
    tolerated_depths,
)
from speechllm.report.tables import markdown_table

MISSING = "—"


def table_text(runs, broken=()):
    """All that a study says in words and numbers."""
    parts = []
    runs = sorted(runs, key=order)
    for task, members in itertools.groupby(runs, key=lambda run: run.task):
        members = list(members)
        sets = sets_of(members)
        parts.append(f"## {task}\n")
        parts.append(_scores_table(members, sets))
        parts.append(_depth_lines(members))
        parts.append(_paths_table(members, sets))
    parts.append(_not_counted(runs, broken))
    return "\n".join(part for part in parts if part)


def _scores_table(runs, sets):
    metric = _metric(runs)
    unit = "WER %" if metric == "WER" else metric
    header = ["Model", "Dropped", "Layers", *sets]
    note = f"{unit} with its 95 % interval; bold: the best at its depth."
    limits = any(at_limit(run) for run in runs)
    if limits:
        header.append("At limit")
        note += " At limit: answers that ran into their token limit."
    rows = []
    for _, members in itertools.groupby(runs, key=system):
        members = list(members)
        best = _best(members, sets)
        for run in _with_gaps(members):
            cells = [*_model_cells(run, members)]
            cells += _score_cells(run, sets, best)
            rows.append([*cells, at_limit(run) or MISSING] if limits else cells)
    note += "\n"
    return "\n".join([markdown_table(header, rows), note])


def _metric(runs):
    scores = [one for run in runs for one in run.scores.values()]
    return scores[0].metric if scores else "WER"


class _Gap:
    """A combination of depth and healing for which there is no run."""

    status = "missing"
    scores = {}
    seed = None

    def __init__(self, layers, removed, path_from, healing):
        self.layers, self.removed = layers, removed
        self.path_from, self.healing = path_from, healing


def _with_gaps(runs):
    """The runs of one system, with gaps where depth x healing has no run."""
    rows = [run for run in runs if run.removed == 0]
    pruned = [run for run in runs if run.removed]
    for depth in sorted({run.removed for run in pruned}):
        here = [run for run in pruned if run.removed == depth]
        for path in dict.fromkeys(run.path_from for run in pruned):
            along = [run for run in pruned if run.path_from == path]
            if depth not in {run.removed for run in along}:
                continue
            healings = {run.healing for run in along}
            for healing in sorted(healings, key=healing_rank):
                found = [
                    run
                    for run in here
                    if run.healing == healing and run.path_from == path
                ]
                gap = _Gap(runs[0].layers, depth, path, healing)
                rows += found or [gap]
    return rows


def _model_cells(run, members):
    share = f"{100 * run.removed / run.layers:.1f} %" if run.removed else "-"
    layers = f"{run.removed} of {run.layers}" if run.removed else run.layers
    if run.removed:
        name = f"+ pruning, {run.healing}"
        if len({one.path_from for one in members if one.removed}) > 1:
            name += f" ({run.path_from or 'given'} path)"
    else:
        name = _system_name(system(run))
    alike = [one for one in members if _place(one) == _place(run)]
    if len(alike) > 1:
        name += f", seed {run.seed}"
        # The same seed twice: only the names tell them apart.
        if len({one.seed for one in alike}) < len(alike):
            name += f" ({run.name})"
    return [name, share, str(layers)]


def _place(run):
    return run.removed, run.path_from, run.healing


def _system_name(which):
    backbone, adapter, _, _ = which
    return f"{backbone} + {adapter}" if adapter else backbone


def _score_cells(run, sets, best):
    if run.status == "missing":
        return [MISSING] * len(sets)
    if run.status != "done":
        return [run.status] * len(sets)
    cells = []
    for name in sets:
        one = run.scores.get(name)
        if one is None or one.value is None:
            cells.append(MISSING)
            continue
        value = f"{one.value:.2f}"
        if run.removed and one.value == best.get((run.removed, name)):
            value = f"**{value}**"
        ends = one.interval
        if ends and None not in ends:
            value += f" [{ends[0]:.2f}, {ends[1]:.2f}]"
        cells.append(value)
    return cells


def _best(runs, sets):
    """Best score by depth and set; none where one run stands alone."""
    best = {}
    for depth, name in itertools.product({run.removed for run in runs}, sets):
        scores = [
            run.scores[name]
            for run in runs
            if run.status == "done"
            and run.removed == depth
            and name in run.scores
            and run.scores[name].value is not None
        ]
        if len(scores) > 1:
            pick = max if scores[0].higher_is_better else min
            best[depth, name] = pick(one.value for one in scores)
    return best


def _depth_lines(runs):
    lines = []
    for one in tolerated_depths(runs):
        share = 100 * one["depth"] / one["layers"]
        looked_at = ", ".join(map(str, one["depths"]))
        lines.append(
            f"- {_system_name(one['system'])}, healing {one['healing']}, "
            f"{one['path'] or 'given'} path: {one['depth']} of "
            f"{one['layers']} layers ({share:.1f} %); depths run: {looked_at}"
        )
    if not lines:
        return ""
    threshold = tolerated_depths(runs)[0]["threshold"]
    head = (
        "Largest depth at which every set is within a relative degradation "
        f"of {threshold:.2f}:\n"
    )
    return "\n".join([head, *lines]) + "\n"


def _paths_table(runs, sets):
    """The same depth and healing along different paths, side by side."""
    rows = []
    pruned = [run for run in runs if run.removed]
    places = dict.fromkeys((system(r), r.removed, r.healing) for r in pruned)
    for place in places:
        alike = [
            run
            for run in pruned
            if (system(run), run.removed, run.healing) == place
        ]
        if len({run.path_from for run in alike}) < 2:
            continue
        for run in alike:
            removed = ranges(run.removed_layers or []) or MISSING
            rows.append(
                [
                    _system_name(system(run)),
                    f"{run.removed} of {run.layers}",
                    run.healing,
                    run.path_from or "given",
                    removed,
                    *_score_cells(run, sets, {}),
                ]
            )
    if not rows:
        return ""
    header = ["Model", "Layers", "Healing", "Path", "Removed", *sets]
    return "The same along different paths:\n\n" + markdown_table(header, rows)


def _not_counted(runs, broken):
    lines = [
        f"- {run.name}: {run.status}" + (f", {run.error}" * bool(run.error))
        for run in runs
        if run.status != "done"
    ]
    lines += [f"- {path}: cannot be read, {fault}" for path, fault in broken]
    return "\n".join(["Not counted:\n", *lines]) + "\n" if lines else ""
