"""Figure 2: relative degradation against the share of layers removed."""

import zlib

import numpy as np

from speechllm.report.curves import LINEAR_UP_TO, MARKERS, set_ticks
from speechllm.report.drawing import FULL_WIDTH, PALETTE, SPARE_COLOURS, figure
from speechllm.report.estimates import estimate
from speechllm.report.tables import system_name

# A model's line within its family; the largest is solid.
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 1)))


def degradation_curves(cells, which, name):
    """The curves of a system on a set."""
    layers = cells.layers(which)
    found = {}
    for healing, path in cells.curves(which):
        depths = sorted(
            {
                run.removed
                for run in cells.runs
                if run.removed
                and (run.healing, run.path_from) == (healing, path)
                and (run.backbone, run.adapter or "") == which[:2]
                and (run.encoder, run.task) == which[2:]
            }
        )
        points = [
            (
                100 * depth / layers,
                estimate(cells.degradation(which, depth, healing, path, name)),
            )
            for depth in depths
        ]
        if any(one for _, one in points):
            found[healing, path] = points
    return found


def _rows(cells):
    """Rows of the figure: task and family, with its systems."""
    rows = {}
    for which in cells.systems():
        if any(degradation_curves(cells, which, n) for n in cells.sets(which)):
            key = (which[3], cells.family(which))
            rows.setdefault(key, []).append(which)
    for members in rows.values():
        members.sort(key=lambda w: (bool(w[1]), -cells.layers(w), w))
    return rows


def draw_figure_two(cells, path, width=FULL_WIDTH):
    """Draw Figure 2: a column for each set, a row for each family."""
    rows = _rows(cells)
    if not rows:
        raise ValueError(
            "no curve to draw: no finished pruned run has a finished baseline"
        )
    across = max(len(cells.sets(w)) for ws in rows.values() for w in ws)
    height = 0.9 + 1.75 * len(rows)
    entries = {}
    with figure(path, (width, height), dots=300, pdf=True, font=7) as drawn:
        grid = drawn.subplots(len(rows), across, sharey="row", squeeze=False)
        for axes_row, ((task, family), systems) in zip(grid, rows.items()):
            sets = cells.sets(systems[0])
            for axes in axes_row[len(sets) :]:
                axes.set_visible(False)
            for axes, name in zip(axes_row, sets):
                entries |= _draw_panel(axes, cells, systems, name)
                axes.set_title(f"{family}, {task}: {name}")
                axes.set_xlabel("Layers removed (%)")
            metric = cells.metric(systems[0])
            axes_row[0].set_ylabel(f"Relative {metric} degradation")
        # Healings before models: few entries say what many curves are.
        entries = dict(sorted(entries.items(), key=lambda e: e[1][0]))
        drawn.legend(
            [handle for _, handle in entries.values()],
            entries.keys(),
            loc="outside upper center",
            ncols=4,
            handlelength=3,
        )


def _draw_panel(axes, cells, systems, name):
    """All curves of a family on a set; entries of the legend."""
    axes.axhline(0, color="0.8", linewidth=0.8)
    threshold = cells.threshold(systems[0])
    line = axes.axhline(threshold, color="0.2", ls=(0, (7, 2, 1, 2)), lw=0.9)
    entries = {"threshold": (2, line)}
    for style, which in zip(STYLES * len(systems), systems):
        curves = degradation_curves(cells, which, name)
        for (healing, path), points in curves.items():
            _draw_curve(axes, points, healing, path, style)
            own = path in ("speech", None)
            label = healing if own else f"{healing}, {path} path"
            look = _look(healing, path)
            entries[label] = (0, _key(**look, linestyle="-"))
        look = {"color": "0.45", "linestyle": style}
        entries[system_name(which)] = (1, _key(**look))
    axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.2)
    set_ticks(axes)
    return entries


def _key(**look):
    """A line that stands in the legend only."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linewidth=1.1, **look)


def _look(healing, path):
    """Colour and mark of a curve."""
    colour = colour_of(healing, path)
    return {
        "color": colour,
        "marker": MARKERS.get(healing, "D"),
        "markersize": 3.2,
        "markerfacecolor": colour if path in ("speech", None) else "white",
    }


def colour_of(healing, path="speech"):
    """The colour of a healing strategy, or of another path."""
    if path not in ("speech", None):
        return SPARE_COLOURS[0]
    if healing in PALETTE:
        return PALETTE[healing]
    spare = zlib.crc32(healing.encode()) % (len(SPARE_COLOURS) - 1)
    return SPARE_COLOURS[1 + spare]


def _draw_curve(axes, points, healing, path, style):
    look = _look(healing, path)
    share_D = np.array([0.0, *(share for share, _ in points)])
    values_D3 = np.array(
        [[0.0] * 3, *(_ends(one) for _, one in points)], dtype=float
    )
    value_D, low_D, high_D = values_D3.T
    axes.fill_between(
        share_D, low_D, high_D, color=look["color"], alpha=0.13, lw=0
    )
    axes.plot(
        share_D,
        value_D,
        **look,
        linestyle=style,
        linewidth=1.1,
        # The common start needs no mark: it would be that of the last curve.
        markevery=slice(1, None),
    )


def _ends(one):
    """Value and ends; NaN for a gap, the value itself without interval."""
    if one is None:
        return [np.nan] * 3
    if one.low is None:
        return [one.value] * 3
    return [one.value, one.low, one.high]
