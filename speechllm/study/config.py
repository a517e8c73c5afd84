"""What a study's configuration may say, and what is told where it says else."""

from __future__ import annotations

import os

from speechllm.packaged import folder_of
from speechllm.study.state import REPORTS

# Top-level keys and what each holds.
KEYS = {
    "results": str,
    "seeds": list,
    "baseline_seeds": list,
    "cards": int,
    "features": bool,
    "flat": bool,
    "run_name": str,
    "set": dict,
    "data": dict,
    "systems": dict,
    "checks": dict,
    "report": str,
    "healings": dict,
    "utterances": int,
    "warm": bool,
    "timings": list,
}
SYSTEM_KEYS = (
    "recipe data baseline healed set set_baseline set_healed tables control "
    "study score needs plans tuning start"
).split()
ENTRY_KEYS = (
    "depths healing path steps seeds run_name differs at_least"
).split()
SCORE_KEYS = ("recipe", "data", "sets", "set", "runs")
CHECK_KEYS = ("recipe", "command", "needs")
DATA_KEYS = ("folder", "make")
TUNING_KEYS = ("depth", "steps", "trials", "healing", "test_splits")
TIMING_KEYS = (
    "system depth healing path seed steps set pairs utterances batch"
).split()


# Values of a configuration, aliases followed; the largest of ours has 400.
MOST = 100_000


class PlanError(ValueError):
    """What is wrong with a study's configuration, and how to mend it."""


def _refuse_many(config, file):
    """Refuse a few lines whose aliases stand for any number of values."""
    left, count = [config], 0
    while left:
        one = left.pop()
        inside = one.values() if isinstance(one, dict) else one
        left.extend(inside if isinstance(one, (dict, list)) else ())
        count += 1
        if count + len(left) > MOST:
            raise PlanError(
                f"{file}: stands for over {MOST} values: its aliases multiply"
            )


def checked(config: dict, file: str) -> dict:
    """A configuration, refused where it has what is not known."""
    _refuse_many(config, file)
    needed = ("results", "seeds", "systems")
    _check(config, KEYS, f"{file}: ", needed)
    for key, kind in KEYS.items():
        if not isinstance(config.get(key, kind()), kind):
            raise PlanError(
                f"{file}: {key}: {config[key]!r} is no {kind.__name__}"
            )
    report = config.get("report", "paper")
    if report not in REPORTS:
        raise PlanError(
            f"{file}: report: {report}, choose from {', '.join(REPORTS)}"
        )
    for name, one in config.get("data", {}).items():
        _check(one, DATA_KEYS, f"{file}: data.{name}.")
    for name, one in config.get("checks", {}).items():
        where = f"{file}: checks.{name}."
        _check(one, CHECK_KEYS, where, ["command"])
        _check_recipe(one, where)
    for one in config.get("timings", []):
        _check(one, TIMING_KEYS, f"{file}: timings.", ["system", "depth"])
    systems = {
        name: _checked_system(system, f"{file}: systems.{name}.")
        for name, system in config["systems"].items()
    }
    return {**config, "systems": systems}


def _checked_system(system, where):
    pruned = {*system} & {"study", "control", "tuning"} if system else ()
    needed = ["data", "baseline", *(["healed"] if pruned else [])]
    _check(system, SYSTEM_KEYS, where, needed)
    _check_recipe(system, where)
    if system.get("score"):
        _check(system["score"], SCORE_KEYS, f"{where}score.", ["data"])
        _check_recipe(system["score"], f"{where}score.")
    if tuning := system.get("tuning"):
        where_tuned = f"{where}tuning."
        _check(tuning, TUNING_KEYS, where_tuned, TUNING_KEYS[:-1])
        # It may be empty: trials are chosen by their validation loss.
        if "test_splits" not in tuning:
            raise PlanError(f"{where_tuned}test_splits: missing, give one")
    for key in ("tables", "plans", "needs"):
        names = system.get(key) or []
        texts = [one for one in names if isinstance(one, str)]
        if not isinstance(names, list) or texts != names:
            raise PlanError(
                f"{where}{key}: {names!r:.80}, give a list of names"
            )
    entries = list(_flat(system.get("study", [])))
    for one in entries:
        _check(one, ENTRY_KEYS, f"{where}study.", ["depths", "healing"])
    return {**system, "study": entries}


def recipe_folder(name: str) -> str:
    """A recipe's folder."""
    return str(folder_of("recipes") / name)


def _check_recipe(given, where):
    folder = recipe_folder(given.get("recipe") or "")
    if not given.get("recipe") or not os.path.isdir(folder):
        raise PlanError(
            f"{where}recipe: {folder:.300} is not there: name a recipe's folder "
            "(speechllm recipes ls)"
        )


def _check(given, known, where, needed=()):
    """Refuse keys that are unknown, and a lack of those that are needed."""
    if not isinstance(given, dict):
        raise PlanError(
            f"{where.rstrip('.: ')}: {given!r}, give keys: {', '.join(known)}"
        )
    for key in given:
        if key not in known:
            raise PlanError(
                f"{where}{key}: unknown, choose from {', '.join(known)}"
            )
    for key in needed:
        if not given.get(key):
            raise PlanError(f"{where}{key}: missing, give one")


def _flat(entries):
    """A system's entries; lists of them may be shared between systems."""
    for one in entries:
        yield from _flat(one) if isinstance(one, list) else [one]
