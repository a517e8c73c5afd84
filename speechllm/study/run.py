"""Make one run of a study: type its command line, and note how it ended.

``python -m speechllm.study.run PLAN.json RUN`` prints the recipe's own command,
runs it in the recipe's folder and writes a small marker:

* the run is done: ``{"status": "done"}``;
* it would lack the same layers as another, of which it shall differ: ``same``;
* it failed by itself (an error that another try would meet again): ``failed``
  with the error, and the graph goes on with the rest;
* what it needs failed: ``skipped``.

A run that was killed leaves no marker and an exit status: it is tried again
by the graph and goes on from its last checkpoint. What is true of a run is in
its ``result.json``; one that is done is never started again.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import sys

from speechbrain_ext.runs.files import write_json
from speechllm.study import processes
from speechllm.study.state import (
    ROOT,
    Study,
    is_done,
    note_file,
    put_aside,
    result_of,
    status_of,
    twin_of,
    with_twins,
)
from speechllm.study.tuning import with_best_rates

# How a run that was told to stop ends, though Python says "failed".
STOPPED = ("KeyboardInterrupt", "SystemExit", "Stopped", "ProcessLost")
# Its exit codes: from a shell, or of a script that ended by itself.
STOPPING = (
    128 + signal.SIGTERM,
    128 + signal.SIGKILL,
    128 + signal.SIGINT,
)


def make(plan, run, cards: int = 0, start=None) -> int:
    """Make one run unless it is done, and write its marker.

    The status is 0 if there is one, and else that of the killed process.
    ``start`` makes a process of a script, in place of a fresh interpreter.
    """
    ended = [status_of(plan, one) for one in run.needs]
    missing = [
        one
        for one, status in zip(run.needs, ended)
        if status not in ("done", "same")
    ]
    if missing:
        print(run.typed(), flush=True)
        _mark(plan, run, "skipped", f"needs {', '.join(missing)}")
        return 0
    twin = twin_of(run)
    if twin:
        told = f"lacks the same layers as {twin}"
        _mark(plan, run, "same", told, twin=twin)
        return 0
    run = with_twins(plan, with_best_rates(plan, run))
    print(run.typed(), flush=True)
    with _alone(plan, run):
        put_aside(plan, run)
        if not is_done(plan, run):
            ended, said = _type_it(plan, run, cards, start)
            if _was_killed(ended, plan, run):
                return ended if 0 < ended < 256 else 1
            if ended or not is_done(plan, run):
                _mark(plan, run, "failed", _error(plan, run, said))
                return 0
        _mark(plan, run, "done")
    return 0


def _mark(plan, run, status, error=None, **more):
    """Write a marker, after which the graph holds the run for ended."""
    if error:
        print(f"{run.name}: {status}: {error}", flush=True)
    marker = plan.marker(run)
    marker.parent.mkdir(parents=True, exist_ok=True)
    content = {"run": run.name, "status": status, "error": error, **more}
    write_json(marker, {**content, "made": run.made, "command": run.typed()})


@contextlib.contextmanager
def _alone(plan, run):
    """One process at a time on a run, also after the graph was killed."""
    file = plan.results / "graph" / "locks" / run.name
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _type_it(plan, run, cards, start):
    """Run the command with its output in a file; its status and that output."""
    log = plan.results / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    with processes.held_gpus(cards, plan.results / "graph" / "cards") as given:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            **given,
        }
        told = (run.command, run.folder, environment, log)
        ended = start(*told) if start and not cards else None
        if ended is None:
            ended = processes.run_started(*told, cards)
    said = log.read_text(encoding="utf-8", errors="replace")
    write_json(note_file(plan, run), {"trained": run.trained, "ended": ended})
    return ended, said


def _was_killed(ended, plan, run):
    """Whether a run was stopped from outside and may simply go on."""
    if ended < 0 or ended in STOPPING:
        return True
    error = result_of(plan, run.name).get("error") or ""
    return bool(ended) and error.startswith(STOPPED)


def _error(plan, run, said):
    """Why a run failed: its result's word, or the last line it printed."""
    error = result_of(plan, run.name).get("error")
    lines = [line for line in said.splitlines() if line.strip()]
    return error or (lines[-1] if lines else "it printed nothing")


def main(argv=None) -> int:
    """Read the command line and make the run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("plan", help="the study's plan.json")
    parser.add_argument("run", help="name of the run")
    parser.add_argument("--cards", type=int, default=0, help="GPUs")
    options = parser.parse_args(argv)
    plan = Study.load(options.plan)
    place = os.environ.get(processes.VARIABLE)

    def asked(*told):
        return processes.run_asked(place, *told)

    return make(plan, plan.runs[options.run], options.cards, asked)


if __name__ == "__main__":
    # A polite end is an end by signal too, for the child as for us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
