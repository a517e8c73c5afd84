"""The frontier: the best score at each depth, and what it costs."""

from __future__ import annotations

import itertools
from collections import Counter
from statistics import mean

import numpy as np

from speechllm.report.estimates import estimate
from speechllm.report.estimates import mean as mean_of
from speechllm.report.figures import (
    COLUMN_WIDTH,
    OWN_PATHS,
    colour_of,
    figure,
    hide,
    line_key,
)
from speechllm.report.summary import seconds
from speechllm.report.tables import GAP, Table, system_name

# Marks of what chose the layers, speech's angular path first.
OWN_PATH = "the system's own path"
INPUTS = ("speech", "text")
# More points than these at one depth stand side by side.
CROWD = 5
PATH_MARKS = ("D", "s", "^", "v", "x", "P", "*", "<", ">")


def frontier(study, which) -> list[dict]:
    """At each depth every strategy's score, the best first."""
    metric = study.metric(which)
    rows, sets = [], study.common_sets(which)
    for curve in study.curves(which) if sets else ():
        for depth in study.depths(which, *curve):
            by_set = [study.score(which, depth, *curve, n) for n in sets]
            runs = study.members(which, depth, *curve)
            rows.append(
                {
                    "depth": depth,
                    "healing": curve[0],
                    "path": curve[1],
                    "score": estimate(mean_of(by_set)),
                    "trainable": mean(sum(r.trainable.values()) for r in runs),
                    "steps": mean(run.steps or 0 for run in runs),
                    "seconds": mean(seconds(run) or 0 for run in runs),
                }
            )
    sign = 1 if metric == "WER" else -1
    return sorted(rows, key=lambda r: (r["depth"], sign * r["score"].value))


def best_of(rows) -> list[dict]:
    """The first row of each depth, which is the best."""
    return list({one["depth"]: one for one in reversed(rows)}.values())[::-1]


def best_of_many(many: int) -> str:
    """How many a best one was picked from: the more, the luckier."""
    return f" (best of {many} compared)" if many > 1 else " (the only one)"


def frontier_table(study) -> Table:
    """The best strategy at each depth of each system, with its cost."""
    rows = []
    for which in study.systems():
        found = frontier(study, which)
        many = Counter(one["depth"] for one in found)
        for one in best_of(found):
            rows.append(
                [
                    f"{system_name(which)}, {which[3]}",
                    f"{one['depth']} of {study.layers(which)}",
                    f"{one['healing']}, {one['path'] or 'given'} path"
                    + best_of_many(many[one["depth"]]),
                    f"{study.metric(which)} {one['score']}",
                    f"{one['trainable']:,.0f}",
                    f"{one['steps']:,.0f}",
                    f"{one['seconds']:,.0f}" if one["seconds"] else GAP,
                ]
            )
    header = [
        "Model",
        "Layers removed",
        "Best healing, by this score",
        "Score, mean over the sets",
        "Trainable parameters",
        "Steps",
        "Seconds (training and decoding)",
    ]
    return Table(header, rows)


def draw_frontier(study, path, width=COLUMN_WIDTH):
    """Draw the best score at each depth, its strategies around it."""
    systems = [one for one in study.systems() if frontier(study, one)]
    if not systems:
        raise ValueError("no frontier to draw: no finished pruned run")
    across = 2 if len(systems) > 1 else 1
    down = -(-len(systems) // across)
    size = (width, 0.5 + (1.45 if width == COLUMN_WIDTH else 2.1) * down)
    with figure(path, size, pdf=True, font=6.5) as drawn:
        grid = drawn.subplots(down, across, squeeze=False)
        hide(grid.flat[len(systems) :])
        looks = _looks(study, systems)
        for axes, which in zip(grid.flat, systems):
            _frontier_panel(axes, study, which, looks)
        drawn.legend(
            handles=_keys(*looks),
            loc="outside upper center",
            ncols=3,
            handlelength=1.6,
            columnspacing=1.2,
        )


def _looks(study, systems):
    """A colour for each healing and a mark for each path of some systems."""
    rows = [one for which in systems for one in frontier(study, which)]
    healings = list(dict.fromkeys(one["healing"] for one in rows))
    paths = sorted({_path_name(one) for one in rows} - {OWN_PATH})
    marks = {OWN_PATH: "o", **dict(zip(paths, itertools.cycle(PATH_MARKS)))}
    return {one: colour_of(one) for one in healings}, marks


def _path_name(one):
    """What chose the layers, for the legend (str)."""
    if one["path"] in OWN_PATHS:
        return OWN_PATH
    *whose, last = one["path"].split()
    # "ASR speech even": a rule's plan for a system on its own input.
    return last if whose and whose[-1] in INPUTS else one["path"]


def _keys(colours, marks):
    """The legend's lines: the best, the healings, then the paths."""
    plain = {"linestyle": "", "markersize": 4}
    keys = [line_key(label="best compared", color="0.6", lw=2.5)]
    keys += [
        line_key(label=one, marker="s", color=colour, **plain)
        for one, colour in colours.items()
    ]
    if len(marks) > 1:
        keys += [
            line_key(
                label=one,
                marker=mark,
                color="0.2",
                markerfacecolor="none",
                **plain,
            )
            for one, mark in marks.items()
        ]
    return keys


def _frontier_panel(axes, study, which, looks):
    rows, layers = frontier(study, which), study.layers(which)
    whole = [study.baseline_score(which, n) for n in study.common_sets(which)]
    colours, marks = looks
    best = best_of(rows)
    line_x, line_y = [], []
    if all(w is not None for w in whole):
        line_x, line_y = [0], [mean_of(whole).value]
    line_x += [100 * one["depth"] / layers for one in best]
    line_y += [one["score"].value for one in best]
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
    low, high = axes.dataLim.intervaly
    # Within a decade a logarithmic axis has hardly a number.
    if study.metric(which) == "WER" and low > 0 and high / low > 5:
        axes.set_yscale("log")
        _plain_numbers(axes)
    axes.set_title(f"{system_name(which)}, {which[3]}")
    axes.set_xlabel("Layers removed (%)")
    axes.set_ylabel(study.metric(which))


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
    from matplotlib.ticker import LogLocator

    # With none of these in sight the locator takes even steps.
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
