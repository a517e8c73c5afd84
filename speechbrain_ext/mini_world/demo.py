"""The paper in miniature: every run of `make mini`, in order, then the report.

Each run is the recipe's own command line, printed before it starts. Two run
at a time; a run that fails is recorded as failed and the others go on; what
is finished already is not run again.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import multiprocessing
import os
import runpy
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from speechbrain_ext.distance_table import RedundancyTable, compare
from speechbrain_ext.healing import STRATEGIES
from speechbrain_ext.mini_world.corpus import build_librispeech
from speechbrain_ext.paths import INPUTS, table_file
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
    words = [script, f"hparams/{yaml}"]
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
    runs += [
        dict(
            run_name=f"{BASELINE}-prune{size}-both-text",
            prune_layers=size,
            path_from="text",
        )
        for size in text_depths(results)
    ]
    return [
        recipe_command("train.py", "mini_prune.yaml", results, **options)
        for options in runs
    ]


def text_depths(results):
    """Depths at which the text's path is run too.

    Where both paths name the same block the run is the same; one of these
    is run to show it.

    Arguments
    ---------
    results : Path
        Where the baseline's tables are.

    Returns
    -------
    list of int
    """
    speech, text = (
        RedundancyTable.load(table_file(results / BASELINE, kind))
        for kind in INPUTS
    )
    print(
        "Tables on speech and text: "
        + ", ".join(f"{k} {v:.3f}" for k, v in compare(speech, text).items())
    )
    other = [n for n in DEPTHS if speech.best(n) != text.best(n)]
    return other or [DEPTHS[len(DEPTHS) // 2]]


def run_all(commands, logs, workers=2):
    """Run commands side by side, each with its output in a file.

    Arguments
    ---------
    commands : list of list of str
        What to run, in the recipe's folder.
    logs : Path
        Folder for the outputs. A single command prints on the terminal.
    workers : int
        How many at a time.

    Returns
    -------
    list of str
        What failed, a line each.
    """
    logs.mkdir(parents=True, exist_ok=True)
    # A process that has imported everything once is copied for each run: the
    # imports take longer than some of the runs.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["speechbrain_ext.recipe"])
    failed = []
    bar = tqdm(total=len(commands), desc=logs.name, disable=len(commands) < 2)

    def run(numbered):
        number, words = numbered
        said = " ".join(["python", *words])
        log = logs / f"{number:02d}.log" if len(commands) > 1 else None
        if log is None:
            print(said, flush=True)
        began = time.monotonic()
        process = processes.Process(target=run_script, args=(words, log))
        process.start()
        process.join()
        bar.update()
        took = f"{time.monotonic() - began:.0f} s"
        if process.exitcode == 0:
            tqdm.write(f"done in {took}: {said}")
        else:
            tqdm.write(f"FAILED after {took}, see {log or 'above'}: {said}")
            failed.append(said)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, enumerate(commands, start=1)))
    bar.close()
    return failed


def run_script(words, log):
    """In a process of its own: a script, as if typed in the recipe's folder.

    Arguments
    ---------
    words : list of str
        The script's name and its options.
    log : Path or None
        Gets everything that it prints; None leaves it on the terminal.
    """
    if log is not None:
        with open(log, "wb", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
    os.chdir(RECIPE)
    sys.path.insert(0, str(RECIPE))
    sys.argv = list(words)
    runpy.run_path(words[0], run_name="__main__")


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
    # Models this small are slower on two threads than on one. What is set
    # here holds in every process that is started below.
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
    results = options.output.resolve()
    began = time.monotonic()
    print(f"Building the spoken world in {results / 'data'}")
    build_librispeech(results / "data")
    stages = {
        "baseline": lambda: [recipe_command("train.py", "mini.yaml", results)],
        "tables": lambda: [
            recipe_command("measure.py", "mini.yaml", results, input=kind)
            for kind in INPUTS
        ],
        "pruned": lambda: healed_runs(results),
    }
    failed = []
    for stage, commands in stages.items():
        if failed:
            break
        failed = run_all(commands(), results / "logs" / stage, options.workers)
    report([str(results), "--output", str(results)])
    print(f"{results}: {time.monotonic() - began:.0f} s in all")
    for said in failed:
        print(f"Failed: {said}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
