"""What the scripts of every recipe do alike.

A recipe's ``train.py`` keeps what is its own in plain sight (how its data are
prepared, what an utterance is); its ``measure.py`` is two lines.

Authors
 * The speechbrain_ext authors, 2026
"""

import argparse
import csv
import inspect
import os
import shutil
from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process, run_on_main

from speechbrain_ext.distance_table import RedundancyTable
from speechbrain_ext.experiment import Experiment, load_prompt
from speechbrain_ext.hparams import load_hparams, merge, parse_arguments
from speechbrain_ext.hparams_rules import speechllm_rules
from speechbrain_ext.paths import INPUTS
from speechbrain_ext.plan_search import plan_lines, search_plans
from speechbrain_ext.plans import load_plans
from speechbrain_ext.results import write_hypotheses
from speechbrain_ext.results.run import RESULT_FILE
from speechbrain_ext.rules import RULES
from speechbrain_ext.rules.data import UTTERANCES
from speechbrain_ext.system import check_baseline

ROOT = "$data_root"


def open_experiment(argv, prepare, dataio_prepare):
    """Settings, folders, manifests and data sets of a command line.

    Arguments
    ---------
    argv : list of str
        The command line after the script's name.
    prepare : callable
        Settings to nothing: writes the manifests. Called on the main process
        alone, before the others go on.
    dataio_prepare : callable
        Settings and `speechbrain_ext.prompt.Prompt` to the data sets, as
        `speechbrain_ext.experiment.Experiment` takes them.

    Returns
    -------
    speechbrain_ext.experiment.Experiment
    """
    hparams_file, run_opts, overrides = parse_arguments(argv)
    # Before anything is built: each process must know its own device.
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides, [speechllm_rules])
    check_baseline(hparams)
    folder = hparams["output_folder"]
    sb.create_experiment_directory(folder)
    if if_main_process():
        # SpeechBrain copies the file that asks it for the folder: this one,
        # which tells nothing about the run.
        copied = os.path.join(folder, os.path.basename(__file__))
        Path(copied).unlink(missing_ok=True)
        # What a started run was made with stays, whatever is asked of it later.
        if not os.path.isfile(f"{folder}/{RESULT_FILE}"):
            file = os.path.join(folder, "hyperparams.yaml")
            with open(file, "w", encoding="utf-8") as stream:
                stream.write(merge(hparams_file, overrides, folder))
            shutil.copy(inspect.getfile(dataio_prepare), folder)
    run_on_main(prepare, args=[hparams])
    prompt = load_prompt(hparams)
    datasets = dataio_prepare(hparams, prompt)
    return Experiment(hparams, run_opts, datasets, prompt, hparams["score"])


def all_splits(hparams):
    """The splits for training, validation and test (list of str).

    Arguments
    ---------
    hparams : dict
        Keys used: train_splits, valid_splits, test_splits.

    Returns
    -------
    list of str

    Example
    -------
    >>> all_splits({"train_splits": ["a"], "valid_splits": ["b"],
    ...     "test_splits": ["c", "d"]})
    ['a', 'b', 'c', 'd']
    """
    kinds = ("train_splits", "valid_splits", "test_splits")
    return [split for kind in kinds for split in hparams[kind]]


def read_manifest(file, root=""):
    """Rows of a manifest by their ID, texts exactly as they were written.

    SpeechBrain's reader takes every ``$`` for a variable, and a sentence
    about money for a missing one: here only audio paths have one.

    Arguments
    ---------
    file : str
        A CSV with the columns ID, duration and wav.
    root : str
        Stands in for ``$data_root`` at the head of ``wav``.

    Returns
    -------
    dict
        ID to a dict of the other columns; duration is a float.

    Example
    -------
    >>> file = str(getfixture("tmpdir").join("a.csv"))
    >>> _ = open(file, "w").write("ID,duration,wav,said\\na,1,$data_root/b,$5")
    >>> read_manifest(file, "/c")
    {'a': {'duration': 1.0, 'wav': '/c/b', 'said': '$5'}}
    """
    rows = {}
    with open(file, newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            row["duration"] = float(row["duration"])
            if row["wav"].startswith(ROOT):
                row["wav"] = root + row["wav"][len(ROOT) :]
            rows[row.pop("ID")] = row
    return rows


def measure_command(argv, prepare_experiment):
    """A recipe's ``measure.py``: measure and save a table, or choose plans.

    Arguments
    ---------
    argv : list of str
        The command line after the script's name: ``--input speech`` or
        ``--input text``, and what ``train.py`` takes. With ``--rule`` and
        ``--sizes`` (and ``--utterances``, ``--seconds``), removal plans
        instead of a table.
    prepare_experiment : callable
        The recipe's; the rest of the command line to an `Experiment`.

    Example
    -------
    >>> measure_command(["--input", "noise"], None)
    Traceback (most recent call last):
    ...
    SystemExit: 2
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--input", choices=INPUTS)
    parser.add_argument("--rule", choices=RULES)
    parser.add_argument("--sizes", type=int, nargs="+")
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--seconds", type=float)
    own, rest = parser.parse_known_args(argv)
    if own.rule is None and own.input is None:
        parser.error("give --input speech, --input text, or --rule NAME")
    if (own.rule is None) != (own.sizes is None):
        parser.error("--rule NAME and --sizes N [N ...] belong together")
    experiment = prepare_experiment(rest)
    if own.rule is not None:
        _choose(experiment, own)
        return
    file = experiment.measure(own.input)
    if not if_main_process():
        return
    table = RedundancyTable.load(file)
    print(f"{file}: {table.count} sequences")
    print("size  start  distance")
    for block in table.path():
        distance = table.distances[block.size - 1, block.start]
        print(f"{block.size:4d}  {block.start:5d}  {distance:.4f}")


def _choose(experiment, own):
    """Choose, save and print plans."""
    file = search_plans(
        experiment,
        own.rule,
        own.sizes,
        own.input or "speech",
        own.utterances,
        own.seconds,
    )
    if if_main_process():
        plans = load_plans(file)
        print(f"{file}: {plans[0].data}")
        print(*plan_lines(plans), sep="\n")


def score_set(run, brain, dataset, name, score):
    """Score a finished run on one more set, and note it in its result.

    Arguments
    ---------
    run : speechbrain_ext.trained_run.TrainedRun
        Its ``result.json`` gets the score and the set's size.
    brain : speechbrain_ext.evaluation.EvaluationBrain
        With the run's model.
    dataset : DynamicItemDataset
        The set.
    name : str
        What the set is called there.
    score : callable
        Rows to (SetScore, rows).

    Returns
    -------
    speechbrain_ext.results.SetScore

    Example
    -------
    >>> from speechbrain_ext.set_scores import score_recognition
    >>> score_set(run, brain, dataset, "dev", score_recognition)  # doctest: +SKIP
    SetScore(metric='WER', value=2.0)
    """
    rows = brain.decode(dataset, name)
    value, rows = score(rows)
    if if_main_process():
        hours = sum(row["duration"] for row in rows) / 3600
        run.result.scores[name] = value
        run.result.data[name] = {"utterances": len(rows), "hours": hours}
        write_hypotheses(run.folder, name, rows)
        run.result.save(run.folder)
        print(f"{name}: {value}")
    return value
