"""Make one run of a study: type its command line, and note how it ended.

``python workflow/study_run.py PLAN.json RUN`` prints the recipe's own command,
runs it in the recipe's folder and writes a small marker:

* the run is done: ``{"status": "done"}``;
* it failed by itself (an error that another try would meet again): ``failed``
  with the error, and the graph goes on with the rest;
* what it needs failed: ``skipped``.

A run that was killed leaves no marker and an exit status: it is tried again
by the graph and goes on from its last checkpoint. What is true of a run is in
its ``result.json``; one that is done is never started again.
"""

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from cards import held_cards  # noqa: E402
from study import Study  # noqa: E402
from study_state import (  # noqa: E402
    is_done,
    note_file,
    put_aside,
    result_of,
    status_of,
)
from tuning import with_best_rates  # noqa: E402
from warm import VARIABLE, die_with_parent, run_warm  # noqa: E402

from speechbrain_ext.runs.files import write_json

ROOT = Path(__file__).resolve().parents[1]
# How a run that was told to stop ends, though Python says "failed".
STOPPED = ("KeyboardInterrupt", "SystemExit")


def make(plan, run, cards=0):
    """Make one run unless it is done, and write its marker."""
    marker = plan.marker(run)
    marker.parent.mkdir(parents=True, exist_ok=True)
    missing = [one for one in run.needs if status_of(plan, one) != "done"]
    if missing:
        print(run.typed(), flush=True)
        _mark(marker, run, "skipped", f"needs {', '.join(missing)}")
        return 0
    run = with_best_rates(plan, run)
    print(run.typed(), flush=True)
    with _alone(plan, run):
        put_aside(plan, run)
        if not is_done(plan, run):
            ended, said = _type_it(plan, run, cards)
            if _was_killed(ended, plan, run):
                return ended if 0 < ended < 256 else 1
            if ended or not is_done(plan, run):
                _mark(marker, run, "failed", _error(plan, run, said))
                return 0
        _mark(marker, run, "done")
    return 0


def _mark(marker, run, status, error=None):
    """Write a marker, after which the graph holds the run for ended."""
    if error:
        print(f"{run.name}: {status}: {error}", flush=True)
    write_json(
        marker,
        {
            "run": run.name,
            "status": status,
            "error": error,
            "made": run.made,
            "command": run.typed(),
        },
    )


@contextlib.contextmanager
def _alone(plan, run):
    """One process at a time on a run, also after the graph was killed."""
    file = plan.results / "graph" / "locks" / run.name
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _type_it(plan, run, cards):
    """Run the command; its output goes to the terminal and into a file."""
    log = plan.results / "logs" / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    with held_cards(cards, plan.results / "graph" / "cards") as given:
        environment |= given
        place = None if cards else os.environ.get(VARIABLE)
        ended = run_warm(place, run.command, run.folder, environment, log)
        if ended is None:
            ended = _run_cold(cards, run, environment, log)
    said = log.read_text(encoding="utf-8", errors="replace")
    note = note_file(plan, run)
    write_json(note, {"trained": run.trained, "ended": ended})
    return ended, said


def _starter(cards):
    """What stands before the script's name: Python, or torchrun's."""
    if cards > 1:
        return [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",
            f"--nproc_per_node={cards}",
        ]
    return [sys.executable]


def _run_cold(cards, run, environment, log):
    """Run the command in a process of its own; its exit status (int)."""
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [*_starter(cards), *run.command],
            cwd=run.folder,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            preexec_fn=die_with_parent,
        )
        return process.wait()


def _was_killed(ended, plan, run):
    """Whether a run was stopped from outside and may simply go on."""
    if ended < 0 or ended in (128 + signal.SIGTERM, 128 + signal.SIGKILL):
        return True
    error = result_of(plan, run.name).get("error") or ""
    return bool(ended) and error.startswith(STOPPED)


def _error(plan, run, said):
    """Why a run failed: its result's word, or the last line it printed."""
    error = result_of(plan, run.name).get("error")
    lines = [line for line in said.splitlines() if line.strip()]
    return error or (lines[-1] if lines else "it printed nothing")


def main(argv=None):
    """Read the command line and make the run."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("plan", help="the study's plan.json")
    parser.add_argument("run", help="name of the run")
    parser.add_argument("--cards", type=int, default=0, help="GPUs")
    options = parser.parse_args(argv)
    plan = Study.load(options.plan)
    return make(plan, plan.runs[options.run], options.cards)


if __name__ == "__main__":
    # A polite end is an end by signal too, for the child as for us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
