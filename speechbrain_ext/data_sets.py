"""A run's data sets: what they hold, and cached features for them.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

from speechbrain.utils.distributed import run_on_main

from speechbrain_ext.features import FeatureCache


def all_sets(datasets):
    """Every set by its name (dict of str to DynamicItemDataset).

    Arguments
    ---------
    datasets : dict
        "train" and "valid" to a set, "test" to a dict of name to set.

    Returns
    -------
    dict
    """
    sets = {name: datasets[name] for name in ("train", "valid")}
    return {**sets, **datasets["test"]}


def about_sets(datasets):
    """Utterances and hours of each set, for the result.

    Arguments
    ---------
    datasets : dict
        As in `all_sets`.

    Returns
    -------
    dict
    """
    return {
        name: {
            "utterances": len(dataset),
            "hours": sum(durations(dataset)) / 3600,
        }
        for name, dataset in all_sets(datasets).items()
    }


def durations(dataset):
    """Seconds of each utterance, in the set's order (list of float)."""
    return [float(dataset.data[i]["duration"]) for i in dataset.data_ids]


def texts(dataset):
    """Target texts of a set, as the decoder is to say them (list of str)."""
    with dataset.output_keys_as(["target"]):
        return [row["target"] for row in dataset]


def use_cached_features(datasets, folder, encoder, downsampling):
    """Let sets give features instead of waveforms, each computed once.

    Arguments
    ---------
    datasets : dict
        As in `all_sets`; changed in place.
    folder : str
        Where the caches lie, shared by all runs.
    encoder : speechbrain_ext.encoder.SpeechEncoder
        Computes what is missing.
    downsampling : int
        k, frames of one speech token.
    """
    for name, dataset in all_sets(datasets).items():
        build = dict(
            folder=os.path.join(
                folder, f"{encoder.name}-k{downsampling}", name
            ),
            encoder=encoder,
            k=downsampling,
            items=[(i, dataset.data[i]["wav"]) for i in dataset.data_ids],
        )
        run_on_main(FeatureCache.build, kwargs=build)
        cache = FeatureCache.build(**build, progress=False)
        dataset.add_dynamic_item(
            lambda i, cache=cache: cache[i], takes="id", provides="features"
        )
        keys = [key for key in dataset.pipeline.output_mapping if key != "sig"]
        dataset.set_output_keys(keys + ["features"])
