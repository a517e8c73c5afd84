"""One run from settings to ``result.json``: the same for every recipe.

A recipe brings its data sets and its scorer; what happens to them is said
once, here: choose the layers, build, train or heal, evaluate, record.
"""

import argparse
import csv
import functools
import inspect
import os
import shutil
import time
from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_broadcast,
    if_main_process,
    run_on_main,
)
from transformers import AutoTokenizer

from speechbrain_ext.data.sets import (
    about_sets,
    refuse_lengths,
    texts,
    use_cached_features,
)
from speechbrain_ext.healing.apply import TrainableSet
from speechbrain_ext.layers.distances import RedundancyTable
from speechbrain_ext.layers.plans import load_plans
from speechbrain_ext.layers.removal import kept_layers, ranges
from speechbrain_ext.layers.residual import UTTERANCES
from speechbrain_ext.layers.rules import RULES
from speechbrain_ext.model.decoder import decoder_config
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.runs.files import write_hypotheses, write_losses
from speechbrain_ext.runs.result import RESULT_FILE
from speechbrain_ext.training.brain import SpeechLLMBrain
from speechbrain_ext.training.build import (
    build_healed,
    build_model,
    check_baseline,
    identify,
    save_trained,
)
from speechbrain_ext.training.choose_layers import (
    INPUTS,
    measure_speech,
    measure_text,
    plan_lines,
    read_path,
    search_plans,
    table_file,
    whose_path,
)
from speechbrain_ext.training.run_record import (
    PeakMemory,
    add_speed,
    earlier_result,
    new_result,
    now,
)
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.hparams import load_hparams, merge
from speechllm.hparams.command_line import parse_arguments


def load_prompt(hparams):
    """The prompt of the settings, in the backbone's own tokens.

    Arguments
    ---------
    hparams : dict
        Keys used: backbone, prompt, chat_template.

    Returns
    -------
    speechbrain_ext.model.prompt.Prompt
    """
    backbone = hparams["backbone"]
    tokenizer = AutoTokenizer.from_pretrained(
        backbone["source"],
        revision=backbone.get("revision"),
        trust_remote_code=False,
    )
    return Prompt.from_template(
        tokenizer, hparams["prompt"], hparams["chat_template"]
    )


class Experiment:
    """A run: its settings, its data, and what it leaves behind.

    Arguments
    ---------
    hparams : dict
        The recipe's settings, objects built.
    run_opts : speechbrain.utils.run_opts.RunOptions
        From the command line.
    datasets : dict
        "train" and "valid" to a DynamicItemDataset, "test" to a dict of name
        to DynamicItemDataset.
    prompt : speechbrain_ext.model.prompt.Prompt
        What stands around the speech.
    score : callable
        Rows of id, reference, hypothesis, duration to (SetScore, rows).
    """

    def __init__(self, hparams, run_opts, datasets, prompt, score):
        self.hparams = hparams
        self.run_opts = run_opts
        self.datasets = datasets
        self.prompt = prompt
        self.score = score
        self.folder = hparams["output_folder"]
        self.device = run_opts.device or sb.utils.distributed.infer_device()
        self.layers = decoder_config(
            hparams["backbone"]["source"], hparams["backbone"].get("revision")
        ).num_hidden_layers

    @functools.cached_property
    def encoder(self):
        """The frozen encoder, loaded when it is first needed.

        With cached features the sets give these instead of waveforms from
        then on.
        """
        encoder = self.hparams["load_encoder"](device=self.device)
        refuse_lengths(self.datasets, encoder, self.hparams["skip_bad"])
        if self.hparams["cache_features"]:
            use_cached_features(
                self.datasets,
                self.hparams["cache_features"],
                encoder,
                self.hparams["downsampling"],
            )
        return encoder

    def run(self):
        """Everything; a failure is recorded as one, and raised.

        Returns
        -------
        speechbrain_ext.runs.result.RunResult
        """
        result = new_result(self.hparams, self.datasets, self.layers)
        before = earlier_result(self.folder, result)
        # No process may find what another of this very start has written.
        ddp_barrier()
        if before is not None and before.status == "done":
            print(f"{self.folder} is finished already; nothing to do.")
            return before
        if before is not None:
            # Sets are scored after training: what has a score is final.
            result.scores, result.speed = before.scores, before.speed
            result.kept_layers = before.kept_layers
            result.peak_memory_bytes = before.peak_memory_bytes
            result.train_peak_memory_bytes = before.train_peak_memory_bytes
        try:
            self.train_and_evaluate(result)
        except BaseException as error:
            result.status = "failed"
            result.error = f"{type(error).__name__}: {error}"
            self._save(result)
            raise
        return result

    def train_and_evaluate(self, result):
        """Choose layers, build, train, evaluate; fill the result."""
        self._save(result)
        hparams = self.hparams
        block, result.path = self.choose_block()
        self._check_resumed(block, result.kept_layers)
        model, trainable, teacher = build_healed(self, block, result)
        # The encoder may have left out what it cannot take.
        result.data = about_sets(self.datasets)
        brain = self.make_brain(model, trainable, hparams["checkpointer"])
        brain.distillation = teacher
        result.kept_layers = list(model.decoder.kept)
        result.start = block.start if block else None  # None with holes too
        result.trainable = trainable.counts()
        # What goes on later must be this model.
        self._save(result)
        peak = PeakMemory(self.device, result.train_peak_memory_bytes)
        brain.fit(self.datasets["train"], self.datasets["valid"])
        if trainable.named():
            result.train_peak_memory_bytes = peak.bytes()
        if not brain.history:
            brain.history = [
                {
                    "step": 0,
                    "valid_loss": brain.validate(self.datasets["valid"]),
                }
            ]
        if brain.losses is None:  # the last step was taken by an earlier start
            brain.validate(self.datasets["valid"])
        run_on_main(write_losses, args=[self.folder, brain.losses])
        result.steps = brain.optimizer_step
        result.validation.update(
            history=brain.history,
            final_loss=brain.history[-1].get("valid_loss"),
        )
        run_on_main(save_trained, args=[model, self.folder, identify(hparams)])
        result.speed["train_seconds"] = brain.train_seconds
        del teacher
        brain.end_training()
        self.evaluate(brain, result)
        result.status = "done"
        result.finished = now()
        self._save(result)

    def evaluate(self, brain, result):
        """Decode and score every test set, saving after each."""
        if not self.datasets["test"]:
            print("test_splits is empty: trained, and nothing was scored.")
        peak = PeakMemory(self.device, result.peak_memory_bytes)
        for name, dataset in self.datasets["test"].items():
            if name in result.scores:
                continue
            began = time.monotonic()
            rows = brain.decode(dataset, name)
            seconds = time.monotonic() - began
            result.scores[name], rows = self.score(rows)
            audio = sum(row["duration"] for row in rows)
            add_speed(result.speed, seconds, audio)
            result.peak_memory_bytes = peak.bytes()
            if if_main_process():
                write_hypotheses(self.folder, name, rows)
                print(f"{name}: {result.scores[name]}")
            self._save(result)

    def make_brain(self, model, trainable, checkpointer=None):
        """The Brain of this run's settings (SpeechLLMBrain)."""
        return SpeechLLMBrain(
            model, trainable, self.hparams, self.run_opts, checkpointer
        )

    def choose_block(self):
        """The layers this run removes, and whose path chose them."""
        size = self.hparams["prune_layers"]
        if not size:
            return None, None
        wanted = self.hparams["path_from"]
        file = wanted
        if wanted in INPUTS:
            file = self.table(wanted)
        name = self.hparams["backbone"]["name"]
        block, about = read_path(file, size, self.layers, name)
        print(
            f"Removing layers {ranges(block.removed)} of {name}'s "
            f"{self.layers} (path from {wanted})."
        )
        return block, {"from": whose_path(wanted, about), **about}

    def _check_resumed(self, block, before):
        """Refuse to go on where a path names other layers than it did."""
        kept = list(kept_layers(block, self.layers))
        if before is not None and before != kept:
            raise ValueError(
                f"path_from: {self.hparams['path_from']} keeps layers "
                f"{ranges(kept)}, but {self.folder} was begun with "
                f"{ranges(before)}. Give another --run_name, or remove that "
                "folder."
            )

    def table(self, kind):
        """The file of the baseline's table; measured where it is missing.

        Arguments
        ---------
        kind : str
            "speech" or "text".

        Returns
        -------
        str
        """
        folder = self.hparams["baseline"] or self.folder
        file = table_file(folder, kind, self.hparams["position"])
        # The main process decides: another may look when it is written.
        if not ddp_broadcast(os.path.isfile(file), src=0):
            self.measure(kind)
        return file

    def whole_brain(self):
        """The Brain of the trained, unpruned system (SpeechLLMBrain)."""
        hparams = self.hparams
        settings = {**hparams, "baseline": hparams["baseline"] or self.folder}
        model = build_model(
            settings, self.prompt, None, self.device, self.encoder
        )
        return self.make_brain(model, TrainableSet())

    def measure(self, kind):
        """Measure the baseline's redundancy table and save it."""
        hparams = self.hparams
        folder = hparams["baseline"] or self.folder
        file = table_file(folder, kind, hparams["position"])
        print(f"Measuring redundancy on {kind} into {file}")
        about = {
            "model": hparams["backbone"]["name"],
            "encoder": hparams["speech_encoder"]["name"],
            "task": hparams["task"],
            "run": os.path.basename(os.path.normpath(folder)),
            "data": list(hparams["valid_splits"]),
        }
        began = time.monotonic()
        if kind == "speech":
            table = measure_speech(
                self.whole_brain(),
                self.datasets["valid"],
                about,
                hparams["position"],
            )
        else:
            about.pop("encoder")
            table = measure_text(
                hparams["load_decoder"](device=self.device),
                self.prompt,
                texts(self.datasets["valid"]),
                about,
                hparams["test_batch_size"],
                position=hparams["position"],
                prompted=hparams["text_input"] == "prompted",
            )
        table.provenance["seconds"] = time.monotonic() - began
        run_on_main(table.save, args=[file])
        return file

    def _save(self, result):
        """Write ``result.json``, on the main process."""
        if if_main_process():
            result.save(self.folder)


# ----------------------------------------------------------------------------
# What the scripts of every recipe do alike.
#
# A recipe's ``train.py`` keeps what is its own in plain sight (how its data are
# prepared, what an utterance is); its ``measure.py`` is two lines.

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
        Settings and `speechbrain_ext.model.prompt.Prompt` to the data sets, as
        `speechbrain_ext.training.experiment.Experiment` takes them.

    Returns
    -------
    speechbrain_ext.training.experiment.Experiment
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
    run : speechbrain_ext.training.trained_run.TrainedRun
        Its ``result.json`` gets the score and the set's size.
    brain : speechbrain_ext.training.brain.EvaluationBrain
        With the run's model.
    dataset : DynamicItemDataset
        The set.
    name : str
        What the set is called there.
    score : callable
        Rows to (SetScore, rows).

    Returns
    -------
    speechbrain_ext.runs.result.SetScore
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
