"""Curves of degradation against depth (the paper's Figure 2)."""

import itertools

import numpy as np

from speechllm.report.drawing import FULL_WIDTH, PALETTE, SPARE_COLOURS, figure
from speechllm.report.summary import (
    HEALINGS,
    THRESHOLDS,
    baseline_of,
    degradations,
    healing_rank,
    order,
    sets_of,
    system,
)

MARKERS = {"none": "x", "projector": "s", "decoder": "^", "both": "o"}
LINES = {"speech": "-", None: "-", "text": "--"}
OTHER_LINES = (":", "-.", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (9, 2)))
# Linear up to here, then logarithmic: unhealed models are off by a hundred
# times the threshold, and both ends have to be read from one picture.
LINEAR_UP_TO = 0.5
FINE_TICKS = (-0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.3)
TICKS = (-0.25, 0, 0.25, 0.5, 1, 2, 5, 10, 20)
WIDE_TICKS = (-0.25, 0, 0.25, 0.5, 2, 10, 100)


def draw_curves(runs, path, width=FULL_WIDTH):
    """Draw the relative degradation against the share of layers removed."""
    panels = _panels(runs)
    if not panels:
        raise ValueError(
            "no curve to draw: no finished pruned run has a finished baseline"
        )
    sets = max(len(row) for row in panels)
    if width < 5:
        panels = [[panel] for row in panels for panel in row]
        sets = 1
    keys = sorted(
        {key for row in panels for panel in row for key in panel["curves"]},
        key=_key_order,
    )
    across = 2 if width < 5 else 4
    legend_rows = -(-(len(keys) + 1) // across)
    height = 0.5 + 2.1 * len(panels) + 0.17 * legend_rows
    with figure(path, (width, height)) as drawn:
        grid = drawn.subplots(len(panels), sets, sharey="row", squeeze=False)
        for row, axes_row in zip(panels, grid):
            for panel, axes in itertools.zip_longest(row, axes_row):
                if panel is None:
                    axes.set_visible(False)
                    continue
                _draw_panel(axes, panel, keys)
            axes_row[0].set_ylabel(_label(row[0], len(panels) > 1))
        for axes in grid[-1]:
            axes.set_xlabel("Layers removed (%)")
        handles = _handles(grid)
        drawn.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper center",
            ncols=across,
            handlelength=2.6,
        )


def _panels(runs):
    """Rows of panels: for each system its sets, with the curves of each."""
    rows = []
    runs = sorted(runs, key=order)
    for which, members in itertools.groupby(runs, key=system):
        members = list(members)
        curves = _curves(members)
        row = []
        for name in sets_of(members):
            points = {
                key: {depth: by_set.get(name) for depth, by_set in one.items()}
                for key, one in curves.items()
            }
            if any(p for one in points.values() for p in one.values()):
                row.append(
                    {
                        "system": which,
                        "set": name,
                        "layers": members[0].layers,
                        "metric": _metric(members, name),
                        "curves": points,
                    }
                )
        if row:
            rows.append(row)
    return rows


def _metric(runs, name):
    return next(run.scores[name].metric for run in runs if name in run.scores)


def _curves(runs):
    """By (healing, path): for each depth the degradations by set."""
    found = {}
    for run in runs:
        if run.removed:
            depths = found.setdefault((run.healing, run.path_from), {})
            many = depths.setdefault(run.removed, [])
            many.append(degradations(run, baseline_of(run, runs)))
    return {
        key: {depth: _mean(many) for depth, many in depths.items()}
        for key, depths in found.items()
    }


def _mean(many):
    """Mean over seeds, by set, of value and ends as ``[3]``."""
    names = dict.fromkeys(name for by_set in many for name in by_set)
    return {
        name: np.mean(
            [_three(by_set[name]) for by_set in many if name in by_set],
            axis=0,
        ).tolist()
        for name in names
    }


def _three(one):
    ends = one["interval"] or [None, None]
    return [one["value"], *(np.nan if end is None else end for end in ends)]


def _key_order(key):
    healing, path = key
    return path != "speech", str(path), healing_rank(healing)


def _colour(healing, keys):
    others = sorted({h for h, _ in keys if h not in HEALINGS})
    if healing in PALETTE:
        return PALETTE[healing]
    return SPARE_COLOURS[others.index(healing) % len(SPARE_COLOURS)]


def _line(path, keys):
    """Solid for speech, dashed for text, a pattern for each other path."""
    if path in LINES:
        return LINES[path]
    others = sorted({str(p) for _, p in keys if p not in LINES})
    return OTHER_LINES[others.index(str(path)) % len(OTHER_LINES)]


def _draw_panel(axes, panel, keys):
    axes.axhline(0, color="0.8", linewidth=0.8)
    threshold = THRESHOLDS.get(panel["metric"], 0.25)
    axes.axhline(
        threshold,
        color="0.4",
        linestyle=(0, (4, 3)),
        linewidth=1,
        label=f"threshold {threshold:.2f}",
    )
    for key in keys:
        if key in panel["curves"]:
            _draw_curve(axes, panel, key, keys)
    axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.2)
    set_ticks(axes)
    axes.set_title(panel["set"])


def _label(panel, named):
    """What a row's axis shows; one system alone need not be named."""
    what = f"Relative {panel['metric']} degradation"
    if not named:
        return what
    backbone, adapter, _, task = panel["system"]
    name = f"{backbone} + {adapter}" if adapter else backbone
    return f"{name}, {task}\n{what}"


def _draw_curve(axes, panel, key, keys):
    healing, path = key
    points = panel["curves"][key]
    depths = sorted(points)
    nothing = [np.nan] * 3
    values = np.array([points[depth] or nothing for depth in depths])
    # Every curve leaves from the unpruned model, which is off by nothing.
    share = 100 * np.array([0, *depths]) / panel["layers"]
    values = np.vstack([np.zeros(3), values])
    speech = path in ("speech", None)
    colour = _colour(healing, keys)
    low, high = values[:, 1], values[:, 2]
    if speech:
        axes.fill_between(share, low, high, color=colour, alpha=0.12, lw=0)
    else:
        # A band over the band of the same colour would hide both.
        ends = np.abs(np.stack([low, high]) - values[:, 0])[:, 1:]
        axes.errorbar(
            share[1:],
            values[1:, 0],
            ends,
            fmt="none",
            ecolor=colour,
            elinewidth=0.8,
            capsize=2,
        )
    axes.plot(
        share,
        values[:, 0],
        color=colour,
        linestyle=_line(path, keys),
        marker=MARKERS.get(healing, "D"),
        markersize=4,
        markerfacecolor=colour if speech else "white",
        linewidth=1.3,
        # The common start needs no mark: it would be that of the last curve.
        markevery=slice(1, None),
        label=healing if speech else f"{healing}, {path} path",
    )


def set_ticks(axes):
    """Numbers at an axis that is linear at first and logarithmic above."""
    low, high = axes.get_ylim()
    # The eye needs no more below zero than what is there.
    axes.set_ylim(min(low, -0.05), high)
    wanted = TICKS if high <= 2 * TICKS[-1] else WIDE_TICKS
    ticks = [tick for tick in wanted if low <= tick <= high]
    if len(ticks) < 3:
        ticks = [tick for tick in FINE_TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


def _handles(grid):
    """Legend entries of all panels, each once."""
    found = {}
    for axes in grid.flat:
        for handle, label in zip(*axes.get_legend_handles_labels()):
            found.setdefault(label, handle)
    return found
