"""The paper's six claims, each with what a study says to it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np

from speechllm.report import paper
from speechllm.report.maps import adapted_against_frozen, paired_maps
from speechllm.report.paper_tables import adjacent_sizes
from speechllm.report.samples import Estimate, estimate, mean
from speechllm.report.study import size_of
from speechllm.report.tables import GAP, Table
from speechllm.report.timings import LACKING

CONFIRMED, REFUTED, UNDECIDED = "confirmed", "refuted", "undecided"
POINTS = "{:+.1f}"
SPEECH = ("both", "speech")


@dataclass
class Part:
    """One statistic of a claim."""

    says: str
    found: Estimate | None
    wanted: str = ""
    verdict: str | None = None
    form: str = "{:.2f}"
    paper: str = GAP

    def value(self) -> str:
        """The value as a cell of a table."""
        return self.found.said(self.form) if self.found else GAP


@dataclass
class Claim:
    """One of the paper's claims, and what this study says to it."""

    number: int
    says: str
    parts: list = field(default_factory=list)
    missing: str = ""

    @property
    def verdict(self) -> str:
        """Refuted by any part, confirmed by all of them, or undecided."""
        tested = [part.verdict for part in self.parts if part.wanted]
        if REFUTED in tested:
            return REFUTED
        if tested and set(tested) == {CONFIRMED} and not self.missing:
            return CONFIRMED
        return UNDECIDED


def above(drawn_R, limit, says, wanted, **more) -> Part:
    """A part that holds where a statistic is above a limit."""
    found = estimate(drawn_R)
    verdict = UNDECIDED
    if found and found.low is not None:
        if found.low > limit:
            verdict = CONFIRMED
        elif found.high < limit:
            verdict = REFUTED
    return Part(says, found, wanted, verdict, **more)


def below_zero(drawn_R, says, **more) -> Part:
    """A part that holds where a statistic is below zero."""
    turned_R = None if drawn_R is None else -drawn_R
    part = above(turned_R, 0, says, "below 0", **more)
    part.found = estimate(drawn_R)
    return part


def between(drawn_R, low, high, says, wanted, **more) -> Part:
    """A part that holds where a statistic lies between two limits."""
    found = estimate(drawn_R)
    verdict = UNDECIDED
    moved = found and found.low is not None
    exactly = found and drawn_R.size > 1 and not moved
    if moved or exactly:
        ends = (found.low, found.high) if moved else (found.value,) * 2
        if low <= ends[0] and ends[1] <= high:
            verdict = CONFIRMED
        elif ends[1] < low or ends[0] > high:
            verdict = REFUTED
    return Part(says, found, wanted, verdict, **more)


def within_threshold(drawn_R, says) -> Part:
    """A part that holds where a ratio is within the paper's threshold of 1."""
    limit = 1 + paper.THRESHOLD
    return between(drawn_R, 1 / limit, limit, says, "between 0.80 and 1.25")


def told(drawn_R, says, **more) -> Part:
    """A part that is told and not tested."""
    return Part(says, estimate(drawn_R), **more)


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
        verdict = claim.verdict
        if claim.missing:
            verdict += f" (missing: {claim.missing})"
        rows.append([claim.number, claim.says, "", "", "", verdict])
        for part in claim.parts:
            wanted = part.wanted or "told, not tested"
            row = ["", part.says, wanted, part.value(), part.paper]
            rows.append([*row, part.verdict or ""])
    header = "Claim,Statistic,Claimed,Here (95 % interval),Paper,Verdict"
    return Table(header.split(","), rows)


def _lacking(*named) -> str:
    """Names of the statistics that could not be had."""
    return ", ".join(name for name, drawn_R in named if drawn_R is None)


# ----------------------------------------------------------------------------


def text_and_speech(study, tables) -> Claim:
    """Claim 1: text and speech find the same layers redundant."""
    systems = [w for w in study.systems() if study.metric(w) == "WER"]
    ratio_R = study.score_ratio(systems, ("both", "text"), SPEECH)
    far_R, same_R = paired_maps(study, tables, "text", "speech")
    parts = [
        within_threshold(
            ratio_R,
            "WER along the text's path over WER along speech's (joint healing)",
        ),
        told(far_R, "mean difference of the two maps", form="{:.4f}"),
        told(same_R, "share of sizes with the same block", form="{:.0%}"),
    ]
    says = "Text and speech give the same redundant blocks"
    return Claim(1, says, parts, _lacking(("runs along both paths", ratio_R)))


def bigger_lose_more(study) -> Claim:
    """Claim 2: bigger models lose a larger share of their layers."""
    gaps = []
    for large, small in adjacent_sizes(study):
        shares = [study.tolerated(which) for which in (large, small)]
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
        paper=POINTS.format(np.mean(theirs)),
    )
    pairs = [
        told(gap, f"the same, {large[0]} against {small[0]}", form=POINTS)
        for large, small, gap in gaps
    ]
    missing = "" if gaps else "two sizes of a family, both pruned"
    return Claim(2, "Bigger models lose more layers", [whole, *pairs], missing)


def healing_order(study) -> Claim:
    """Claim 3: joint over decoder-only over projector-only, that like none."""
    systems = study.systems("ASR")
    joint_R, decoder_R, none_R = (
        study.score_ratio(systems, (worse, "speech"), (better, "speech"))
        for worse, better in (
            ("decoder", "both"),
            ("projector", "decoder"),
            ("none", "projector"),
        )
    )
    parts = [
        above(
            joint_R,
            1,
            "WER, decoder-only over joint healing",
            "above 1",
            # Qwen2.5-7B, test-clean, 8 of 28 layers.
            paper=f"{5.93 / 2.36:.2f}",
        ),
        above(decoder_R, 1, "WER, projector-only over decoder-only", "above 1"),
        within_threshold(none_R, "WER, no healing over projector-only"),
    ]
    lacking = _lacking(
        ("decoder and joint", joint_R),
        ("projector and decoder", decoder_R),
        ("none and projector", none_R),
    )
    return Claim(
        3,
        "Joint healing is better than decoder-only, that better than "
        "projector-only, and that about as bad as none",
        parts,
        f"runs with {lacking}" if lacking else "",
    )


def adaptation(study, tables) -> Claim:
    """Claim 4: LoRA lowers the distances and yet the tolerance."""
    gaps = []
    systems = study.systems("ASR")
    for which in systems:
        frozen = (which[0], "", *which[2:])
        if which[1] and frozen in systems:
            shares = [study.tolerated(one) for one in (which, frozen)]
            if all(one is not None for one in shares):
                gaps.append(shares[0] - shares[1])
    moved_R, lost_R = adapted_against_frozen(study, tables), mean(gaps)
    parts = [
        below_zero(
            moved_R,
            "mean angular distance, adapted minus frozen",
            form="{:+.4f}",
        ),
        below_zero(
            lost_R,
            "share of layers at the threshold, adapted minus frozen (points "
            "of per cent)",
            form=POINTS,
            paper=POINTS.format(100 * (5 / 28 - 8 / 28)),
        ),
    ]
    return Claim(
        4,
        "Adapting the decoder (LoRA) lowers distances and yet lowers the "
        "tolerance for pruning",
        parts,
        _lacking(
            ("tables of an adapted and a frozen decoder", moved_R),
            ("both of them pruned", lost_R),
        ),
    )


def across_tasks(study) -> Claim:
    """Claim 5: ASR's path serves translation as well as its own."""
    systems = [w for w in study.systems() if study.metric(w) == "BLEU"]
    curves = ("both", "ASR speech"), SPEECH
    ratio_R = study.score_ratio(systems, *curves)
    theirs = [row for row in paper.table_2() if row["removed"]]
    ratio = np.exp(np.mean([np.log(r["asr"] / r["own"]) for r in theirs]))
    form = "{:.3f}"
    part = between(
        ratio_R,
        0.9,
        1 / 0.9,
        "BLEU along ASR's path over BLEU along translation's own",
        "between 0.90 and 1.11",
        form=form,
        paper=form.format(ratio),
    )
    pairs = [
        told(
            study.score_ratio([which], *curves),
            f"the same, {which[3]}",
            form=form,
        )
        for which in systems
    ]
    return Claim(
        5,
        "ASR's path serves translation as well as translation's own",
        [part, *pairs],
        _lacking(("translation along both paths", ratio_R)),
    )


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
