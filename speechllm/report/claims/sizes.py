"""Claims 2 and 4: which models lose more layers at the threshold."""

import itertools

import numpy as np

from speechllm.report import paper
from speechllm.report.cells import size_of
from speechllm.report.claims.maps import adapted_against_frozen
from speechllm.report.claims.verdicts import Claim, above, told
from speechllm.report.estimates import mean
from speechllm.report.tolerance import tolerated

POINTS = "{:+.1f}"


def adjacent_sizes(cells, task="ASR"):
    """Neighbours in size within each family, the larger one first."""
    families = {}
    for which in cells.systems(task):
        if not which[1]:
            families.setdefault(cells.family(which), []).append(which)
    pairs = []
    for members in families.values():
        members.sort(key=lambda w: -size_of(w, cells.layers(w)))
        pairs += [
            (large, small)
            for large, small in itertools.pairwise(members)
            if size_of(large, cells.layers(large))
            > size_of(small, cells.layers(small))
        ]
    return pairs


def bigger_lose_more(cells):
    """Claim 2: bigger models lose a larger share of their layers."""
    gaps = []
    for large, small in adjacent_sizes(cells):
        shares = [tolerated(cells, which) for which in (large, small)]
        if all(one is not None for one in shares):
            gaps.append((large, small, shares[0] - shares[1]))
    theirs = [
        one[1] - other[1]
        for members in paper.prunable_shares().values()
        for one, other in itertools.pairwise(members)
    ]
    whole = above(
        mean(gap for *_, gap in gaps),
        0,
        "share of layers at the threshold, larger minus next smaller size of "
        "a family (points of per cent)",
        "above 0",
        form=POINTS,
        paper=f"{np.mean(theirs):+.1f}",
    )
    pairs = [
        told(gap, f"the same, {large[0]} against {small[0]}", form=POINTS)
        for large, small, gap in gaps
    ]
    missing = "" if gaps else "two sizes of a family, both pruned"
    return Claim(2, "Bigger models lose more layers", [whole, *pairs], missing)


def adaptation(cells, tables):
    """Claim 4: LoRA lowers the distances and yet the tolerance."""
    gaps = []
    for which in cells.systems("ASR"):
        frozen = (which[0], "", *which[2:])
        if which[1] and frozen in cells.systems("ASR"):
            shares = [tolerated(cells, one) for one in (which, frozen)]
            if all(one is not None for one in shares):
                gaps.append(shares[0] - shares[1])
    moved_R, lost_R = adapted_against_frozen(cells, tables), mean(gaps)
    parts = [
        _below(
            moved_R,
            "mean angular distance, adapted minus frozen",
            form="{:+.4f}",
        ),
        _below(
            lost_R,
            "share of layers at the threshold, adapted minus frozen (points "
            "of per cent)",
            form=POINTS,
            paper=f"{100 * (5 / 28 - 8 / 28):+.1f}",
        ),
    ]
    lacking = [
        what
        for what, one in (
            ("tables of an adapted and a frozen decoder", moved_R),
            ("both of them pruned", lost_R),
        )
        if one is None
    ]
    return Claim(
        4,
        "Adapting the decoder (LoRA) lowers distances and yet lowers the "
        "tolerance for pruning",
        parts,
        ", ".join(lacking),
    )


def _below(drawn_R, says, **more):
    """A part that holds where a statistic is below zero."""
    turned_R = None if drawn_R is None else -drawn_R
    part = above(turned_R, 0, says, "below 0", **more)
    part.found = told(drawn_R, says).found
    return part
