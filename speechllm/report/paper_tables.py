"""The paper's tables with a study's rows, and where its threshold is from."""

from __future__ import annotations

import itertools

from speechbrain_ext.scores.intervals import relative_degradation
from speechllm.report import paper
from speechllm.report.samples import estimate, mean
from speechllm.report.study import size_of
from speechllm.report.tables import GAP, Table, layers_cells, system_name

# The first cell of a row that was not measured in the study.
PAPERS = "the paper's"
CUMULATIVE = "cumulative: a family's steps summed, mean"


def said(drawn_R, form: str = "{:.2f}") -> str:
    """A statistic as a cell; a dash where there is none."""
    found = estimate(drawn_R)
    return found.said(form) if found else GAP


def table_one(study, task: str = "ASR") -> Table:
    """Table 1: each system whole, and pruned as far as the threshold lets."""
    theirs = paper.table_1() if task == "ASR" else []
    names = [n for which in study.systems(task) for n in study.sets(which)]
    names += [name for row in theirs for name in row["scores"]]
    sets = list(dict.fromkeys(names))
    rows = []
    for which in study.systems(task):
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
            ]
        )
    return Table(["Source", "Model", "Dropped", "Layers", *sets], rows)


def _system_rows(study, which, sets):
    layers = study.layers(which)
    whole = [said(study.baseline_score(which, name)) for name in sets]
    rows = [["here", system_name(which), *layers_cells(0, layers), *whole]]
    depths = study.depths(which)
    if not depths:
        gaps = [GAP] * (2 + len(sets))
        return [*rows, ["here", "+ pruning: no run", *gaps]]
    depth = study.largest(which)
    known = any(cell != GAP for cell in whole)
    why = "over the threshold" if known else "degradation unknown"
    name = "+ pruning, both" + f" ({why})" * (not depth)
    depth = depth or depths[0]
    scores = [
        said(study.score(which, depth, "both", "speech", one)) for one in sets
    ]
    return [*rows, ["here", name, *layers_cells(depth, layers), *scores]]


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
        ]
        for row in paper.table_2()
    ]
    header = ["Source", "Task", "Model", "Dropped", "Layers"]
    return Table([*header, "AST's path", "ASR's path"], rows)


def _translation_rows(study, which, name):
    layers = study.layers(which)
    whole = said(study.baseline_score(which, name))
    start = ["here", which[3], system_name(which)]
    rows = [[*start, *layers_cells(0, layers), whole, whole]]
    paths = ("speech", "ASR speech")
    depths = {d for path in paths for d in study.depths(which, "both", path)}
    for depth in sorted(depths):
        scores = [
            said(study.score(which, depth, "both", path, name))
            for path in paths
        ]
        rows.append([*start, *layers_cells(depth, layers), *scores])
    return rows


# ----------------------------------------------------------------------------
# Where the threshold comes from: the gaps between sizes of a family.


def adjacent_sizes(study, task: str = "ASR") -> list[tuple]:
    """Neighbours in size within each family, the larger one first."""
    families = {}
    for which in study.systems(task):
        if not which[1]:
            size = size_of(which, study.layers(which))
            families.setdefault(study.family(which), []).append((size, which))
    pairs = []
    for members in families.values():
        members.sort(key=lambda member: -member[0])
        pairs += [
            (large, small)
            for (size, large), (other, small) in itertools.pairwise(members)
            if size > other
        ]
    return pairs


def relative_gaps(study) -> list[tuple]:
    """Family, larger, smaller, set: how much worse the smaller one is."""
    found = []
    for large, small in adjacent_sizes(study):
        for name in study.sets(large):
            scores = [study.baseline_score(w, name) for w in (small, large)]
            if all(one is not None for one in scores):
                gap_R = relative_degradation(*scores)
                sizes = large[0], small[0]
                found.append((study.family(large), *sizes, name, gap_R))
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
    for source, gaps, form in (
        ("here", relative_gaps(study), lambda gap_R: said(gap_R, "{:+.2f}")),
        (PAPERS, papers_gaps(), "{:+.2f}".format),
    ):
        steps = {}
        for family, large, small, name, gap in gaps:
            rows.append([source, f"{large} to {small}", name, form(gap)])
            steps.setdefault((family, name), []).append(gap)
        average = mean(gap for *_, gap in gaps)
        # From the largest to the smallest size of each family.
        whole = mean(sum(one) for one in steps.values())
        rows.append([source, "mean", "all", form(average)])
        rows.append([source, CUMULATIVE, "all", form(whole)])
    return Table(["Source", "Sizes", "Set", "Relative WER gap"], rows)


def next_smaller_table(study) -> Table:
    """Whether a pruned model still beats the next smaller whole one."""
    rows = []
    for large, small in adjacent_sizes(study):
        depth = study.largest(large)
        what = f"{large[0]} without {depth} of {study.layers(large)}"
        if not depth:
            what = f"{large[0]}: no depth within the threshold"
        for name in study.sets(large):
            pruned_R = study.score(large, depth, "both", "speech", name)
            whole_R = study.baseline_score(small, name)
            cells = [GAP] * 4
            if depth and pruned_R is not None and whole_R is not None:
                gap = estimate(pruned_R - whole_R)
                cells = [said(pruned_R), said(whole_R), gap.said("{:+.2f}")]
                cells.append(_still_better(gap))
            rows.append([what, small[0], name, *cells])
    header = ["Pruned model", "Next smaller", "Set", "WER pruned"]
    header += ["WER of the smaller", "Difference", "Still better"]
    return Table(header, rows)


def _still_better(gap):
    if gap.low is None or gap.low <= 0 <= gap.high:
        return "undecided"
    return "yes" if gap.high < 0 else "no"
