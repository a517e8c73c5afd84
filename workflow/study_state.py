"""How far a run of a study is, from the files that it leaves."""

import json
import shutil
import time

from speechbrain_ext.runs.files import write_json

# In a run's folder: which settings it was started with.
STARTED = "workflow.json"


def status_of(plan, name):
    """How a run ended, by its marker: done, failed, skipped or absent."""
    file = plan.marker(plan.runs[name])
    try:
        return json.loads(file.read_text(encoding="utf-8"))["status"]
    except FileNotFoundError:
        return "absent"


def is_done(plan, run):
    """Whether the files that a run leaves say that it is done."""
    if run.kind == "data":
        return started(plan, run).get("ended") == 0
    if run.kind == "table":
        base, _, kind = run.name.rpartition("-table-")
        if started(plan, run).get("ended") != 0:
            return False
        folder = plan.run_folder(base)
        tables = list(folder.glob(f"redundancy-{kind}*.json"))
        return bool(tables) or (folder / f"plan-{kind}.json").is_file()
    name = run.name.removesuffix("-score") if run.kind == "score" else run.name
    result = result_of(plan, name)
    if result.get("status") != "done":
        return False
    return set(run.sets) <= set(result.get("scores", {}))


def result_of(plan, name):
    """A run's ``result.json``; a broken or absent one is as good as none."""
    try:
        file = plan.run_folder(name) / "result.json"
        return json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}


def note_file(plan, run):
    """Where it is noted which settings a run was started with."""
    if run.kind in ("baseline", "healed"):
        return plan.run_folder(run.name) / STARTED
    return plan.results / "graph" / "started" / f"{run.name}.json"


def started(plan, run):
    try:
        note = json.loads(note_file(plan, run).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return note if note.get("trained") == run.trained else {}


def put_aside(plan, run):
    """Move what other settings made out of the way, where it is not lost."""
    folder, note = plan.run_folder(run.name), note_file(plan, run)
    if run.kind in ("baseline", "healed") and folder.exists():
        if not started(plan, run):
            old = plan.results / "superseded" / f"{run.name}-{time.time_ns()}"
            old.parent.mkdir(exist_ok=True)
            shutil.move(folder, old)
            print(f"{folder} was made with other settings: now {old}")
    note.parent.mkdir(parents=True, exist_ok=True)
    if not started(plan, run):
        write_json(note, {"trained": run.trained})
