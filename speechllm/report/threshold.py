"""Where the threshold comes from: the gaps between sizes of a family."""

import itertools

import numpy as np

from speechllm.report import paper
from speechllm.report.claims.sizes import adjacent_sizes
from speechllm.report.estimates import estimate, mean
from speechllm.report.tables import GAP, Table, said
from speechllm.report.tolerance import largest


def relative_gaps(cells):
    """How much worse the next smaller size of a family is."""
    found = []
    for large, small in adjacent_sizes(cells):
        for name in cells.sets(large):
            scores = [cells.baseline_score(w, name) for w in (large, small)]
            if all(one is not None for one in scores):
                with np.errstate(divide="ignore", invalid="ignore"):
                    gap_R = (scores[1] - scores[0]) / scores[0]
                found.append((large, small, name, gap_R))
    return found


def papers_gaps():
    """The same from the paper's Table 1."""
    return [
        (large, small, name, (scores[name] - whole[name]) / whole[name])
        for members in paper.baselines().values()
        for (large, whole), (small, scores) in itertools.pairwise(members)
        for name in whole
    ]


def _ours_by_family(cells, gaps):
    by_family = {}
    for large, _, name, gap_R in gaps:
        by_family.setdefault((cells.family(large), name), []).append(gap_R)
    return by_family


def _papers_by_family():
    by_family = {}
    for family, members in paper.baselines().items():
        for (_, whole), (_, smaller) in itertools.pairwise(members):
            for name in whole:
                gap = (smaller[name] - whole[name]) / whole[name]
                by_family.setdefault((family, name), []).append(gap)
    return by_family


def _cumulative(by_family):
    """Gaps summed from the largest to the smallest size of each family."""
    return mean(sum(steps) for steps in by_family.values())


def threshold_table(cells):
    """The gaps of each pair of sizes, and their mean: the threshold."""
    ours, theirs = relative_gaps(cells), papers_gaps()
    form = "{:+.2f}"
    rows = [
        ["here", f"{large[0]} to {small[0]}", name, said(gap_R, form)]
        for large, small, name, gap_R in ours
    ]
    rows.append(["here", "mean", "all", said(mean(g for *_, g in ours), form)])
    rows.append(
        [
            "here",
            "cumulative: a family's steps summed, mean",
            "all",
            said(_cumulative(_ours_by_family(cells, ours)), form),
        ]
    )
    many = len(rows)
    rows += [
        ["the paper's", f"{large} to {small}", name, form.format(gap)]
        for large, small, name, gap in theirs
    ]
    average = np.mean([gap for *_, gap in theirs])
    rows.append(["the paper's", "mean", "all", form.format(average)])
    rows.append(
        [
            "the paper's",
            "cumulative: a family's steps summed, mean",
            "all",
            form.format(_cumulative(_papers_by_family())),
        ]
    )
    header = ["Source", "Sizes", "Set", "Relative WER gap"]
    return Table(header, rows, set(range(many, len(rows))))


def next_smaller_table(cells):
    """Whether a pruned model still beats the next smaller whole one."""
    rows = []
    for large, small in adjacent_sizes(cells):
        depth = largest(cells, large)
        layers = cells.layers(large)
        for name in cells.sets(large):
            start = [f"{large[0]} without {depth} of {layers}", small[0], name]
            if not depth:
                start[0] = f"{large[0]}: no depth within the threshold"
            pruned_R = cells.score(large, depth, "both", "speech", name)
            whole_R = cells.baseline_score(small, name)
            if not depth or pruned_R is None or whole_R is None:
                rows.append([*start, GAP, GAP, GAP, GAP])
                continue
            gap = estimate(pruned_R - whole_R)
            answer = "undecided"
            if gap.low is not None and gap.high < 0:
                answer = "yes"
            elif gap.low is not None and gap.low > 0:
                answer = "no"
            scores = [said(pruned_R), said(whole_R), gap.said("{:+.2f}")]
            rows.append([*start, *scores, answer])
    header = (
        "Pruned model;Next smaller;Set;WER pruned;WER of the smaller;"
        "Difference;Still better"
    )
    return Table(header.split(";"), rows)
