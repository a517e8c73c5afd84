"""One run from settings to ``result.json``: the same for every recipe.

A recipe brings its data sets, its loss and its scorer; what happens to them
is said once, in `Experiment.train_and_evaluate`.
"""

from __future__ import annotations

import time
from contextlib import nullcontext, suppress

import speechbrain as sb
from speechbrain.utils.distributed import ddp_barrier, if_main_process

from speechbrain_ext.data.sets import about_sets, refuse_lengths
from speechbrain_ext.healing.apply import TrainableSet
from speechbrain_ext.later import later
from speechbrain_ext.layers.surgery import source_place
from speechbrain_ext.runs.files import write_hypotheses, write_losses
from speechbrain_ext.runs.result import RunResult
from speechbrain_ext.training.baseline import identify
from speechbrain_ext.training.build import (
    build_from_settings,
    build_healed,
    load_prompt,
    save_trained,
)
from speechbrain_ext.training.choose_layers import choose_layers, measure_table
from speechbrain_ext.training.processes import ended_by, run_on_main, watch
from speechbrain_ext.training.run_record import (
    add_speed,
    begin_folder,
    earlier_result,
    go_on_from,
    new_result,
    now,
    peak_since,
)


def open_experiment(
    hparams, run_opts, settings, brain_class, prepare, dataio_prepare
):
    """A run's folder, manifests and data sets, from settings that are read.

    Arguments
    ---------
    hparams : dict
        The recipe's settings, objects built.
    run_opts : speechbrain.utils.run_opts.RunOptions
        From the command line; the process group stands already.
    settings : str
        The YAML that `hparams` came from, kept with the run.
    brain_class : type
        The recipe's `speechbrain_ext.training.brain.SpeechLLMBrain`.
    prepare : callable
        Settings to nothing: writes the manifests. Called on the main process
        alone, before the others go on.
    dataio_prepare : callable
        Settings and `speechbrain_ext.model.prompt.Prompt` to the data sets, as
        `Experiment` takes them. Its script is kept with the run.

    Returns
    -------
    Experiment
    """
    if checks := later("training.baseline_checks"):
        checks.check_baseline(hparams)
    folder = hparams["output_folder"]
    begin_folder(folder, settings, dataio_prepare)
    run_on_main(prepare, [hparams])
    prompt = load_prompt(hparams)
    datasets = dataio_prepare(hparams, prompt)
    return Experiment(brain_class, hparams, run_opts, datasets, prompt)


class Experiment:
    """A run: its settings, its data, and what it leaves behind.

    Arguments
    ---------
    brain_class : type
        The recipe's Brain: says what the loss is.
    hparams : dict
        The recipe's settings, objects built.
    run_opts : speechbrain.utils.run_opts.RunOptions
        From the command line.
    datasets : dict
        "train" and "valid" to a DynamicItemDataset, "test" to a dict of name
        to DynamicItemDataset. "loss", if it is there, is what the final loss
        is of; nothing is tuned or chosen by it.
    prompt : speechbrain_ext.model.prompt.Prompt
        What stands around the speech.
    """

    def __init__(self, brain_class, hparams, run_opts, datasets, prompt):
        self.brain_class = brain_class
        self.hparams = hparams
        self.run_opts = run_opts
        self.datasets = datasets
        self.prompt = prompt
        # Rows of id, reference, hypothesis, duration to (SetScore, rows).
        self.score = hparams["score"]
        self.folder = hparams["output_folder"]
        # Whose layers are measured: an unpruned run is its own baseline.
        self.baseline = hparams["baseline"] or self.folder
        self.device = run_opts.device or sb.utils.distributed.infer_device()
        place, config = source_place(
            hparams["backbone"]["source"], hparams["backbone"].get("revision")
        )
        self.layers = place.decoder_config(config).num_hidden_layers
        self.encoder = None

    def run(self) -> RunResult:
        """Everything; a failure is recorded as one, and raised."""
        folders = later("runs.folders") if if_main_process() else None
        with folders.alone(self.folder) if folders else nullcontext():
            return self._run()

    def _run(self):
        result = new_result(self.hparams, self.datasets, self.layers)
        before = earlier_result(self.folder, result)
        # No process may find what another of this very start has written.
        ddp_barrier()
        if before is not None:
            if before.status == "done":
                print(f"{self.folder} is finished already; nothing to do.")
                return before
            go_on_from(before, result)

        def fail(why):
            """Note why this run did not end as it should."""
            if result.status != "done":
                result.status, result.error = "failed", why
                self.save(result)

        if watch():
            watch().record = fail
        try:
            self.train_and_evaluate(result)
        except BaseException as error:
            ended_by(error)
            # On a full disk what was running stays so, which is as good.
            with suppress(OSError):
                fail(f"{type(error).__name__}: {error}")
            raise
        return result

    def train_and_evaluate(self, result):
        """The steps of a run; each fills in its part of the result."""
        self.save(result)
        removed, result.path = choose_layers(self, result.kept_layers)
        brain = self.build(removed, result)
        self.train(brain, result)
        brain.end_training()
        self.evaluate(brain, result)
        result.status, result.finished = "done", now()
        self.save(result)

    def build(self, removed, result):
        """The Brain of the model that is trained, or healed."""
        if prints := later("training.fingerprint"):
            told = prints.models_of(self.hparams, result.models, self.folder)
            result.models = told
        model, trainable, teacher = build_healed(self, removed, result)
        # The encoder may have left out what it cannot take.
        result.data = about_sets(self.datasets)
        result.kept_layers = list(model.decoder.kept)
        # None with holes too.
        result.start = removed.start if removed else None
        result.trainable = trainable.counts()
        brain = self.make_brain(model, trainable, self.hparams["checkpointer"])
        brain.distillation = teacher
        # What goes on later must be this model.
        self.save(result)
        return brain

    def train(self, brain, result):
        """Train to the last step; write losses and weights of the kept one."""
        valid = self.datasets["valid"]
        peak = peak_since(self.device, result.train_peak_memory_bytes)
        brain.fit(self.datasets["train"], valid)
        if brain.trainable.named():
            result.train_peak_memory_bytes = peak()
        if not brain.history:
            loss = brain.validate(valid)
            brain.history = [{"step": 0, "valid_loss": loss}]
        final_loss = brain.history[-1].get("valid_loss")
        if self.hparams.get("keep") == "best" and brain.trainable.named():
            result.validation["kept_step"] = brain.use_best()
        compared = self.datasets.get("loss")
        if compared:
            final_loss = brain.validate(compared)
        elif brain.losses is None:  # of other weights, or another start's
            final_loss = brain.validate(valid)
        result.steps = brain.optimizer_step
        result.validation.update(history=brain.history, final_loss=final_loss)
        result.speed["train_seconds"] = brain.train_seconds
        run_on_main(write_losses, [self.folder, brain.losses])
        about = self.identify()
        run_on_main(save_trained, [brain.model, self.folder, about])

    def evaluate(self, brain, result):
        """Decode and score every test set, saving after each."""
        if not self.datasets["test"]:
            print("test_splits is empty: nothing is scored.")
        peak = peak_since(self.device, result.peak_memory_bytes)
        for name, dataset in self.datasets["test"].items():
            if name in result.scores:
                continue
            began = time.monotonic()
            rows = brain.decode(dataset, name)
            seconds = time.monotonic() - began
            result.scores[name], rows = self.score(rows)
            audio = sum(row["duration"] for row in rows)
            add_speed(result.speed, seconds, audio)
            result.peak_memory_bytes = peak()
            if if_main_process():
                write_hypotheses(self.folder, name, rows)
                print(f"{name}: {result.scores[name]}")
            self.save(result)

    def identify(self) -> dict:
        """What the trained parts belong to, for ``system.json``."""
        return identify(self.hparams)

    def twin(self, whole, removed):
        """A whole model without some layers, over the same frozen weights."""
        return later("training.whole_model").pruned_twin(whole, removed)

    def measure(self, kind: str) -> str:
        """Measure the redundancy on "speech" or "text"; gives the file."""
        return measure_table(self, kind)

    def open_encoder(self):
        """Load the frozen encoder and fit the data sets to it, once.

        Utterances that it cannot take are refused or left out; with cached
        features the sets give these instead of waveforms from then on.
        """
        if self.encoder is not None:
            return
        encoder = self.hparams["load_encoder"](device=self.device)
        refuse_lengths(self.datasets, encoder, self.hparams["skip_bad"])
        if self.hparams["cache_features"]:
            cached = later("data.cached_sets", "cache_features")
            cached.use_cached_features(
                self.datasets,
                self.hparams["cache_features"],
                encoder,
                self.hparams["downsampling"],
            )
        # Only now: what was refused is refused again.
        self.encoder = encoder

    def build_model(self, removed=None, baseline=None):
        """A model of the settings, of this baseline or theirs."""
        self.open_encoder()
        hparams = self.hparams
        if baseline is not None:
            hparams = {**hparams, "baseline": baseline}
        return build_from_settings(
            hparams, self.encoder, self.prompt, removed, self.device
        )

    def make_brain(self, model, trainable, checkpointer=None):
        """The recipe's Brain with this run's settings."""
        return self.brain_class(
            model, trainable, self.hparams, self.run_opts, checkpointer
        )

    def whole_brain(self):
        """The Brain of the trained, unpruned system."""
        model = self.build_model(baseline=self.baseline)
        return self.make_brain(model, TrainableSet())

    def save(self, result):
        """Write ``result.json``, on the main process."""
        if if_main_process():
            result.save(self.folder)
