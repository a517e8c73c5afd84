"""What a study's configuration may say, and what is told where it says else."""

from study import REPORTS

# Top-level keys and what each holds.
KEYS = {
    "results": str,
    "seeds": list,
    "baseline_seeds": list,
    "cards": int,
    "features": bool,
    "set": dict,
    "data": dict,
    "systems": dict,
    "report": str,
    "healings": dict,
    "utterances": int,
    "warm": bool,
}
SYSTEM_KEYS = (
    "recipe data baseline healed set set_baseline set_healed tables control "
    "study score needs plans tuning"
).split()
STUDY_KEYS = ("depths", "healing", "path", "steps", "seeds")


class PlanError(ValueError):
    """What is wrong with a study's configuration, and how to mend it."""


def checked(config, file):
    """A configuration, refused where it has what is not known."""
    _check(config, KEYS, f"{file}: ")
    for key in ("results", "seeds", "systems"):
        if not config.get(key):
            raise PlanError(f"{file}: {key}: missing, give one")
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
    systems = {}
    for name, system in config["systems"].items():
        where = f"{file}: systems.{name}."
        _check(system, SYSTEM_KEYS, where)
        study = list(_flat(system.get("study", [])))
        for one in study:
            _check(one, STUDY_KEYS, f"{where}study.")
        systems[name] = {**system, "study": study}
    return {**config, "systems": systems}


def _check(given, known, where):
    for key in given:
        if key not in known:
            raise PlanError(
                f"{where}{key}: unknown, choose from {', '.join(known)}"
            )


def _flat(entries):
    """A system's entries; lists of them may be shared between systems."""
    for one in entries:
        yield from _flat(one) if isinstance(one, list) else [one]
