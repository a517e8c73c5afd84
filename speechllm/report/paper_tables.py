"""The paper's tables with a study's rows, and where its threshold is from."""

from __future__ import annotations

import itertools
from statistics import fmean

from speechbrain_ext.scores.intervals import WORSE, holm, relative_degradation
from speechllm.report import paper
from speechllm.report.estimates import estimate, grouped, mean
from speechllm.report.study import size_of
from speechllm.report.tables import (
    GAP,
    Table,
    layers_cells,
    system_name,
    tolerance_text,
)

# The first cell of a row that was not measured in the study.
PAPERS = "the paper's"
CUMULATIVE = "cumulative: a family's steps summed, mean"


def said(drawn, form: str = "{:.2f}") -> str:
    """A statistic as a cell; a dash where there is none."""
    found = estimate(drawn)
    return found.said(form) if found else GAP


def table_one(study) -> Table:
    """Table 1: each system whole, and pruned as far as the threshold lets."""
    theirs, systems = paper.table_1(), study.systems("ASR")
    names = [n for which in systems for n in study.sets(which)]
    names += [name for row in theirs for name in row["scores"]]
    sets = list(dict.fromkeys(names))
    rows = []
    for which in systems:
        rows += _system_rows(study, which, sets)
    for row in theirs:
        removed = row["removed"]
        name = system_name((row["model"], row["adapter"]))
        scores = [row["scores"].get(n) for n in sets]
        rows.append(
            [
                PAPERS,
                "+ pruning" if removed else name,
                *layers_cells(removed, row["layers"]),
                *(GAP if one is None else f"{one:.2f}" for one in scores),
                *[GAP] * 3,
            ]
        )
    header = ["Source", "Model", "Dropped", "Layers", *sets]
    header += ["Interval rule", "Depths run", "Runs"]
    return Table(header, rows)


def _system_rows(study, which, sets):
    layers = study.layers(which)
    whole = [said(study.baseline_score(which, name)) for name in sets]
    start = ["here", system_name(which), *layers_cells(0, layers), *whole]
    rows = [[*start, GAP, GAP, len(study.baselines(which))]]
    depths = study.depths(which)
    if not depths:
        gaps = [GAP] * (5 + len(sets))
        return [*rows, ["here", "+ pruning: no run", *gaps]]
    depth = study.largest(which)
    known = any(cell != GAP for cell in whole)
    why = "over the threshold" if known else "degradation unknown"
    name = "+ pruning, both" + f" ({why})" * (not depth)
    depth = depth or depths[0]
    cell = depth, "both", "speech"
    scores = [said(study.score(which, *cell, one)) for one in sets]
    row = ["here", name, *layers_cells(depth, layers), *scores]
    ends = [tolerance_text(study, which), ", ".join(map(str, depths))]
    return [*rows, [*row, *ends, len(study.members(which, *cell))]]


def table_two(study) -> Table:
    """Table 2: translation along its own path and along ASR's."""
    rows = []
    for which in study.systems():
        if study.metric(which) != "WER":
            for name in study.sets(which):
                rows += _translation_rows(study, which, name)
    rows += [
        [
            PAPERS,
            row["task"],
            "Qwen2.5-7B",
            *layers_cells(row["removed"], row["layers"]),
            f"{row['own']:.2f}",
            f"{row['asr']:.2f}",
            GAP,
        ]
        for row in paper.table_2()
    ]
    header = ["Source", "Task", "Model", "Dropped", "Layers"]
    return Table([*header, "AST's path", "ASR's path", "Runs"], rows)


def _translation_rows(study, which, name):
    layers = study.layers(which)
    whole = said(study.baseline_score(which, name))
    start = ["here", which[3], system_name(which)]
    many = len(study.baselines(which))
    rows = [[*start, *layers_cells(0, layers), whole, whole, many]]
    paths = ("speech", "ASR speech")
    depths = {d for path in paths for d in study.depths(which, "both", path)}
    for depth in sorted(depths):
        scores = [
            said(study.score(which, depth, "both", path, name))
            for path in paths
        ]
        runs = [study.members(which, depth, "both", path) for path in paths]
        many = ", ".join(str(len(one)) for one in runs)
        rows.append([*start, *layers_cells(depth, layers), *scores, many])
    return rows


# ----------------------------------------------------------------------------
# Where the threshold comes from: the gaps between sizes of a family.


def adjacent_sizes(study) -> list[tuple]:
    """Neighbours in size within each family, the larger one first."""

    def size(which):
        return size_of(which, study.layers(which))

    return [
        (large, small)
        for members in study.families().values()
        for large, small in itertools.pairwise(
            sorted(members, key=size, reverse=True)
        )
        if size(large) > size(small)
    ]


def relative_gaps(study) -> list[tuple]:
    """Family, larger, smaller, set: how much worse the smaller one is."""
    found = []
    for large, small in adjacent_sizes(study):
        for name in study.sets(large):
            scores = [study.baseline_score(w, name) for w in (small, large)]
            if all(one is not None for one in scores):
                gap = relative_degradation(*scores).on(WORSE)
                sizes = large[0], small[0]
                found.append((study.family(large), *sizes, name, gap))
    return found


def papers_gaps() -> list[tuple]:
    """The same from the paper's Table 1."""
    return [
        (family, large, small, n, relative_degradation(scores[n], whole[n]))
        for family, members in paper.baselines().items()
        for (large, whole), (small, scores) in itertools.pairwise(members)
        for n in whole
    ]


def threshold_table(study) -> Table:
    """The gaps of each pair of sizes, and their mean: the threshold."""
    rows = []
    for source, gaps, form, average in (
        ("here", relative_gaps(study), lambda g: said(g, "{:+.2f}"), mean),
        (PAPERS, papers_gaps(), "{:+.2f}".format, fmean),
    ):
        rows += [
            [source, f"{large} to {small}", name, form(gap)]
            for _, large, small, name, gap in gaps
        ]
        steps = grouped(((family, n), gap) for family, *_, n, gap in gaps)
        # From the largest to the smallest size of each family.
        whole = average(sum(one) for one in steps.values())
        each = average(gap for *_, gap in gaps)
        rows.append([source, "mean", "all", form(each)])
        rows.append([source, CUMULATIVE, "all", form(whole)])
    return Table(["Source", "Sizes", "Set", "Relative WER gap"], rows)


def next_smaller_table(study) -> Table:
    """Whether a pruned model still beats the next smaller whole one."""
    rows, gaps = [], []
    for large, small in adjacent_sizes(study):
        depth = study.largest(large)
        what = f"{large[0]} without {depth} of {study.layers(large)}"
        if not depth:
            what = f"{large[0]}: no depth within the threshold"
        for name in study.sets(large):
            pruned = study.score(large, depth, "both", "speech", name)
            whole = study.baseline_score(small, name)
            cells, gap = [GAP] * 3, None
            if depth and pruned is not None and whole is not None:
                gap = estimate(pruned - whole)
                cells = [said(pruned), said(whole)]
                cells.append(said(pruned - whole, "{:+.2f}"))
            rows.append([what, small[0], name, *cells])
            gaps.append(gap)
    compared = [gap for gap in gaps if gap]
    header = ["Pruned model", "Next smaller", "Set", "WER pruned"]
    header += ["WER of the smaller", "Difference"]
    header.append(f"Still better (Holm over {len(compared)})")
    answers = iter(_still_better(compared))
    rows = [
        [*row, next(answers) if gap else GAP] for row, gap in zip(rows, gaps)
    ]
    return Table(header, rows)


def _still_better(gaps):
    """Whether each gap is surely below zero, of all of them."""
    least = [_two_sided(gap) for gap in gaps]
    return [
        ("yes" if gap.value < 0 else "no") if p <= 0.05 else "undecided"
        for gap, p in zip(gaps, holm(least))
    ]


def _two_sided(gap):
    """P of no difference; 1 where seeds or speakers are not known."""
    if gap.lacking or gap.error is None:
        return 1.0
    if not gap.error:
        return float(gap.value == 0)
    p_above = gap.p_above(0)
    return min(1.0, 2 * min(p_above, 1 - p_above))
