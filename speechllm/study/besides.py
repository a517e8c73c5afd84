"""What a study runs besides its grid: scores of further sets, checks, timings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from speechllm.study.config import recipe_folder
from speechllm.study.fingerprints import made_of
from speechllm.study.state import Run

if TYPE_CHECKING:
    from speechllm.study.plan import Plan


def score_run(plan: Plan, base: str, system: dict) -> Run | None:
    """A further set that a recipe's ``evaluate.py`` scores."""
    score = system.get("score")
    if not score or base not in score.get("runs", [base]):
        return None
    data = score["data"]
    options = {
        "data_folder": plan.data_folder(data),
        "manifest_folder": plan.manifests(data),
        **score.get("set", {}),
    }
    command = ["evaluate.py", str(plan.run_folder(base))]
    command += as_words(options)
    folder = recipe_folder(score["recipe"])
    needs = [*plan.data_runs(data), base]
    before = [plan.runs[one].made for one in needs[:-1]]
    told = [score["set"]] if score.get("set") else []
    made = made_of([plan.runs[base].made, "evaluate.py", *before, *told])
    run = Run(f"{base}-score", "score", command, folder, needs, made, made)
    run.sets = score.get("sets", [])
    return run


def check_run(plan: Plan, name: str, one: dict) -> Run:
    """A recipe's command on runs that are there."""
    needs = list(one.get("needs", []))
    unknown = ", ".join(need for need in needs if need not in plan.runs)
    if unknown:
        raise plan.error(f"checks.{name}.needs: {unknown}: no such run")
    # It may be run on the twin of what it needs.
    twins = {plan.runs[need].differs.get("twin") for need in needs}
    needs += sorted(twins - {None, *needs})
    folder = recipe_folder(one["recipe"])
    places = {"results": plan.results, "runs": plan.runs_folder}
    command = [str(word).format(**places) for word in one["command"]]
    before = [plan.runs[need].made for need in needs]
    made = made_of([one["command"], before])
    return Run(name, "check", command, folder, needs, made, made)


def timing_run(plan: Plan, told: dict) -> Run:
    """A pruned run and its baseline, decoded by turns."""
    usual = {"healing": "both", "path": "speech", "seed": plan.seeds[0]}
    one = {**usual, "steps": None, **told}
    keys = "system seed depth healing steps path".split()
    run = plan.pruned.get(tuple(one[key] for key in keys))
    if run is None:
        which = ", ".join(f"{k} {one[k]}" for k in keys if one[k])
        raise plan.error(f"timings: {which}: the study has no such run")
    needs = [plan.baseline(one["system"], one["seed"]), run.name]
    folders = [str(plan.run_folder(need)) for need in needs]
    how = ("set", "pairs", "utterances", "batch")
    options = {key: one[key] for key in how if key in one}
    name = f"timing-{run.name}"
    file = {"output": plan.timing_file(name)}
    command = ["-m", "speechllm.study.timing", *folders]
    command += as_words({**options, **file})
    before = [plan.runs[need].trained for need in needs]
    made = made_of(["timing", options, before])
    return Run(name, "timing", command, run.folder, needs, made, made)


def as_words(options: dict) -> list[str]:
    """Options as the words of a command line."""
    return [
        word
        for key, value in options.items()
        for word in (f"--{key}", _as_option(value))
    ]


def _as_option(value):
    """A value as one word of a command line."""
    if isinstance(value, (list, dict)):
        return yaml.safe_dump(value, default_flow_style=True).strip()
    return str(value)
