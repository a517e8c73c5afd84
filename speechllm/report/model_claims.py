"""Claims 2 and 4: models against models, of other sizes or adapted."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

from speechllm.report import paper
from speechllm.report.chance import concordance, sure_pairs
from speechllm.report.maps import adapted_against_frozen
from speechllm.report.study import over_systems, size_of
from speechllm.report.tables import share_text, system_name, tolerance_text
from speechllm.report.verdicts import (
    CONFIRMED,
    LEVEL,
    REFUTED,
    UNDECIDED,
    Claim,
    Part,
    above,
    below,
    lacking,
    told,
)

SPEECH = ("both", "speech")


def bigger_lose_more(study) -> Claim:
    """Claim 2: bigger models lose a larger share of their layers.

    The model is the unit: more speakers or seeds are not more models.
    """
    families = [
        [which for which in members if study.depths(which)]
        for members in study.families().values()
    ]
    found = concordance(
        [_size_and_share(study, which) for which in members]
        for members in families
    )
    theirs = concordance(
        [(size_of((model,), 0), share) for model, share in members]
        for members in paper.prunable_shares().values()
    )
    tested = Part(
        "pairs of a family's sizes in which the larger loses the larger share "
        "of its layers, by the paper's point rule (exact one-sided p; the "
        "unit is the model)",
        None,
        "concordant",
        _of_pairs(found),
        text=str(found or ""),
        paper=str(theirs),
    )
    if found and tested.verdict == UNDECIDED:
        tested.why = f"of so many models p is {found.p_least:.2g} at best"
    sure = [
        sure_pairs([_surely(study, which) for which in members])
        for members in families
    ]
    more, less, still = (sum(one) for one in zip(*sure or [(0, 0, 0)]))
    parts = [
        tested,
        Part(
            "the same pairs by the interval rule",
            None,
            text=f"{more} surely concordant, {less} surely not, {still} open",
        ),
        *(
            _tolerance_part(study, which)
            for which in itertools.chain(*families)
        ),
    ]
    missing = "" if found else "two sizes of a family, both pruned"
    return Claim(2, "Bigger models lose more layers", parts, missing)


def _size_and_share(study, which):
    layers = study.layers(which)
    return size_of(which, layers), Fraction(study.largest(which), layers)


def _surely(study, which):
    layers, (within, over) = study.layers(which), study.tolerance(which)
    first_over = None if over is None else Fraction(over, layers)
    return size_of(which, layers), Fraction(within, layers), first_over


def _of_pairs(found) -> str:
    if found and found.p_more <= LEVEL:
        return CONFIRMED
    return REFUTED if found and found.p_less <= LEVEL else UNDECIDED


def _tolerance_part(study, which) -> Part:
    """A system's depth by the point rule and by the interval rule."""
    point = share_text(study, which, study.largest(which))
    return Part(
        f"{system_name(which)}: most layers within the threshold by the point "
        "rule; [deepest within, first over] by the interval rule",
        None,
        text=f"{point}; {tolerance_text(study, which)}",
    )


def adaptation(study, tables) -> Claim:
    """Claim 4: LoRA lowers the distances and yet the tolerance."""
    moved = adapted_against_frozen(study, tables)
    pairs = study.adapted_pairs()
    changes = dict(_degradations(study, pairs))
    ratio = over_systems(
        {p: np.log1p(a) - np.log1p(b) for p, (a, b) in changes.items()}
    )
    parts = [
        below(
            moved,
            0,
            "angular distance of the blocks that are pruned, adapted minus "
            "frozen, at equal depths",
            "below 0",
            baselines=True,
            form="{:+.4f}",
        ),
        above(
            ratio and np.exp(ratio),
            1,
            "WER pruned over WER whole at equal depths, adapted over frozen",
            "above 1",
            baselines=True,
        ),
        told(
            over_systems({p: a - b for p, (a, b) in changes.items()}),
            "degradation at equal depths, adapted minus frozen",
            form="{:+.2f}",
        ),
        *(
            _tolerance_part(study, which)
            for which in dict.fromkeys(itertools.chain(*pairs))
        ),
    ]
    return Claim(
        4,
        "Adapting the decoder (LoRA) lowers distances and yet lowers the "
        "tolerance for pruning",
        parts,
        lacking(
            ("tables of an adapted and a frozen decoder, both pruned", moved),
            ("both of them pruned to one depth", ratio),
        ),
    )


def _degradations(study, pairs):
    """Degradations of adapted and frozen decoders at the same places."""
    for pair in pairs:
        depths = {*study.depths(pair[0])} & {*study.depths(pair[1])}
        for depth, name in itertools.product(depths, study.sets(pair[0])):
            changed = [
                study.degradation(one, depth, *SPEECH, name) for one in pair
            ]
            if all(one is not None and one.value > -1 for one in changed):
                yield (pair[0], depth, name), changed
