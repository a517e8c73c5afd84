"""``table.md`` of a healing study: the best of each cell, then every method."""

from __future__ import annotations

from speechllm.report.frontier import best_of_many
from speechllm.report.tables import GAP, Table, chance_text

# The healing that others are measured by.
PAPER = "both"
# Measures of `comparisons`, and what the tables call them.
MEASURES = {"cross_entropy": "cross-entropy", "score": "WER or BLEU"}
MISSING = "missing"
P_HOLM = "p (Holm)"
NO_MEASURE = "the paper's loses nothing"


def _ratios(one):
    """A ratio's cells; runs that are there may still have none to tell."""
    return [
        NO_MEASURE
        if one["seeds"] and one["degradation"][m] and ratio is None
        else str(ratio or MISSING)
        for m, ratio in one["ratio"].items()
    ]


def _lost(one):
    return [str(one["degradation"][m] or MISSING) for m in MEASURES]


def _p_values(one):
    """A comparison's p-values by measure, made larger by Holm."""
    told = [one["p_holm"][m] for m in MEASURES]
    return [
        GAP if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"
        for p in told
    ]


def _named(what):
    return [f"{what}, {word}" for word in MEASURES.values()]


def ratio_table(records) -> Table:
    """Ratios of one backbone: a row for each depth, length and method."""
    rows = [
        [
            f"{one['removed']} of {one['layers']}",
            one["steps"],
            one["method"],
            len(one["seeds"]),
            *_ratios(one),
            *_p_values(one),
            *_lost(one),
        ]
        for one in records
    ]
    header = ["Layers removed", "Steps", "Method", "Seeds", *_named("Ratio")]
    header += [*_named(P_HOLM), *_named("Degradation")]
    return Table(header, rows)


def best_table(records) -> Table:
    """The best method of each cell beside the paper's."""
    places: dict[tuple, list[dict]] = {}
    for one in records:
        if one["degradation"]["cross_entropy"]:
            key = "backbone", "task", "removed", "layers", "steps"
            places.setdefault(tuple(one[k] for k in key), []).append(one)
    rows = []
    for (backbone, task, removed, layers, steps), members in places.items():
        if not any(one["trainable"] for one in members):
            continue  # no run of that length
        best = min(
            members,
            key=lambda one: one["degradation"]["cross_entropy"].value,
        )
        paper = [_lost(one) for one in members if one["method"] == PAPER]
        rows.append(
            [
                f"{backbone}, {task}",
                f"{removed} of {layers}",
                steps,
                *(paper[0] if paper else [MISSING] * len(MEASURES)),
                best["method"] + best_of_many(len(members)),
                f"{best['trainable']:,.0f}",
                *_lost(best),
                *_ratios(best),
                *_p_values(best),
            ]
        )
    header = ["Model", "Layers removed", "Steps"]
    header += _named("The paper's healing")
    header += ["Best method, by its cross-entropy", "Trained parameters"]
    header += [*_named("Its degradation"), *_named("Ratio")]
    header += _named(P_HOLM)
    return Table(header, rows)


def side_by_side(records) -> Table:
    """Methods in columns, of the length that has the most of several seeds.

    Where none has several, those of one.
    """
    trained = [one for one in records if one["trainable"]]
    several = [one for one in trained if len(one["seeds"]) > 1]
    trained = several or trained
    lengths = [one["steps"] for one in trained]
    steps = max(sorted(set(lengths)), key=lengths.count, default=0)
    places: dict[tuple, dict] = {}
    for one in trained:
        if one["steps"] == steps:
            key = "backbone", "task", "removed", "layers"
            place = places.setdefault(tuple(one[k] for k in key), {})
            place[one["method"]] = one
    names = dict.fromkeys(name for cell in places.values() for name in cell)
    methods = [name for name in names if name != PAPER]
    rows = [
        [
            f"{backbone}, {task}",
            f"{removed} of {layers}",
            " / ".join(_lost(cell[PAPER])) if PAPER in cell else MISSING,
            *(_beside(cell[m]) if m in cell else GAP for m in methods),
        ]
        for (backbone, task, removed, layers), cell in places.items()
    ]
    what = " / ".join(MEASURES.values())
    header = ["Model", "Layers removed"]
    header += [f"The paper's healing, {steps} steps: degradation, {what}"]
    header += [f"`{name}`: ratios; p (Holm)" for name in methods]
    return Table(header, rows)


def _beside(one):
    seeds = f", {len(one['seeds'])} seeds"
    ratios, tests = (" / ".join(f(one)) for f in (_ratios, _p_values))
    return f"{ratios}; {tests}{seeds}"


RATIO_NOTE = """
Ratio: relative degradation over that of the paper's joint healing (both,
angular path) at the same depth, steps and seeds; below 1 is better. WER or
BLEU: the mean of the sets' degradations, each of all seeds together.
Intervals (95 %) are paired, those of ratios Fieller's: no bound on both sides
where the paper's healing may lose nothing. They are {chances}. p: of a
method's losing as much as the paper's, two-sided, by Student's t; Holm's
allows for all methods and both measures of a system, depth and length.
Baselines are chosen on test scores, as in the paper.
"""
BEST_NOTE = """
The best is picked by the same figure that is shown, the loss of cross-entropy:
the more are compared, the more of its lead is luck, also in its interval.
"""
TUNING_NOTE = """
The cross-entropy of {odd} of {all} runs was scored on the utterances that
tuned learning rates and chose layers (no loss_splits in their configuration):
it flatters what was tuned or chosen.
"""


def _notes(study, records):
    """What is to be known of the figures, in paragraphs."""
    known = [one for r in records for one in r["ratio"].values() if one]
    chances = dict.fromkeys(chance_text(one) for one in known if one.units)
    odd = len(study.scored_on_tuning())
    losses = [run for run in study.done if "final_loss" in run.validation]
    texts = [RATIO_NOTE, TUNING_NOTE * bool(odd)]
    fields = {"odd": odd, "all": len(losses)}
    fields["chances"] = "; ".join(chances) or "not known here"
    return [" ".join(t.split()).format_map(fields) + "\n" for t in texts if t]


def page_of(study, records, missing) -> str:
    """The study in Markdown."""
    parts = [
        "# Healing study\n",
        *_notes(study, records),
        "## The best of each depth and length\n",
        " ".join(BEST_NOTE.split()) + "\n",
        str(best_table(records)),
    ]
    systems: dict[tuple, list[dict]] = {}
    for one in records:
        systems.setdefault((one["backbone"], one["task"]), []).append(one)
    for (backbone, task), own in systems.items():
        sets = f"Scored on {', '.join(own[0]['sets']) or 'no common set'}.\n"
        parts += [f"## {backbone}, {task}\n", sets, str(ratio_table(own))]
    if missing:
        lines = [f"- {name}: {why}" for name, why in missing.items()]
        parts += ["## Missing runs\n", "\n".join(lines) + "\n"]
    return "\n".join(parts)
