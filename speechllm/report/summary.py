"""Runs as plain records, each beside the baseline that it is judged by."""

import dataclasses

from speechbrain_ext.scores.bootstrap import largest_depth, relative_degradation
from speechbrain_ext.scores.language import form_of

# The paper's order, from least to most healing; others follow by name.
HEALINGS = ("none", "projector", "decoder", "both")
# Relative degradation that is still accepted (paper, section on metrics).
THRESHOLDS = {"WER": 0.25, "BLEU": 0.10, "chrF": 0.10}


def system(run):
    """What a run is a variant of: backbone, adapter, encoder and task."""
    return run.backbone, run.adapter or "", run.encoder, run.task


def baseline_of(run, runs):
    """The unpruned run that a run is compared with."""
    whole = [
        one
        for one in runs
        if one.removed == 0
        and one.status == "done"
        and system(one) == system(run)
    ]
    same_seed = [one for one in whole if one.seed == run.seed]
    return min(same_seed or whole, key=_badness, default=None)


def _badness(run):
    """Mean over the sets of a score made so that less is better."""
    values = [
        -one.value if one.higher_is_better else one.value
        for one in run.scores.values()
        if one.value is not None
    ]
    return sum(values) / len(values) if values else float("inf")


def degradations(run, baseline):
    """Relative degradation on each set, with the interval of the run's score."""
    if baseline is None or run.status != "done":
        return {}
    found = {}
    for name, one in run.scores.items():
        base = baseline.scores.get(name)
        if base is None or base.metric != one.metric:
            continue
        if _form(base) != _form(one):
            continue
        if one.value is None or not base.value:
            continue
        ends = [
            None
            if end is None
            else relative_degradation(end, base.value, one.higher_is_better)
            for end in one.interval or []
        ]
        value = relative_degradation(
            one.value, base.value, one.higher_is_better
        )
        # The upper end of a BLEU is the lower end of its degradation.
        ends = ends[::-1] if one.higher_is_better else ends
        found[name] = {"value": value, "interval": ends or None}
    return found


def _form(score):
    return form_of(score.metric, score.language)


def summarise(runs):
    """One plain record for each run: what ``summary.json`` holds."""
    return [_record(run, runs) for run in sorted(runs, key=order)]


def _record(run, runs):
    done = run.status == "done"
    baseline = baseline_of(run, runs) if run.removed else None
    fields = (
        "name backbone family encoder adapter task layers removed start "
        "kept_layers healing seed steps trainable peak_memory_bytes "
        "train_peak_memory_bytes speed status error"
    )
    record = {name: getattr(run, name) for name in fields.split()}
    record["path"] = run.path_from
    record["removed_layers"] = run.removed_layers
    record["rule"] = (run.path or {}).get("rule")
    record["scores"] = (
        {name: dataclasses.asdict(one) for name, one in run.scores.items()}
        if done
        else {}
    )
    record["baseline"] = baseline.name if baseline else None
    record["degradation"] = degradations(run, baseline)
    record["seconds"] = seconds(run)
    return record


def at_limit(run):
    """Answers that ran into their token limit, such as "3 of 80"."""
    told = [one for one in run.scores.values() if one.hit_limit is not None]
    if run.status != "done" or not told:
        return ""
    hit = sum(one.hit_limit for one in told)
    return f"{hit} of {sum(one.utterances for one in told)}"


def seconds(run):
    """Seconds that a run trained and decoded; None where nothing is known."""
    parts = [run.speed.get(f"{what}_seconds") for what in ("train", "decode")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None


def healing_rank(healing):
    """Sorting key of a healing strategy: the paper's four, then others."""
    known = healing in HEALINGS
    return (HEALINGS.index(healing) if known else len(HEALINGS), healing)


def order(run):
    """Sorting key: by system, then depth, path, healing and seed."""
    path = run.path_from or ""
    # Speech, the usual path, before others.
    place = (path != "speech", path)
    seed = -1 if run.seed is None else run.seed
    return (
        (run.task, run.family, run.backbone, run.adapter or "", run.encoder),
        (run.removed, place, healing_rank(run.healing), seed, run.name),
    )


def sets_of(runs):
    """Names of the evaluation sets, in the order of their appearance."""
    return list(dict.fromkeys(name for run in runs for name in run.scores))


def tolerated_depths(runs):
    """The most layers that can go, for each system, path and healing."""
    curves = {}
    for run in sorted(runs, key=order):
        if run.removed and run.status == "done":
            key = (system(run), run.path_from, run.healing)
            curves.setdefault(key, []).append(run)
    found = []
    for (which, path, healing), members in curves.items():
        by_depth = {}
        for run in members:
            values = degradations(run, baseline_of(run, runs))
            by_depth.setdefault(run.removed, []).append(values)
        if not any(by_set for many in by_depth.values() for by_set in many):
            continue
        metric = next(iter(members[0].scores.values())).metric
        threshold = THRESHOLDS.get(metric, 0.25)
        means = {depth: _mean(many) for depth, many in by_depth.items()}
        found.append(
            {
                "system": which,
                "path": path,
                "healing": healing,
                "layers": members[0].layers,
                "depth": largest_depth(means, threshold),
                "depths": sorted(means),
                "threshold": threshold,
            }
        )
    return found


def _mean(many):
    """Mean by set over seeds; a set that one seed lacks has none."""
    names = {name for by_set in many for name in by_set}
    return {
        name: sum(by_set[name]["value"] for by_set in many) / len(many)
        for name in names
        if all(name in by_set for by_set in many)
    }
