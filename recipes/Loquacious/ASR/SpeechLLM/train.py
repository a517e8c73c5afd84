#!/usr/bin/env python3
"""Train, prune and heal a speech LLM on the Loquacious set.

    python train.py hparams/small.yaml --data_folder /path/to/LoquaciousSet
    python train.py hparams/small_prune.yaml --data_folder ...

A folder or ``speechbrain/LoquaciousSet``; the audio is read from the Parquet
files themselves. To score a system that was trained elsewhere, see
evaluate.py.
"""

import os
import sys

import speechbrain as sb

from loquacious_prepare import find_root, prepare_loquacious
from speechbrain_ext.data.parquet import ParquetAudio
from speechbrain_ext.training.experiment import (
    all_splits,
    open_experiment,
    read_manifest,
)


def prepare(hparams):
    """Write the manifests of the settings' subsets."""
    prepare_loquacious(
        hparams["data_folder"],
        hparams["manifest_folder"],
        all_splits(hparams),
        skip_prep=hparams["skip_prep"],
        skip_bad=hparams["skip_bad"],
        check_audio=hparams["check_audio"],
        threads=hparams["prepare_threads"],
    )


def open_split(files, root, prompt, lowercase, cache_gigabytes):
    """A data set whose audio is read from Parquet files."""
    audio = ParquetAudio(cache_bytes=cache_gigabytes * 1e9)

    @sb.utils.data_pipeline.takes("wav", "id")
    @sb.utils.data_pipeline.provides("sig")
    def audio_pipeline(wav, name):
        return audio.read(wav, name)

    @sb.utils.data_pipeline.takes("wrd")
    @sb.utils.data_pipeline.provides("target", "target_ids")
    def text_pipeline(wrd):
        target = wrd.lower() if lowercase else wrd
        yield target
        yield prompt.encode_target(target)

    rows = {}
    for file in files:
        rows.update(read_manifest(file, root))
    dataset = sb.dataio.dataset.DynamicItemDataset(
        rows,
        [audio_pipeline, text_pipeline],
        ["id", "sig", "duration", "target", "target_ids"],
    )
    dataset.group_of = {
        name: row["wav"].rpartition(":")[0] for name, row in rows.items()
    }
    return dataset


def dataio_prepare(hparams, prompt):
    """Data sets from the manifests: what a batch holds, and where it is from."""
    root = find_root(hparams["data_folder"], all_splits(hparams))

    def dataset(splits):
        folder = hparams["manifest_folder"]
        return open_split(
            [os.path.join(folder, f"{split}.csv") for split in splits],
            root,
            prompt,
            hparams["lowercase_targets"],
            hparams["cache_gigabytes"],
        )

    return {
        "train": dataset(hparams["train_splits"]),
        "valid": dataset(hparams["valid_splits"]),
        "test": {split: dataset([split]) for split in hparams["test_splits"]},
    }


def prepare_experiment(argv):
    """The experiment of a command line, its data prepared."""
    return open_experiment(argv, prepare, dataio_prepare)


if __name__ == "__main__":
    prepare_experiment(sys.argv[1:]).run()
