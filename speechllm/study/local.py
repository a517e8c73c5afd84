"""A whole study on this machine, without Snakemake.

``python -m speechllm.study.local STUDY.yaml`` makes its runs, a few at a time,
each as soon as what it needs is done, and then the report. Each is a recipe's
own command line, printed before it starts, its output in ``logs/``. A run
that fails is recorded as failed and those that do not need it go on; what is
finished already is not run again.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from speechllm.pipes import module_parser
from speechllm.study.plan import read_plan
from speechllm.study.processes import is_script, run_forked
from speechllm.study.run import make
from speechllm.study.state import ROOT, status_of


def run_all(plan, workers: int = 2) -> None:
    """Make all runs of a plan that have not ended yet, in its order."""
    waiting = [n for n in plan.runs if status_of(plan, n) == "absent"]
    running: dict[Future, str] = {}
    left, stopped, total = set(waiting), threading.Event(), len(waiting)
    with ThreadPoolExecutor(workers) as pool:
        try:
            while left:
                ready = [
                    name
                    for name in waiting
                    if left.isdisjoint(plan.awaited(plan.runs[name]))
                ]
                for name in ready[: workers - len(running)]:
                    waiting.remove(name)
                    running[pool.submit(_make, plan, name, stopped)] = name
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for one in done:
                    left.remove(running.pop(one))
                    print(
                        f"[{total - len(left)}/{total}] {one.result()}",
                        flush=True,
                    )
        except BaseException:
            # The runs that are under way have met the same Ctrl-C.
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _make(plan, name, stopped):
    """Make one run, a second time if it was killed; how it ended."""
    run, began = plan.runs[name], time.monotonic()
    told = plan, run, plan.cards_of(run.kind), _forked
    try:
        if make(*told) and not stopped.is_set():
            make(*told)
    except (OSError, ValueError) as error:
        # Not the run's fault: it has no marker, and the others go on.
        return f"{name}: not made: {error}"
    took = f"{time.monotonic() - began:.0f} s"
    return f"{name}: {status_of(plan, name)} after {took}"


def _forked(command, *told):
    return run_forked(command, *told) if is_script(command) else None


def _report(plan):
    """Have the report written; whether it was."""
    began = time.time()
    for words in plan.report_commands():
        # Its status is 1 too where some picture has no data yet.
        subprocess.run([sys.executable, *words], cwd=ROOT)
    file = plan.reported
    if file.is_file() and file.stat().st_mtime >= began:
        return True
    print(f"{file}: not written, see above")
    return False


def main(argv=None) -> int:
    """Plan, run everything, report; 1 if something failed."""
    parser = module_parser("speechllm.study.local", __doc__)
    parser.add_argument("study", help="its configuration, a YAML")
    parser.add_argument("--results", help="in place of the configuration's")
    parser.add_argument("--workers", type=int, default=2, help="runs at a time")
    parser.add_argument(
        "-n", "--dry-run", action="store_true", help="print the plan alone"
    )
    options = parser.parse_args(argv)
    if options.workers < 1:
        parser.error(f"--workers: {options.workers}, give 1 or more")
    # Models as small as a laptop's are slower on two threads than on one.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    changes = {"results": options.results} if options.results else {}
    try:
        plan = read_plan(options.study, **changes)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    plan.begin(dry=options.dry_run)
    if options.dry_run:
        for run in plan.runs.values():
            print(f"{run.typed()}   # in {os.path.relpath(run.folder)}")
        return 0
    began = time.monotonic()
    run_all(plan, options.workers)
    reported = _report(plan)
    print(f"{plan.results}: {time.monotonic() - began:.0f} s in all")
    ended = {name: status_of(plan, name) for name in plan.runs}
    lost = [n for n, status in ended.items() if status not in ("done", "same")]
    for name in lost:
        print(f"{name}: {ended[name]}, see {plan.results}/logs/{name}.log")
    return 0 if reported and not lost else 1


if __name__ == "__main__":
    sys.exit(main())
