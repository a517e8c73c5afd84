"""Runs as plain records, each beside the baseline that it is judged by."""

from __future__ import annotations

import dataclasses

from speechbrain_ext.runs.files import plain
from speechbrain_ext.runs.result import RunResult
from speechllm.report.estimates import Estimate, estimate
from speechllm.report.study import Study, baseline_of

FIELDS = (
    "name backbone family encoder adapter task layers removed start "
    "kept_layers healing seed steps trainable peak_memory_bytes "
    "train_peak_memory_bytes speed status error"
).split()


def summarise(study: Study) -> list[dict]:
    """One plain record for each run: what ``summary.json`` holds."""
    return [_record(study, run) for run in study.runs]


def _record(study, run):
    baseline = baseline_of(run, study.done) if run.removed else None
    record = {name: getattr(run, name) for name in FIELDS}
    record["path"] = run.path_from
    record["removed_layers"] = run.removed_layers
    record["rule"] = (run.path or {}).get("rule")
    scores = run.scores if run.status == "done" else {}
    record["scores"] = {k: dataclasses.asdict(v) for k, v in scores.items()}
    record["baseline"] = baseline.name if baseline else None
    record["degradation"] = degradations(study, run)
    record["seconds"] = seconds(run)
    return record


def degradations(study: Study, run: RunResult) -> dict:
    """A pruned run's relative degradation by set.

    Its interval is over speakers, paired with the baseline. One run knows
    nothing of other seeds.
    """
    if not run.removed or run.status != "done":
        return {}
    changes = {
        name: told(estimate(study.degradation_of([run], name)))
        for name in run.scores
    }
    return {name: one for name, one in changes.items() if one}


def told(one: Estimate | None) -> dict | None:
    """An estimate as JSON has it; ``over``: how many of what were left out."""
    if one is None:
        return None
    ends = None if one.low is None else plain([one.low, one.high])
    return {"value": one.value, "interval": ends, "over": one.units}


def seconds(run: RunResult) -> float | None:
    """Seconds that a run trained and decoded; None where nothing is known."""
    parts = [run.speed.get(f"{what}_seconds") for what in ("train", "decode")]
    known = [part for part in parts if part is not None]
    return sum(known) if known else None
