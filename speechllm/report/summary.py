"""Runs as plain records, each beside the baseline that it is judged by."""

from __future__ import annotations

import dataclasses

from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.scores.intervals import relative_degradation
from speechllm.report.study import baseline_of, order, scored_alike

FIELDS = (
    "name backbone family encoder adapter task layers removed start "
    "kept_layers healing seed steps trainable peak_memory_bytes "
    "train_peak_memory_bytes speed status error"
).split()


def summarise(runs: list[RunResult]) -> list[dict]:
    """One plain record for each run: what ``summary.json`` holds."""
    return [_record(run, runs) for run in sorted(runs, key=order)]


def _record(run, runs):
    baseline = baseline_of(run, runs) if run.removed else None
    record = {name: getattr(run, name) for name in FIELDS}
    record["path"] = run.path_from
    record["removed_layers"] = run.removed_layers
    record["rule"] = (run.path or {}).get("rule")
    scores = run.scores if run.status == "done" else {}
    record["scores"] = {k: dataclasses.asdict(v) for k, v in scores.items()}
    record["baseline"] = baseline.name if baseline else None
    record["degradation"] = degradations(run, baseline)
    record["seconds"] = seconds(run)
    return record


def degradations(run: RunResult, baseline: RunResult | None) -> dict:
    """Relative degradation by set, with the interval of the run's score."""
    found = {}
    scores = run.scores if baseline and run.status == "done" else {}
    for name, one in scores.items():
        base = baseline.scores.get(name)
        if not scored_alike(one, base) or one.value is None or not base.value:
            continue
        value, *ends = [
            None
            if value is None
            else relative_degradation(value, base.value, one.higher_is_better)
            for value in [one.value, *(one.interval or [])]
        ]
        # The upper end of a BLEU is the lower end of its degradation.
        ends = ends[::-1] if one.higher_is_better else ends
        found[name] = {"value": value, "interval": ends or None}
    return found


def seconds(run: RunResult) -> float | None:
    """Seconds that a run trained and decoded; None where nothing is known."""
    parts = [run.speed.get(f"{what}_seconds") for what in ("train", "decode")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None
