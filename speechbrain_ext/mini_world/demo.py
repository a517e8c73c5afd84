"""The paper in miniature: every run of `make mini`, in order, then the report.

Each run is the recipe's own command line, printed before it starts. Two run
at a time; a run that fails is recorded as failed and the others go on; what
is finished already is not run again.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from speechbrain_ext.healing import STRATEGIES
from speechbrain_ext.mini_world.corpus import build_librispeech
from speechbrain_ext.report import main as report

RECIPE = Path(__file__).parents[2] / "recipes/LibriSpeech/ASR/SpeechLLM"
BASELINE = "mini"
DEPTHS = (2, 4, 6)


def recipe_command(script, yaml, results, **options):
    """The command that a person would type in the recipe's folder.

    Arguments
    ---------
    script : str
        "train.py" or "measure.py".
    yaml : str
        A file of the recipe's hparams/.
    results : Path
        Where runs go; the corpus lies in its ``data/``.
    **options : dict
        Further options of the command line.

    Returns
    -------
    list of str
    """
    options = {
        **options,
        "data_folder": results / "data" / "LibriSpeech",
        "results_folder": results,
    }
    words = [sys.executable, script, f"hparams/{yaml}"]
    for name, value in options.items():
        words += [f"--{name}", str(value)]
    return words


def healed_runs(results):
    """Commands of all pruned runs, and of the baseline's control.

    Arguments
    ---------
    results : Path
        Where runs go.

    Returns
    -------
    list of list of str
    """
    runs = [
        # As many further steps for the whole model as healing takes: what
        # pruning costs is not hidden by training longer.
        dict(run_name=f"{BASELINE}-control", prune_layers=0),
    ]
    for size in reversed(DEPTHS):
        runs += [
            dict(
                run_name=f"{BASELINE}-prune{size}-{healing}",
                prune_layers=size,
                healing=healing,
            )
            for healing in STRATEGIES
        ]
        runs.append(
            dict(
                run_name=f"{BASELINE}-prune{size}-both-text",
                prune_layers=size,
                path_from="text",
            )
        )
    return [
        recipe_command("train.py", "mini_prune.yaml", results, **options)
        for options in runs
    ]


def run_all(commands, logs, workers=2):
    """Run commands side by side, each with its output in a file.

    Arguments
    ---------
    commands : list of list of str
        What to run, in the recipe's folder.
    logs : Path
        Folder for the outputs.
    workers : int
        How many at a time.

    Returns
    -------
    list of str
        What failed, a line each.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # Models this small are slower on two threads than on one.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = []

    def run(numbered):
        number, words = numbered
        said = " ".join(["python", *words[1:]])
        log = logs / f"{number:02d}.log"
        began = time.monotonic()
        with open(log, "w", encoding="utf-8") as stream:
            status = subprocess.run(
                words,
                cwd=RECIPE,
                env=environment,
                stdout=stream,
                stderr=subprocess.STDOUT,
            ).returncode
        done.append(said)
        mark = "done" if status == 0 else f"FAILED, see {log}"
        took = time.monotonic() - began
        print(f"[{len(done)}/{len(commands)}] {mark} in {took:.0f} s: {said}")
        return None if status == 0 else said

    with ThreadPoolExecutor(workers) as pool:
        outcomes = pool.map(run, enumerate(commands, start=1))
    return [said for said in outcomes if said]


def main(argv=None):
    """Build the world, run everything, report.

    Arguments
    ---------
    argv : list of str or None
        The command line.

    Returns
    -------
    int
        0 if every run succeeded.
    """
    parser = argparse.ArgumentParser(
        prog="python -m speechbrain_ext.mini_world.demo",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("--output", type=Path, default=Path("results/mini"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    if not RECIPE.is_dir():
        parser.error(f"{RECIPE} is not there: run from a clone of the project")
    results = options.output.resolve()
    began = time.monotonic()
    print(f"Building the spoken world in {results / 'data'}")
    build_librispeech(results / "data")
    stages = (
        [recipe_command("train.py", "mini.yaml", results)],
        [
            recipe_command("measure.py", "mini.yaml", results, input=kind)
            for kind in ("speech", "text")
        ],
        healed_runs(results),
    )
    failed = []
    for number, commands in enumerate(stages, start=1):
        failed += run_all(commands, results / f"logs/{number}", options.workers)
        if failed and number < len(stages):
            break
    report([str(results), "--output", str(results)])
    print(f"{results}: {time.monotonic() - began:.0f} s in all")
    for said in failed:
        print(f"Failed: {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
