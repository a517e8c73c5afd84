"""The paper in miniature: every run of `make mini`, in order, then the report.

Each run is the recipe's own command line, printed before it starts. Two run
at a time; a run that fails is recorded as failed and the others go on; what
is finished already is not run again.
"""

import argparse
import sys
import time
from pathlib import Path

from speechbrain_ext.healing.presets import STRATEGIES
from speechbrain_ext.layers.distances import RedundancyTable, compare
from speechbrain_ext.training.choose_layers import INPUTS, table_file
from speechllm.mini_world.librispeech import build_librispeech
from speechllm.mini_world.running import (
    LIBRISPEECH,
    command,
    prepare_process,
    run_all,
)
from speechllm.report.command import main as report

BASELINE = "mini"
DEPTHS = (2, 4, 6)


def recipe_command(script, yaml, results, **options):
    """The command that a person would type in the recipe's folder."""
    return command(
        LIBRISPEECH,
        script,
        f"hparams/{yaml}",
        **options,
        data_folder=results / "data" / "LibriSpeech",
        results_folder=results,
    )


def healed_runs(results):
    """Commands of all pruned runs, and of the baseline's control."""
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
    """Depths at which the text's path is run too."""
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


def main(argv=None):
    """Build the world, run everything, report."""
    parser = argparse.ArgumentParser(
        prog="python -m speechllm.mini_world.demo",
        description=__doc__.split("\n")[0],
    )
    parser.add_argument("--output", type=Path, default=Path("results/mini"))
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args(argv)
    prepare_process(parser)
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
