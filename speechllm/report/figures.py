"""Pictures: how all of them look, degradation against depth, and costs."""

from __future__ import annotations

import itertools
import textwrap
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from speechbrain_ext.runs.files import atomic_write
from speechllm.report.estimates import estimate, grouped
from speechllm.report.samples import BASELINES, SEEDS
from speechllm.report.tables import chance_text, system_name
from speechllm.report.timings import LACKING, Timing

# Okabe and Ito's colours, told apart by people of any colour vision, and
# darker ones of the same hues.
PALETTE = {
    "none": "#000000",
    "projector": "#E69F00",
    "decoder": "#0072B2",
    "both": "#D55E00",
    "attention": "#56B4E9",
    "bridge": "#CC79A7",
    "everywhere": "#B09A00",
    "spread": "#009E73",
    "spread_attention": "#00523C",
    "map": "#A0A0A0",
    "map_folded": "#606060",
}
SPARE_COLOURS = ("#009E73", "#CC79A7", "#56B4E9", "#F0E442")
MODEL_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "k")
# A model's line within its family; the largest is solid.
STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)), (0, (6, 1)))
MARKERS = {"none": "x", "projector": "s", "decoder": "^", "both": "o"}
# Of curves along another path than the system's own.
PATH_MARKERS = {"text": "o", "ASR speech": "s"}
OWN_PATHS = ("speech", None)
FULL_WIDTH = 7.0
COLUMN_WIDTH = 3.4
# Linear up to here, then logarithmic: unhealed models are off by a hundred
# times the threshold, and both ends have to be read from one picture.
LINEAR_UP_TO = 0.5
FINE_TICKS = (-0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.3)
TICKS = (-0.25, 0, 0.25, 0.5, 1, 2, 5, 10, 20)
WIDE_TICKS = (-0.25, 0, 0.25, 0.5, 2, 10, 100)


@contextmanager
def figure(path, size, pdf=False, font=7.0):
    """A figure that is written to a file when the block ends."""
    try:
        import matplotlib
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "pictures need matplotlib, which is not installed: "
            "pip install markdown matplotlib"
        ) from error
    style = {
        "font.size": font,
        "axes.titlesize": font,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    dots = 300 if pdf else 200
    with matplotlib.rc_context(style):
        drawn = Figure(figsize=size, dpi=dots, layout="constrained")
        # Agg needs no display.
        canvas = FigureCanvasAgg(drawn)
        yield drawn
        with atomic_write(path, "wb") as stream:
            canvas.print_png(stream)
        if pdf:
            with atomic_write(Path(path).with_suffix(".pdf"), "wb") as stream:
                # Without a date the same results give the same file.
                plain = {"CreationDate": None}
                drawn.savefig(stream, format="pdf", metadata=plain)


def line_key(**look):
    """A line that stands in the legend only."""
    from matplotlib.lines import Line2D

    return Line2D([], [], **look)


def hide(axes):
    """Hide the panels that are left over in a grid."""
    for one in axes:
        one.set_visible(False)


# ----------------------------------------------------------------------------
# Relative degradation against the share of layers removed (Figure 2).


def degradation_curves(study, which, name: str) -> dict:
    """By healing and path a system's points on a set: share and estimate."""
    layers = study.layers(which)
    found = {}
    for curve, depths in study.curves(which).items():
        points = [
            (
                100 * depth / layers,
                estimate(study.degradation(which, depth, *curve, name)),
            )
            for depth in depths
        ]
        if any(one for _, one in points):
            found[curve] = points
    return found


def draw_curves(
    study, path: str | Path, width: float = FULL_WIDTH, pdf: bool = False
) -> None:
    """Draw a column for each set and a row for each family.

    In the width of a column the sets stand below one another.
    """
    rows = [
        [(key, systems, name) for name in study.sets(systems[0])]
        for key, systems in _families(study).items()
    ]
    if not rows:
        raise ValueError(
            "no curve to draw: no finished pruned run has a finished baseline"
        )
    wide = width >= 5
    if not wide:
        rows = [[panel] for row in rows for panel in row]
    entries: dict = {}
    size = (width, 0.9 + (1.75 if wide else 2.1) * len(rows))
    with figure(path, size, pdf, font=7) as drawn:
        across = max(map(len, rows))
        grid = drawn.subplots(len(rows), across, sharey="row", squeeze=False)
        for axes_row, row in zip(grid, rows):
            hide(axes_row[len(row) :])
            for axes, ((task, family), systems, name) in zip(axes_row, row):
                entries |= _curves_panel(axes, study, systems, name)
                title = ", ".join(part for part in (family, task) if part)
                axes.set_title(f"{title}: {name}")
                axes.set_xlabel("Layers removed (%)")
            metric = study.metric(row[0][1][0])
            axes_row[0].set_ylabel(f"Relative {metric} degradation")
            _set_ticks(axes_row[: len(row)])
        # Healings before models: few entries say what many curves are.
        entries = dict(sorted(entries.items(), key=lambda e: e[1][0]))
        drawn.legend(
            [handle for _, handle in entries.values()],
            [textwrap.fill(label, 36 if wide else 24) for label in entries],
            loc="outside upper center",
            ncols=4 if wide else 2,
            handlelength=3,
        )


def _families(study):
    """Task and family with its systems that have curves, the largest first."""
    rows = grouped(
        ((which[3], study.family(which)), which)
        for which in study.systems()
        if any(degradation_curves(study, which, n) for n in study.sets(which))
    )
    for members in rows.values():
        members.sort(key=lambda w: (bool(w[1]), -study.layers(w), w))
    return rows


def _curves_panel(axes, study, systems, name):
    """All curves of a family on a set; entries of the legend."""
    axes.axhline(0, color="0.8", linewidth=0.8)
    threshold = study.threshold(systems[0])
    line = axes.axhline(threshold, color="0.2", ls=(0, (7, 2, 1, 2)), lw=0.9)
    entries = {"threshold": (2, line)}
    for style, which in zip(itertools.cycle(STYLES), systems):
        curves = degradation_curves(study, which, name)
        for (healing, path), points in curves.items():
            own = path in OWN_PATHS
            label = healing if own else f"{healing}, {path} path"
            look = _look(healing, path)
            _draw_curve(axes, points, look, style, label, own)
            entries[label] = (0, line_key(**look, linestyle="-", lw=1.1))
            for one in (one for _, one in points if one):
                entries[_band_label(one)] = (3, _band_key(one))
        look = {"color": "0.45", "linestyle": style, "lw": 1.1}
        entries[system_name(which)] = (1, line_key(**look))
    axes.set_yscale("symlog", linthresh=LINEAR_UP_TO, linscale=1.2)
    return entries


def _band_label(one):
    """What a band or its absence stands for, in the legend."""
    if one.low is None:
        return f"no band: {chance_text(one)}"
    if not one.lacking:
        # What is not healed has its baseline's seeds alone: no other band.
        kinds = {
            SEEDS if k == BASELINES else k: n for k, n in one.units.items()
        }
        one = replace(one, units=kinds)
    return f"95 %, {chance_text(one)}"


def _band_look(one):
    """A band that does not know all chance is hatched."""
    return {"alpha": 0.13, "lw": 0, "hatch": "////" if one.lacking else None}


def _band_key(one):
    from matplotlib.patches import Patch

    if one.low is None:
        return Patch(facecolor="none", edgecolor="0.7", lw=0.5)
    return Patch(color="0.2", **_band_look(one))


def _look(healing, path):
    """Colour and mark of a curve: hollow along another path."""
    colour = colour_of(healing)
    own = path in OWN_PATHS
    marks = MARKERS if own else PATH_MARKERS
    return {
        "color": colour,
        "marker": marks.get(healing if own else path, "D"),
        "markersize": 3.2,
        "markerfacecolor": colour if own else "white",
    }


def colour_of(healing: str) -> str:
    """The colour of a healing strategy."""
    spare = zlib.crc32(healing.encode()) % len(SPARE_COLOURS)
    return PALETTE.get(healing, SPARE_COLOURS[spare])


def _draw_curve(axes, points, look, style, label, own):
    # Every curve leaves from the unpruned model, which is off by nothing.
    share_D = np.array([0.0, *(share for share, _ in points)])
    values_D3 = np.array([[0.0] * 3, *(_ends(one) for _, one in points)])
    value_D, low_D, high_D = values_D3.T
    if own:
        for end, (_, one) in enumerate(points, start=1):
            if one is not None:
                part = slice(end - 1, end + 1)
                ends = low_D[part], high_D[part]
                how = _band_look(one) | {"color": look["color"]}
                axes.fill_between(share_D[part], *ends, **how)
    else:
        # A band over the band of the same colour would hide both.
        ends = np.abs(np.stack([low_D, high_D]) - value_D)
        bars = {"ecolor": look["color"], "elinewidth": 0.8, "capsize": 2}
        axes.errorbar(share_D[1:], value_D[1:], ends[:, 1:], fmt="none", **bars)
    # A line from the start to a lone point would say what was not run.
    first = 0 if own else 1
    axes.plot(
        share_D[first:],
        value_D[first:],
        **look,
        linestyle=style,
        linewidth=1.1,
        # The common start needs no mark: it would be that of the last curve.
        markevery=slice(1 - first, None),
        label=label,
    )


def _ends(one):
    """Value and ends; NaN for a gap, the value itself without interval."""
    if one is None:
        return [np.nan] * 3
    if one.low is None:
        return [one.value] * 3
    return [one.value, one.low, one.high]


def _set_ticks(row):
    """Numbers at an axis that is linear at first and logarithmic above."""
    axes = row[0]
    low, high = axes.get_ylim()
    # The eye needs no more below zero than what is there, and bands of two
    # seeds can be so wide that the curves would be lost in them.
    curves = [
        line.get_ydata()
        for one in row
        for line in one.lines
        if not line.get_label().startswith("_")
    ]
    least, most = np.nanmin(np.hstack(curves)), np.nanmax(np.hstack(curves))
    low = max(min(low, -0.05), least - 1)
    high = min(high, 4 * max(most, LINEAR_UP_TO))
    axes.set_ylim(low, high)
    wanted = TICKS if high <= 2 * TICKS[-1] else WIDE_TICKS
    ticks = [tick for tick in wanted if low <= tick <= high]
    if len(ticks) < 3:
        ticks = [tick for tick in FINE_TICKS if low <= tick <= high]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()


# ----------------------------------------------------------------------------
# Speed and memory against depth.


def draw_costs(study, path: str | Path) -> None:
    """Draw speed and memory of pruned models, as times the whole model's."""
    timed = [one for one in study.timings if not one.busy]
    if not timed:
        # Of runs that shared their cores no speed is known.
        raise ValueError(f"missing: {LACKING}")
    costs = {"Decoding speed": Timing.ratio, "Memory": Timing.memory_left}
    with figure(path, (COLUMN_WIDTH, 4.0), pdf=True) as drawn:
        grid = drawn.subplots(2, 1, sharex=True)
        handles = {}
        for axes, (what, cost) in zip(grid, costs.items()):
            axes.axhline(1, color="0.8", linewidth=0.8)
            looks = zip(itertools.cycle(STYLES), itertools.cycle(MODEL_COLOURS))
            lines = _cost_lines(timed, cost).items()
            for (name, points), (style, colour) in zip(lines, looks):
                x, y = zip(*[(share, one.value) for share, one in points])
                ends = np.array([_ends(one) for _, one in points]).T
                bars = [y - ends[1], ends[2] - y]
                look = {"color": colour, "ls": style, "marker": "o", "ms": 3}
                handles[name] = axes.errorbar(x, y, bars, lw=1.1, **look)
            axes.set_ylabel(f"{what}\n(whole model = 1)")
        grid[1].set_xlabel("Layers removed (%)")
        drawn.legend(
            handles.values(),
            handles.keys(),
            loc="outside upper center",
            ncols=2,
            handlelength=3,
        )


def _cost_lines(timed, cost):
    """By system: share of layers and cost as times the whole model's."""
    return grouped(
        (
            f"{system_name(one.which)}, {one.which[3]}",
            (100 * one.depth / one.layers, cost(one)),
        )
        for one in sorted(timed, key=lambda one: one.depth)
    )
