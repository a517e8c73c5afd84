"""Claims 1 and 5: other paths, of text and of another task, serve as well."""

from __future__ import annotations

import numpy as np

from speechllm.report import paper
from speechllm.report.estimates import SHARE, mean
from speechllm.report.maps import paired_maps
from speechllm.report.study import over_systems
from speechllm.report.tables import system_name
from speechllm.report.verdicts import (
    CONFIRMED,
    LEVEL,
    REFUTED,
    UNDECIDED,
    Claim,
    Part,
    above,
    equivalent,
    places_said,
    significant,
    told,
    unless,
)

SPEECH = ("both", "speech")
# Equality is tested as equivalence: within this ratio of WERs, and these
# points of BLEU.
WER_RATIO, BLEU_POINTS = 1.05, 0.5
SAME_LAYERS = (
    "both paths name the same layers at every depth pruned: nothing to compare"
)


def text_and_speech(study, tables) -> Claim:
    """Claim 1: text and speech find the same layers redundant."""
    systems = [w for w in study.systems() if study.metric(w) == "WER"]
    curves = ("both", "text"), SPEECH
    ratios = study.log_ratios(systems, *curves)
    pooled = over_systems(ratios)
    equal = equivalent(
        pooled and np.exp(pooled),
        1 / WER_RATIO,
        WER_RATIO,
        "WER along the text's path over WER along speech's (joint healing, "
        "where the two remove different layers)",
        "between 1/1.05 and 1.05",
    )
    outside = _outside(ratios.values(), np.log(WER_RATIO))
    unless(equal, outside, "places outside")
    equal.says += f"; outside: {places_said(outside, len(ratios))}"
    why = "" if pooled else _not_compared(study, systems, *curves)
    equal.why = equal.why or why
    missing = "" if pooled or why else "runs along both paths"
    says = "Text and speech give the same redundant blocks"
    return Claim(1, says, [*_same_blocks(study, tables), equal], missing)


def _outside(differences, limit) -> int:
    """Places that are surely beyond a limit on either side."""
    tests = [(one * s, limit) for one in differences for s in (1, -1)]
    return sum(significant(tests))


def _same_blocks(study, tables):
    """The maps and paths of text and speech beside each other."""
    maps = paired_maps(study, tables, "text", "speech")
    if maps is None:
        says = "overlap of the layers that the two paths remove"
        why = "no tables of both on one baseline"
        return [Part(says, None, "above chance", UNDECIDED, why=why)]
    chance = maps.overlap_by_chance
    shared = above(
        maps.overlap - chance,
        0,
        f"share of the removed layers that both paths name "
        f"({maps.overlap.value:.0%}), minus that of random blocks "
        f"({chance.value:.0%}); p = {maps.p_more:.2g} of paths at random "
        "places",
        "above 0",
        baselines=True,
        form="{:+.2f}",
    )
    p_value = {CONFIRMED: maps.p_more, REFUTED: maps.p_less}
    if p_value.get(shared.verdict, 0) > LEVEL:
        shared.verdict = UNDECIDED
        shared.why = "paths at random places may agree so"
    return [
        told(
            maps.far,
            "mean absolute difference of the two maps (interval over baseline "
            "seeds)",
            form="{:.4f}",
        ),
        told(
            maps.same.on(SHARE),
            "share of sizes at which the paths start at the same layer "
            f"(random blocks: {maps.same_by_chance:.0%}; p = "
            f"{maps.p_value:.2g}, were sizes independent)",
            form="{:.0%}",
        ),
        shared,
    ]


def across_tasks(study) -> Claim:
    """Claim 5: ASR's path serves translation as well as its own."""
    systems = [w for w in study.systems() if study.metric(w) == "BLEU"]
    curves = ("both", "ASR speech"), SPEECH
    gaps = {
        place: asr - own
        for place, (asr, own) in study.compared(systems, *curves).items()
    }
    outside = _outside(gaps.values(), BLEU_POINTS)
    # Equal scores to the last digit are those of the same layers.
    theirs = [r["asr"] - r["own"] for r in paper.table_2()]
    form = "{:+.2f}"
    pooled = over_systems(gaps)
    part = equivalent(
        pooled,
        -BLEU_POINTS,
        BLEU_POINTS,
        "BLEU along ASR's path minus BLEU along translation's own, where the "
        f"two remove different layers; outside: {places_said(outside, len(gaps))}",
        "between -0.5 and +0.5",
        form=form,
        paper=form.format(np.mean([gap for gap in theirs if gap])),
    )
    unless(part, outside, "places outside")
    why = "" if pooled else _not_compared(study, systems, *curves)
    part.why = part.why or why
    pairs = [
        told(
            mean(gap for place, gap in gaps.items() if place[0] == which),
            f"the same, {system_name(which)}, {which[3]}",
            form=form,
        )
        for which in dict.fromkeys(place[0] for place in gaps)
    ]
    missing = "" if gaps or why else "translation along both paths"
    says = "ASR's path serves translation as well as translation's own"
    return Claim(5, says, [part, *pairs], missing)


def _not_compared(study, systems, above, below) -> str:
    """Why two curves that are both there are not compared, or nothing."""
    runs = [
        run
        for which in systems
        for depth in {*study.depths(which, *above)}
        & {*study.depths(which, *below)}
        for curve in (above, below)
        for run in study.members(which, depth, *curve)
    ]
    if any(run.removed_layers is None for run in runs):
        return "which layers the runs have lost is not known"
    return SAME_LAYERS if runs else ""
