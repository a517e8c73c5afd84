"""Recipes' command lines, printed and run side by side."""

import multiprocessing
import os
import runpy
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

RECIPES = Path(__file__).parents[2] / "recipes"
LIBRISPEECH = "LibriSpeech/ASR/SpeechLLM"
COVOST2 = "CoVoST2/AST/SpeechLLM"
LOQUACIOUS = "Loquacious/ASR/SpeechLLM"
MULTITASK = "MultiTask/SpeechLLM"


@dataclass(frozen=True)
class Command:
    """What a person would type in a recipe's folder after ``python``."""

    recipe: str
    words: tuple

    def __str__(self):
        return " ".join(["python", *self.words])


def command(recipe, script, *words, **options):
    """A command, its options as names and values."""
    words = [script, *words]
    for name, value in options.items():
        words += [f"--{name}", value]
    return Command(recipe, tuple(str(word) for word in words))


def run_all(commands, logs, workers=2):
    """Run commands side by side, each with its output in a file."""
    logs.mkdir(parents=True, exist_ok=True)
    # A process that has imported everything once is copied for each run: the
    # imports take longer than some of the runs.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["speechbrain_ext.training.experiment"])
    failed = []
    bar = tqdm(total=len(commands), desc=logs.name, disable=len(commands) < 2)

    def run(numbered):
        number, one = numbered
        log = logs / f"{number:02d}.log" if len(commands) > 1 else None
        if log is None:
            print(one, flush=True)
        began = time.monotonic()
        process = processes.Process(target=run_script, args=(one, log))
        process.start()
        process.join()
        bar.update()
        took = f"{time.monotonic() - began:.0f} s"
        if process.exitcode == 0:
            tqdm.write(f"done in {took}: {one}")
        else:
            tqdm.write(f"FAILED after {took}, see {log or 'above'}: {one}")
            failed.append(one)

    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(run, enumerate(commands, start=1)))
    bar.close()
    return failed


def run_script(one, log):
    """In a process of its own: a script, as if typed in the recipe's folder."""
    if log is not None:
        with open(log, "wb", buffering=0) as stream:
            os.dup2(stream.fileno(), 1)
            os.dup2(stream.fileno(), 2)
    folder = RECIPES / one.recipe
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = list(one.words)
    runpy.run_path(one.words[0], run_name="__main__")


def prepare_process(parser):
    """What must hold before the first run is started."""
    if not RECIPES.is_dir():
        parser.error(f"{RECIPES} is not there: run from a clone of the project")
    # Models this small are slower on two threads than on one. What is set
    # here holds in every process that is started below.
    os.environ.update(OMP_NUM_THREADS="1", HF_HUB_OFFLINE="1")
