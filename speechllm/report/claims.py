"""The paper's six claims, each with what a study says to it."""

from __future__ import annotations

import numpy as np

from speechllm.report import paper
from speechllm.report.estimates import Estimate, ratio_estimate
from speechllm.report.model_claims import adaptation, bigger_lose_more
from speechllm.report.path_claims import across_tasks, text_and_speech
from speechllm.report.study import over_systems, size_of
from speechllm.report.tables import Table
from speechllm.report.timings import LACKING
from speechllm.report.verdicts import (
    CONFIRMED,
    REFUTED,
    UNDECIDED,
    Claim,
    Part,
    above,
    below,
    lacking,
    places_said,
    significant,
    unless,
)

# The paper gives no figure for "as bad as none": ours is a quarter.
HARDLY = 0.25


def all_claims(study, tables) -> list[Claim]:
    """The six claims in order."""
    return [
        text_and_speech(study, tables),
        bigger_lose_more(study),
        healing_order(study),
        adaptation(study, tables),
        across_tasks(study),
        savings(study),
    ]


def claims_table(claims) -> Table:
    """The claims as a table: a row for each statistic."""
    rows = []
    for claim in claims:
        rows.append([claim.number, claim.says, *[""] * 4, claim.decided()])
        for part in claim.parts:
            wanted = part.wanted or "told, not tested"
            row = ["", part.says, wanted, part.value(), part.over()]
            rows.append([*row, part.paper, part.decided()])
    header = "Claim,Statistic,Claimed,Here (95 % interval),Over,Paper,Verdict"
    return Table(header.split(","), rows)


# ----------------------------------------------------------------------------


def healing_order(study) -> Claim:
    """Claim 3: joint over decoder-only over projector-only, that like none."""
    systems = study.systems("ASR")
    steps = {
        ("decoder", "both"): "WER, decoder-only over joint healing",
        ("projector", "decoder"): "WER, projector-only over decoder-only",
    }
    ratios = {
        step: study.log_ratios(systems, *((one, "speech") for one in step))
        for step in steps
    }
    # One family of tests: every place of both steps.
    places = [(step, one) for step in steps for one in ratios[step].values()]
    better = significant((one, 0) for _, one in places)
    worse = significant((-one, 0) for _, one in places)
    parts = []
    for step, says in steps.items():
        pooled = over_systems(ratios[step])
        own = [place == step for place, _ in places]
        up, down = (
            sum(here and found for here, found in zip(own, tests))
            for tests in (better, worse)
        )
        part = above(
            pooled and np.exp(pooled),
            1,
            f"{says}; above 1: {places_said(up, sum(own))} over {len(places)}",
            "above 1",
        )
        parts.append(unless(part, down, "places below 1"))
    # Qwen2.5-7B, test-clean, 8 of 28 layers.
    parts[0].paper = f"{5.93 / 2.36:.2f}"
    parts.append(_projector_alone(study, systems))
    missing = lacking(
        ("decoder and joint", parts[0].found),
        ("projector and decoder", parts[1].found),
        ("none, projector and joint", parts[2].found or parts[2].why or None),
    )
    return Claim(
        3,
        "Joint healing is better than decoder-only, that better than "
        "projector-only, and that about as bad as none",
        parts,
        f"runs with {missing}" if missing else "",
    )


def _projector_alone(study, systems) -> Part:
    """How much of what joint healing mends the projector mends alone."""
    none, alone, both = (
        (one, "speech") for one in ("none", "projector", "both")
    )
    mended = study.compared(systems, none, alone)
    whole = study.compared(systems, none, both)
    shared = [place for place in mended if place in whole]
    closed, gap = (
        over_systems({p: pairs[p][0] - pairs[p][1] for p in shared})
        for pairs in (mended, whole)
    )
    part = below(
        ratio_estimate(closed, gap),
        HARDLY,
        "share of the WER gap from no to joint healing that the projector "
        "alone closes (Fieller)",
        f"below {HARDLY} (our limit)",
    )
    if gap is not None and part.found is None:
        part.why = "joint healing is not better than none here: no gap"
    elif part.found and part.found.low == -np.inf:
        part.why = part.why or "that gap may be none"
    return part


def savings(study) -> Claim:
    """Claim 6: 40 % fewer layers, 35 % faster, a third less memory."""
    says = (
        "Without 40 % of its layers a model is 35 % faster and takes a third "
        "less memory"
    )
    one = _about_forty(study)
    if one is None:
        lacks = "a timing without 35 to 45 % of the layers"
        return Claim(6, says, [], lacks if study.timings else LACKING)
    return Claim(6, says, _saved(study, one), _undecided(one))


def _saved(study, one):
    """What a pruned model saves in time and in memory."""
    pairs = f"{one}; median of {one.content['pairs']} pairs"
    limit, form = 100 * paper.SPEED["speedup"], "{:.0f}"
    theirs = {"form": form, "paper": form.format(limit)}
    speed, time = one.speed_up(), one.time_saved()
    left = one.memory_left()
    before, after = paper.SPEED["memory_gib"]
    return [
        Part(
            f"speed of decoding up by, per cent ({pairs})",
            speed,
            "35 or more",
            UNDECIDED if one.busy else _at_least(speed, limit),
            **theirs,
        ),
        Part("the other reading: time down by, per cent", time, **theirs),
        *(
            Part(f"the LLM alone: {what} by, per cent", found, form=form)
            for what, found in (
                ("speed up", one.speed_up("llm")),
                ("time down", one.time_saved("llm")),
            )
        ),
        Part(
            "memory held at decoding (counted) down by, per cent",
            saved := Estimate(100 * (1 - left.value)),
            "a third or more",
            _at_least(saved, 100 / 3),
            form=form,
            paper=form.format(100 * (1 - after / before)),
        ),
        Part(
            "weights saved, per cent of the removed layers' bytes",
            one.of_removed(),
            form=form,
        ),
        *(
            Part(f"speed up by, per cent ({other})", other.speed_up())
            for other in study.timings
            if other is not one and not other.busy
        ),
    ]


def _at_least(found, limit):
    """The verdict on a statistic; what was counted has no interval."""
    low = found.value if found.low is None else found.low
    high = found.value if found.high is None else found.high
    if low >= limit:
        return CONFIRMED
    return REFUTED if high < limit else UNDECIDED


def _undecided(one):
    """Why a timing does not decide the claim, or nothing."""
    limit = 100 * paper.SPEED["speedup"]
    if one.busy:
        return one.busy
    found = [_at_least(f, limit) for f in (one.speed_up(), one.time_saved())]
    if found[0] == CONFIRMED != found[1]:
        return "which 35 % is meant: it holds of the speed, not of the time"
    return ""


def _about_forty(study):
    """The timing of the largest system without about 40 % of its layers."""
    found = []
    for place, one in enumerate(study.timings):
        off = abs(one.depth / one.layers - paper.SPEED["share"])
        if off <= 0.05 and one.which[3] == "ASR":
            size = size_of(one.which, one.layers)
            found.append((bool(one.busy), -size, off, place, one))
    return min(found)[-1] if found else None
