#!/usr/bin/env python3
"""Prune a speech LLM of the hub, heal it on your own recordings, score it.

    python train.py hparams/whole.yaml --data_folder DIR --backbone.source ID
    python train.py hparams/train.yaml --data_folder DIR --backbone.source ID

The first scores the model as it is; the second measures which of its decoder's
layers are redundant, removes hparams.prune_layers of them, trains what
hparams.healing opens (the paper's: LoRA on the receiving layer's MLP and the
model's own projector) and scores what is left.

The model hears through its own processor and encoder, and is asked with its own
prompt, or hparams.prompt. All else is as in recipes/OwnData: hparams.train_data,
hparams.steps of hparams.batch_size, hparams.checkpointer, hparams.score.
"""

import os
import sys

import speechbrain as sb

from speechbrain_ext.data.audio import read_place
from speechbrain_ext.data.batches import targets_of
from speechbrain_ext.data.rows import keep_lengths, read_manifest
from speechbrain_ext.data.sets import all_splits
from speechbrain_ext.layers.residual import target_loss
from speechbrain_ext.training.brain import SpeechLLMBrain
from speechllm.hub.experiment import hub_rules, open_hub_experiment
from speechllm.packaged import folder_of
from speechllm.settings import load_hparams, merge, parse_arguments

# Recordings are read as by the recipe for one's own data.
sys.path.append(str(folder_of("recipes") / "OwnData/ASR/SpeechLLM"))
from own_prepare import check_task, find_root, prepare_own  # noqa: E402


class HubBrain(SpeechLLMBrain):
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
        skip_bad=hparams["skip_bad"],
    )


def dataio_prepare(hparams, prompt):
    """Data sets from the manifests, at the rate that the model hears."""
    translated = hparams["target_language"] is not None

    @sb.utils.data_pipeline.takes("wav")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav):
        return read_place(
            wav,
            sample_rate=prompt.sample_rate,
            resample=hparams["resample"],
            mix_channels=hparams["mix_channels"],
        )

    @sb.utils.data_pipeline.takes("translation" if translated else "wrd")
    @sb.utils.data_pipeline.provides("target", "target_ids")
    def text_pipeline(text):
        yield text
        yield prompt.encode_target(text)

    root = find_root(hparams["data_folder"])

    def dataset(splits):
        rows = {}
        for split in splits:
            file = os.path.join(hparams["manifest_folder"], f"{split}.csv")
            rows.update(read_manifest(file, root))
        return sb.dataio.dataset.DynamicItemDataset(
            rows,
            [audio_pipeline, text_pipeline],
            ["id", "sig", "duration", "target", "target_ids"],
        )

    train = dataset(hparams["train_splits"])
    keep_lengths(
        train, hparams["train_min_seconds"], hparams["train_max_seconds"]
    )
    return {
        "train": train,
        "valid": dataset(hparams["valid_splits"]),
        "loss": None,
        "test": {split: dataset([split]) for split in hparams["test_splits"]},
    }


def prepare_experiment(argv):
    """The experiment of a command line, its data prepared."""
    hparams_file, run_opts, overrides = parse_arguments(argv)
    # Before anything is built: each process must know its own device.
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_hparams(hparams_file, overrides, [hub_rules])
    settings = merge(hparams_file, overrides, hparams["output_folder"])
    return open_hub_experiment(
        hparams, run_opts, settings, HubBrain, prepare, dataio_prepare
    )


if __name__ == "__main__":
    prepare_experiment(sys.argv[1:]).run()
