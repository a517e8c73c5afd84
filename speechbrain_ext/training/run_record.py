"""What a run records of itself, before, while and after it runs."""

from __future__ import annotations

import datetime
import inspect
import logging
import os
from pathlib import Path

import speechbrain as sb
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.data.sets import about_sets
from speechbrain_ext.later import later
from speechbrain_ext.runs.files import (
    configuration_hash,
    versions,
    write_text,
    writing,
)
from speechbrain_ext.runs.result import RESULT_FILE, RunResult, load_run
from speechbrain_ext.scores.language import form_of, language_of
from speechbrain_ext.training.baseline import read_system, with_former

# Settings that do not change what is trained. All others do: a key that
# nobody thought of here makes another run, and is not passed over.
PLACES = (
    "data_folder",
    "output_folder",
    "save_folder",
    "results_folder",
    "manifest_folder",
    "train_log",
    "cache_features",
    "baseline",
    "start_from",
    "covost_folder",
    "flac_folder",
)
EVALUATION = ("loss_splits", "test_splits", "language", "test_batch_size")
MACHINE = (
    "num_workers",
    "skip_prep",
    "check_audio",
    "prepare_threads",
    "cache_gigabytes",
    "checkpoint_interval",
)
NOT_TRAINING = (*PLACES, *EVALUATION, *MACHINE)
# A run that does not know them had nothing that they are about.
ANY_VALUE = ("lr_bridge",)


def new_result(hparams: dict, datasets: dict, layers: int) -> RunResult:
    """A result with everything that is known before the run."""
    configuration = plain_settings(hparams)
    pruned = hparams["prune_layers"] > 0
    return RunResult(
        name=hparams["run_name"],
        backbone=hparams["backbone"]["name"],
        family=hparams["backbone"]["family"],
        encoder=hparams["speech_encoder"]["name"],
        task=hparams["task"],
        layers=layers,
        removed=hparams["prune_layers"],
        healing=hparams["healing"] if pruned else "none",
        adapter="lora" if _is_adapted(hparams) else None,
        seed=hparams["seed"],
        configuration=configuration,
        made_by=configuration_hash(training_settings(configuration)),
        versions=versions(),
        data=about_sets(datasets),
        started=now(),
    )


def _is_adapted(hparams):
    """Whether this system's whole decoder carries, or carried, LoRA."""
    if hparams["baseline"]:
        return read_system(hparams["baseline"])["adapter"] is not None
    return hparams["adapt_attention"]


def earlier_result(folder: str, result: RunResult) -> RunResult | None:
    """What an earlier start of this very run left, if anything.

    Arguments
    ---------
    folder : str
        The run's.
    result : RunResult
        That of today's settings.

    Returns
    -------
    RunResult or None
        Its status is "done" where nothing is left to do.

    Raises
    ------
    ValueError
        If the folder holds a run of other settings. A key that is younger
        than that run counts as what the run did without it.
    """
    if not os.path.isfile(os.path.join(folder, RESULT_FILE)):
        return None
    before = load_run(folder)
    if before.made_by != result.made_by:
        _refuse_changed(folder, before.configuration, result.configuration)
    # --debug or --optimizer_step_limit ended it early: its scores are not
    # those of these settings.
    if before.trainable and (before.steps or 0) < before.configuration["steps"]:
        before.status, before.scores, before.speed = "running", {}, {}
        before.train_peak_memory_bytes = None
    # Where training's peak is not told apart, it is in the other one.
    if before.train_peak_memory_bytes is None:
        before.peak_memory_bytes = None
    _drop_other_language(before, result.configuration)
    # A set that was added to test_splits since is still to be scored, and the
    # final loss is of loss_splits as they are now.
    losses = [r.configuration.get("loss_splits", []) for r in (before, result)]
    added = not set(before.scores) >= set(result.configuration["test_splits"])
    if added or losses[0] != losses[1]:
        before.status = "running"
    return before


def _refuse_changed(folder, theirs, ours):
    """Refuse to go on with a run of other settings (ValueError)."""
    unknown = {key: ours[key] for key in ANY_VALUE if key in ours}
    theirs = training_settings(with_former({**unknown, **theirs}))
    ours = training_settings(with_former(ours))
    changed = [
        f"{key}: {theirs.get(key)!r} there, {ours.get(key)!r} here"
        for key in sorted(set(ours) | set(theirs))
        if ours.get(key) != theirs.get(key)
    ]
    if changed:
        raise ValueError(
            f"{folder} holds a run with other settings "
            f"({'; '.join(changed[:5])}). Give another --run_name, or remove "
            "that folder."
        )


def go_on_from(before: RunResult, result: RunResult) -> None:
    """Take over what an earlier start has done already."""
    # Sets are scored after training: what has a score is final.
    result.scores, result.speed = before.scores, before.speed
    result.kept_layers, result.models = before.kept_layers, before.models
    result.peak_memory_bytes = before.peak_memory_bytes
    result.train_peak_memory_bytes = before.train_peak_memory_bytes


def _drop_other_language(before, settings):
    """Forget scores of sets that were scored as another language."""
    language = language_of(settings)
    before.scores = {
        name: one
        for name, one in before.scores.items()
        if name not in settings["test_splits"]
        or form_of(one.metric, one.language) == form_of(one.metric, language)
    }


def add_speed(speed, seconds, audio_seconds):
    """Add a set's decoding to a run's speed."""
    for key, more in (
        ("decode_seconds", seconds),
        ("audio_seconds", audio_seconds),
    ):
        speed[key] = speed.get(key, 0.0) + more
    if speed["audio_seconds"]:
        speed["real_time_factor"] = (
            speed["decode_seconds"] / speed["audio_seconds"]
        )


def training_settings(configuration):
    """The settings that decide what is trained (dict)."""
    return {k: v for k, v in configuration.items() if k not in NOT_TRAINING}


def plain_settings(hparams):
    """The plain values among the settings, for the result (dict)."""

    def plain(value):
        """A value as JSON has it."""
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or isinstance(value, (bool, int, float, str))

    return {
        key: value
        for key, value in hparams.items()
        if plain(value) and not key.startswith("__")
    }


def peak_since(device, before=None):
    """What gives the most memory held from now on; None: not measured."""
    memory = later("training.peak_memory")
    return memory.PeakMemory(device, before).bytes if memory else lambda: None


def now():
    """The time, as ISO 8601 in UTC (str)."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat()


def begin_folder(folder: str, settings: str, script) -> None:
    """A run's folder, with its settings and the file of a function."""
    # What cannot be written is told once, and not at each line of the log.
    logging.raiseExceptions = False
    with writing(folder):
        sb.create_experiment_directory(folder)
        if not if_main_process():
            return
        # SpeechBrain copies the file that asks it for the folder: this one,
        # which tells nothing about the run.
        Path(folder, os.path.basename(__file__)).unlink(missing_ok=True)
        # What a started run was made with stays, whatever is asked of it later.
        if not os.path.isfile(f"{folder}/{RESULT_FILE}"):
            keep_settings(folder, settings, script)


def keep_settings(folder, settings, script):
    """Keep with a run the YAML and the script that it was started with."""
    write_text(f"{folder}/hyperparams.yaml", settings)
    source = Path(inspect.getfile(script))
    write_text(f"{folder}/{source.name}", source.read_text("utf-8"))
