#!/usr/bin/env python3
"""Score a trained system, from any ASR recipe, on the Loquacious set.

    python evaluate.py RUN_FOLDER --data_folder /path/to/LoquaciousSet

RUN_FOLDER is a finished run, such as LibriSpeech's ``results/qwen7b_prune``:
nothing else has to be said. The score is added to the run's ``result.json``
as ``loquacious-dev``, beside its own sets, and what was decoded lies beside
it. The paper uses the dev set, since the test set contains LibriSpeech's.
"""

import argparse
import os
import sys

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.run_opts import RunOptions

from loquacious_prepare import CHECKS, find_root, prepare_loquacious
from speechbrain_ext.runs.files import write_hypotheses
from speechbrain_ext.scores.score import score_recognition
from speechbrain_ext.training.evaluation import EvaluationBrain
from speechbrain_ext.training.processes import run_on_main
from speechbrain_ext.training.trained_run import TrainedRun
from speechllm.command import run_command
from train import open_split


def parse(argv):
    """The command line's own options, and SpeechBrain's run options."""
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0],
        epilog="SpeechBrain's run options, such as --device, serve too.",
    )
    parser.add_argument("run_folder", help="a finished run")
    parser.add_argument("--data_folder", required=True)
    parser.add_argument("--splits", nargs="+", default=["dev"])
    parser.add_argument("--manifest_folder", default="results/manifests")
    parser.add_argument("--test_batch_size", type=int)
    parser.add_argument("--num_workers", type=int, default=2)
    parser.add_argument("--cache_gigabytes", type=float, default=2.0)
    parser.add_argument("--check_audio", choices=CHECKS, default="header")
    parser.add_argument("--skip_bad", action="store_true")
    options, rest = parser.parse_known_args(argv)
    words = [options.run_folder, *rest]
    _, run_opts, unknown = RunOptions.from_command_line_args(words)
    if unknown:
        parser.error(f"unknown options: {' '.join(unknown.split())}")
    return options, run_opts


def score_set(run, brain, dataset, name):
    """Score a finished run on one more set, and note it in its result."""
    rows = brain.decode(dataset, name)
    score, rows = score_recognition(rows)
    if if_main_process():
        hours = sum(row["duration"] for row in rows) / 3600
        run.result.scores[name] = score
        run.result.data[name] = {"utterances": len(rows), "hours": hours}
        write_hypotheses(run.folder, name, rows)
        run.result.save(run.folder)
        print(f"{name}: {score}")


def main(argv):
    """Index the data, load the run, decode, score, note the score."""
    options, run_opts = parse(argv)
    run = TrainedRun(options.run_folder)
    sb.utils.distributed.ddp_init_group(run_opts)
    run_on_main(
        lambda: prepare_loquacious(
            options.data_folder,
            options.manifest_folder,
            options.splits,
            skip_bad=options.skip_bad,
            check_audio=options.check_audio,
        )
    )
    model = run.load(run_opts.device or sb.utils.distributed.infer_device())
    settings = {**run.settings, "num_workers": options.num_workers}
    if options.test_batch_size:
        settings["test_batch_size"] = options.test_batch_size
    brain = EvaluationBrain(model, settings, run_opts)
    for split in options.splits:
        dataset = open_split(
            [os.path.join(options.manifest_folder, f"{split}.csv")],
            find_root(options.data_folder, [split]),
            model.prompt,
            run.settings["lowercase_targets"],
            options.cache_gigabytes,
        )
        score_set(run, brain, dataset, f"loquacious-{split}")


if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:]))
