"""The frontier: the best score at each depth, and what it costs."""

import itertools
from statistics import mean

import numpy as np

from speechllm.report.drawing import COLUMN_WIDTH, figure
from speechllm.report.estimates import estimate
from speechllm.report.estimates import mean as mean_of
from speechllm.report.figure_two import colour_of
from speechllm.report.summary import seconds
from speechllm.report.tables import GAP, Table, system_name

# Marks of what chose the layers, speech's angular path first.
OWN_PATH = "the system's own path"
INPUTS = ("speech", "text")
# More points than these at one depth stand side by side.
CROWD = 5
PATH_MARKS = ("D", "s", "^", "v", "x", "P", "*", "<", ">")


def frontier(cells, which):
    """At each depth every strategy's score, the best first."""
    metric = cells.metric(which)
    rows, sets = [], common_sets(cells, which)
    for healing, path in cells.curves(which) if sets else ():
        for depth in cells.depths(which, healing, path):
            by_set = [
                cells.score(which, depth, healing, path, name) for name in sets
            ]
            runs = cells.members(which, depth, healing, path)
            rows.append(
                {
                    "depth": depth,
                    "healing": healing,
                    "path": path,
                    "score": estimate(mean_of(by_set)),
                    "trainable": mean(sum(r.trainable.values()) for r in runs),
                    "steps": mean(run.steps or 0 for run in runs),
                    "seconds": mean(seconds(run) or 0 for run in runs),
                }
            )
    sign = 1 if metric == "WER" else -1
    return sorted(rows, key=lambda r: (r["depth"], sign * r["score"].value))


def common_sets(cells, which):
    """The sets that every pruned run of a system was scored on."""
    points = [
        (depth, healing, path)
        for healing, path in cells.curves(which)
        for depth in cells.depths(which, healing, path)
    ]
    return [
        name
        for name in cells.sets(which)
        if all(cells.score(which, *one, name) is not None for one in points)
    ]


def frontier_table(cells):
    """The best strategy at each depth of each system, with its cost."""
    rows = []
    for which in cells.systems():
        seen = set()
        for one in frontier(cells, which):
            if one["depth"] in seen:
                continue
            seen.add(one["depth"])
            rows.append(
                [
                    f"{system_name(which)}, {which[3]}",
                    f"{one['depth']} of {cells.layers(which)}",
                    f"{one['healing']}, {one['path'] or 'given'} path",
                    f"{cells.metric(which)} {one['score']}",
                    f"{one['trainable']:,.0f}",
                    f"{one['steps']:,.0f}",
                    f"{one['seconds']:,.0f}" if one["seconds"] else GAP,
                ]
            )
    header = (
        "Model;Layers removed;Best healing;Score, mean over the sets;"
        "Trainable parameters;Steps;Seconds (training and decoding)"
    )
    return Table(header.split(";"), rows)


def draw_frontier(cells, path, width=COLUMN_WIDTH):
    """Draw the best score at each depth, its strategies around it."""
    systems = [one for one in cells.systems() if frontier(cells, one)]
    if not systems:
        raise ValueError("no frontier to draw: no finished pruned run")
    across = 2 if len(systems) > 1 else 1
    down = -(-len(systems) // across)
    size = (width, 0.5 + (1.45 if width == COLUMN_WIDTH else 2.1) * down)
    with figure(path, size, dots=300, pdf=True, font=6.5) as drawn:
        grid = drawn.subplots(down, across, squeeze=False)
        for axes in grid.flat[len(systems) :]:
            axes.set_visible(False)
        looks = _looks(cells, systems)
        for axes, which in zip(grid.flat, systems):
            _frontier_panel(axes, cells, which, looks)
        drawn.legend(
            handles=_keys(*looks),
            loc="outside upper center",
            ncols=3,
            handlelength=1.6,
            columnspacing=1.2,
        )


def _looks(cells, systems):
    """A colour for each healing and a mark for each path of some systems."""
    rows = [one for which in systems for one in frontier(cells, which)]
    healings = list(dict.fromkeys(one["healing"] for one in rows))
    paths = sorted({_path_name(one) for one in rows} - {OWN_PATH})
    marks = {OWN_PATH: "o", **dict(zip(paths, itertools.cycle(PATH_MARKS)))}
    return {one: colour_of(one) for one in healings}, marks


def _path_name(one):
    """What chose the layers, for the legend (str)."""
    if one["path"] in ("speech", None):
        return OWN_PATH
    *whose, last = one["path"].split()
    # "ASR speech even": a rule's plan for a system on its own input.
    return last if whose and whose[-1] in INPUTS else one["path"]


def _keys(colours, marks):
    """The legend's lines: the best, the healings, then the paths."""
    from matplotlib.lines import Line2D

    def key(label, **look):
        return Line2D([], [], label=label, **look)

    plain = {"linestyle": "", "markersize": 4}
    keys = [key("best known", color="0.6", lw=2.5)]
    keys += [
        key(one, marker="s", color=colour, **plain)
        for one, colour in colours.items()
    ]
    if len(marks) > 1:
        keys += [
            key(one, marker=mark, color="0.2", markerfacecolor="none", **plain)
            for one, mark in marks.items()
        ]
    return keys


def _frontier_panel(axes, cells, which, looks):
    rows, layers = frontier(cells, which), cells.layers(which)
    whole = [cells.baseline_score(which, n) for n in common_sets(cells, which)]
    colours, marks = looks
    best = {}
    for one in rows:
        best.setdefault(one["depth"], one)
    line_x, line_y = [], []
    if all(w is not None for w in whole):
        line_x, line_y = [0], [float(mean_of(whole)[0])]
    line_x += [100 * d / layers for d in best]
    line_y += [one["score"].value for one in best.values()]
    axes.plot(line_x, line_y, color="0.6", lw=2.5)
    for one, aside in zip(rows, _aside(rows)):
        axes.plot(
            100 * (one["depth"] + aside) / layers,
            one["score"].value,
            linestyle="",
            marker=marks[_path_name(one)],
            color=colours[one["healing"]],
            # What lies below another stays to be seen.
            markerfacecolor="none",
            markersize=4,
            markeredgewidth=1,
        )
    if cells.metric(which) == "WER":
        axes.set_yscale("log")
        _plain_numbers(axes)
    axes.set_title(f"{system_name(which)}, {which[3]}")
    axes.set_xlabel("Layers removed (%)")
    axes.set_ylabel(cells.metric(which))


def _aside(rows):
    """How far from its depth each point is drawn, in layers."""
    depths = [one["depth"] for one in rows]
    gaps = np.diff(sorted({0, *depths}))
    room = 0.7 * gaps.min() if len(gaps) else 0.0
    for place, depth in enumerate(depths):
        many, rank = depths.count(depth), place - depths.index(depth)
        wide = room if many > CROWD else 0.0
        yield wide * (rank / (many - 1) - 0.5) if many > 1 else 0.0


def _plain_numbers(axes):
    """2, 5, 10 at a logarithmic axis instead of powers of ten."""
    low, high = axes.get_ylim()
    steps = [m * 10.0**e for e in range(-2, 3) for m in (1, 2, 5)]
    ticks = [one for one in steps if low <= one <= high]
    if len(ticks) < 2:
        ticks = [float(f"{one:.2g}") for one in np.geomspace(low, high, 3)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
