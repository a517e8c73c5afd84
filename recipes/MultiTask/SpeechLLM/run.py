#!/usr/bin/env python3
"""Several tasks on one pruned backbone, loaded once.

    python run.py hparams/asr.yaml hparams/en_de.yaml hparams/fr_en.yaml \\
        --asr.data_root DIR --en_de.data_root DIR --fr_en.data_root DIR

Each YAML is a task: a finished run of some recipe, and a manifest to decode.
Batches are mixed from all tasks; each row goes through its own projector and
adapter. Prints the memory that is shared and saved, and each task's score.
With ``--check``, each task's logits and texts are compared with those of its
run loaded by itself; in float32 they are the same, bit for bit.
"""

import argparse
import os
import sys
import time

import speechbrain as sb
import torch
from tqdm import tqdm

from speechbrain_ext.data.rows import read_manifest
from speechbrain_ext.data.sets import speaker_of
from speechbrain_ext.layers.residual import no_numbers
from speechbrain_ext.runs.files import write_hypotheses, write_json
from speechbrain_ext.scores.language import language_of
from speechbrain_ext.scores.score import score_recognition, score_translation
from speechbrain_ext.scores.translation import check_bleu
from speechllm.command import run_command
from speechllm.multitask import (
    MultiTask,
    compare_with_separate,
    in_batches,
    limits,
    memory_of,
    read_wavs,
    told_memory,
)
from speechllm.overrides import own_options
from speechllm.settings import load_hparams

SCORES = {"WER": score_recognition, "BLEU": score_translation}
# What is kept of a row, beside its ID and target.
SCORED = ("hypothesis", "duration", "hit_limit", "speaker")


def parse(argv):
    """Options, and each task's settings."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tasks", nargs="+", metavar="TASK.yaml")
    parser.add_argument("--output_folder", default="results")
    parser.add_argument("--device", default=None)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--limit", type=int, help="utterances of each task")
    parser.add_argument("--check", action="store_true")
    options, rest = parser.parse_known_args(argv)
    changes = {}
    for key, value in own_options(rest).items():
        task, _, key = key.partition(".")
        changes.setdefault(task, {})[key] = value
    settings = {}
    for file in options.tasks:
        stem = os.path.splitext(os.path.basename(file))[0]
        one = load_hparams(file, changes.pop(stem, None))
        if one["metric"] not in SCORES:
            parser.error(f"metric: {one['metric']}, choose WER or BLEU")
        settings[one["name"]] = one
    if changes or len(settings) < len(options.tasks):
        told = f"no task {', '.join(changes)}" if changes else "a name twice"
        parser.error(f"{told}: the tasks are {', '.join(settings)}")
    return options, settings


def read_rows(name, one, run, limit):
    """What a task is to decode."""
    rows = []
    manifest = read_manifest(one["manifest"], one["data_root"])
    for key, row in list(manifest.items())[:limit]:
        target = row[one["reference"]]
        if run.settings["lowercase_targets"]:
            target = target.lower()
        rows.append(
            {
                "id": key,
                "task": name,
                "wav": row["wav"],
                "resample": one["resample"],
                "target": target,
                "duration": row["duration"],
                "speaker": speaker_of(row),
            }
        )
    return rows


def decode(tasks, rows, batch_size):
    """Decode rows of all tasks in mixed batches."""
    for batch in tqdm(in_batches(rows, batch_size), desc="Decoding"):
        names = [row["task"] for row in batch]
        most = [
            limits(tasks.runs[row["task"]].settings, [row["duration"]])
            for row in batch
        ]
        answers = tasks.answer(read_wavs(batch), names, torch.cat(most))
        for row, said in zip(batch, answers):
            row["hypothesis"], row["hit_limit"] = said.text, said.hit_limit
            if not said.finite:
                told = no_numbers([row["id"]], "what is computed of it")
                print(f"{row['task']}: {told}", file=sys.stderr)


def score(rows, settings, languages, folder):
    """Score each task and write what it said."""
    scores = {}
    for name, one in settings.items():
        own = [
            {"id": row["id"], "reference": row["target"]}
            | {key: row[key] for key in SCORED}
            for row in rows
            if row["task"] == name
        ]
        scores[name], own = SCORES[one["metric"]](own, languages[name])
        write_hypotheses(folder, name, own)
        print(f"{name}: {scores[name]}")
    return scores


def main(argv):
    """Load, decode, score, and check."""
    options, settings = parse(argv)
    device = options.device or sb.utils.distributed.infer_device()
    runs = {name: one["run_folder"] for name, one in settings.items()}
    tasks = MultiTask.from_runs(runs, device)
    languages = {
        name: language_of(tasks.runs[name].settings) for name in settings
    }
    for name, one in settings.items():
        if one["metric"] == "BLEU":
            check_bleu(languages[name])
    memory = memory_of(tasks)
    print(told_memory(memory))
    rows = []
    for name, one in settings.items():
        rows += read_rows(name, one, tasks.runs[name], options.limit)
    began = time.monotonic()
    decode(tasks, rows, options.batch_size)
    seconds = time.monotonic() - began
    os.makedirs(options.output_folder, exist_ok=True)
    scores = score(rows, settings, languages, options.output_folder)
    checks = {}
    for name in settings if options.check else ():
        own = [row for row in rows if row["task"] == name]
        checks[name] = compare_with_separate(
            tasks, name, own, options.batch_size
        )
        print(f"{name}, against its own system: {checks[name]}")
    write_json(
        os.path.join(options.output_folder, "multitask.json"),
        {
            "memory": memory,
            "scores": {name: vars(one) for name, one in scores.items()},
            "decode_seconds": seconds,
            "checks": checks,
        },
    )
    return int(not all(one["same_logits"] for one in checks.values()))


if __name__ == "__main__":
    run_command(lambda: sys.exit(main(sys.argv[1:])))
