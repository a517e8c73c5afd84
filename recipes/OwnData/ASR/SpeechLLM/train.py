#!/usr/bin/env python3
"""Train, prune and heal a speech LLM on your own recordings and their text.

    python train.py hparams/small.yaml --data_folder /path/to/your/data
    python train.py hparams/small_prune.yaml --data_folder ...

The first trains a baseline: a frozen speech encoder, a trained projector and
a frozen LLM. The second takes that baseline, removes the decoder layers that
its measured pruning path names, heals what is left and evaluates it.

A run (`Experiment.train_and_evaluate`), and the settings that it goes by:

- Layers: hparams.prune_layers leave the decoder, those that hparams.path_from
  finds most redundant in hparams.baseline. Its tables are measured at
  hparams.position, on text as hparams.text_input puts it.
- Model: hparams.load_encoder and hparams.load_decoder, both frozen; between
  them hparams.downsampling, hparams.projector_hidden, hparams.speech_markers,
  and the words of hparams.prompt and hparams.chat_template.
  hparams.cache_features keeps the encoder's word on the disk, that on copies
  by hparams.speed_perturb and hparams.noise_snr too. Training starts at random,
  or from hparams.start_from; hparams.projector_dropout and
  hparams.weight_decay keep it from learning by heart.
- Trained: the projector, and hparams.lora with hparams.adapt_attention; on a
  pruned decoder what hparams.healing, or one's own hparams.healing_parts,
  opens.
  hparams.objective: the answer's loss, or CTC for a projector to start from.
- Steps, not epochs: hparams.steps of hparams.batch_size utterances, or of
  hparams.batch_seconds, as hparams.length_pool puts them together, read by
  hparams.num_workers. Adam (hparams.adam_betas) has the peak rates
  hparams.lr_projector, hparams.lr_adapter and hparams.lr_bridge, between
  hparams.warmup_steps and hparams.warmdown_steps. hparams.valid_interval tells
  hparams.train_logger; hparams.checkpoint_interval has hparams.checkpointer
  save, and a run that was stopped goes on from there. hparams.keep: what is
  used is the last step, or the best.
- Scores: greedy answers to hparams.test_batch_size utterances at a time, up to
  hparams.max_new_tokens and hparams.max_tokens_per_second, then
  hparams.score. ``result.json`` tells all of it, as hparams.task.
"""

import os
import sys

import speechbrain as sb

from own_prepare import check_task, find_root, prepare_own
from speechbrain_ext.data.audio import read_place
from speechbrain_ext.data.augment import perturbed, with_copies
from speechbrain_ext.data.batches import targets_of
from speechbrain_ext.data.rows import keep_lengths, read_manifest
from speechbrain_ext.data.sets import all_splits
from speechbrain_ext.layers.residual import target_loss
from speechbrain_ext.training.alignment import AlignmentBrain
from speechbrain_ext.training.brain import SpeechLLMBrain
from speechbrain_ext.training.experiment import open_experiment
from speechbrain_ext.training.settings import speechllm_rules
from speechllm.command import run_command
from speechllm.settings import load_hparams, merge, parse_arguments


class OwnData(SpeechLLMBrain):
    """What is learned: change the loss here, and nothing else has to know."""

    def compute_forward(self, batch, stage):
        """Logits and labels of the target tokens; a teacher's logits or None."""
        inputs = (*self.speech_of(batch), targets_of(batch))
        logits_NV, labels_N = self.modules.model(*inputs)
        return logits_NV, labels_N, self.teacher_logits(inputs, stage)

    def compute_objectives(self, predictions, batch, stage):
        """Summed negative log-likelihood of the targets (paper, 2.1)."""
        logits_NV, labels_N, teacher_NV = predictions
        if teacher_NV is not None:
            return self.distillation.loss(logits_NV, teacher_NV, labels_N)
        return target_loss(logits_NV, labels_N)


def prepare(hparams):
    """Write the manifests of the settings' splits."""
    prepare_own(
        hparams["data_folder"],
        hparams["manifest_folder"],
        all_splits(hparams),
        given={
            "train": hparams["train_data"],
            "valid": hparams["valid_data"],
            "test": hparams["test_data"],
        },
        split=hparams["split"],
        form=hparams["format"],
        translated=check_task(hparams["task"], hparams["target_language"]),
        resample=hparams["resample"],
        mix_channels=hparams["mix_channels"],
        skip_prep=hparams["skip_prep"],
        skip_bad=hparams["skip_bad"],
        check_audio=hparams["check_audio"],
        threads=hparams["prepare_threads"],
    )


def dataio_prepare(hparams, prompt):
    """Data sets from the manifests: what a batch holds, and where it is from."""
    translated = hparams["target_language"] is not None

    @sb.utils.data_pipeline.takes("id", "wav", "copy")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(name, wav, copy):
        sig = read_place(
            wav,
            resample=hparams["resample"],
            mix_channels=hparams["mix_channels"],
        )
        return perturbed(sig, name, copy)

    @sb.utils.data_pipeline.takes("translation" if translated else "wrd")
    @sb.utils.data_pipeline.provides("target", "target_ids")
    def text_pipeline(text):
        target = text.lower() if hparams["lowercase_targets"] else text
        yield target
        yield prompt.encode_target(target)

    root = find_root(hparams["data_folder"])

    def dataset(splits, speeds=(), snrs=()):
        rows = {}
        for split in splits:
            file = os.path.join(hparams["manifest_folder"], f"{split}.csv")
            rows.update(read_manifest(file, root))
        return sb.dataio.dataset.DynamicItemDataset(
            with_copies(rows, speeds, snrs),
            [audio_pipeline, text_pipeline],
            ["id", "sig", "duration", "target", "target_ids"],
        )

    train = dataset(
        hparams["train_splits"], hparams["speed_perturb"], hparams["noise_snr"]
    )
    keep_lengths(
        train, hparams["train_min_seconds"], hparams["train_max_seconds"]
    )
    compared = hparams["loss_splits"]
    return {
        "train": train,
        "valid": dataset(hparams["valid_splits"]),
        "loss": dataset(compared) if compared else None,
        "test": {split: dataset([split]) for split in hparams["test_splits"]},
    }


def prepare_experiment(argv):
    """The experiment of a command line, its data prepared."""
    hparams_file, run_opts, overrides = parse_arguments(argv)
    # Before anything is built: each process must know its own device.
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides, [speechllm_rules])
    settings = merge(hparams_file, overrides, hparams["output_folder"])
    brain = AlignmentBrain if hparams["objective"] == "ctc" else OwnData
    return open_experiment(
        hparams, run_opts, settings, brain, prepare, dataio_prepare
    )


if __name__ == "__main__":
    run_command(lambda: prepare_experiment(sys.argv[1:]).run())
