"""Data sets that give cached features in the place of waveforms."""

import functools

import torch

from speechbrain_ext.data.features import GIVE_UP, FeatureCache
from speechbrain_ext.data.sets import all_sets, durations


def use_cached_features(datasets, folder, encoder, downsampling):
    """Let sets give features instead of waveforms, each computed once.

    The recipe's own pipeline reads the audio; where that is changed, what it
    gave before must be deleted, or another folder given.
    """
    rank, world_size = 0, 1
    if torch.distributed.is_initialized():
        rank = torch.distributed.get_rank()
        world_size = torch.distributed.get_world_size()
    # A CPU is half again as fast on batches that fit its caches.
    batch_seconds = 30.0 if encoder.device.type == "cpu" else 120.0
    caches = {}
    for name, dataset in all_sets(datasets).items():
        places = [dataset.data[i]["wav"] for i in dataset.data_ids]
        items = zip(dataset.data_ids, zip(places, durations(dataset)))
        cache = FeatureCache(folder, encoder, downsampling, dict(items))
        cache.compute(
            encoder,
            functools.partial(_waveform, dataset),
            rank,
            world_size,
            batch_seconds,
            progress=rank == 0,
        )
        caches[name] = cache
    # Only now: nobody waits while there is something of its own to do.
    for name, dataset in all_sets(datasets).items():
        cache = caches[name]
        cache.wait(give_up=GIVE_UP * (world_size > 1))
        dataset.add_dynamic_item(
            cache.__getitem__, takes="id", provides="features"
        )
        keys = [key for key in dataset.pipeline.output_mapping if key != "sig"]
        dataset.set_output_keys(keys + ["features"])


def _waveform(dataset, utterance):
    """An utterance's waveform, as the recipe reads it."""
    row = {**dataset.data[utterance], "id": utterance}
    return dataset.pipeline.compute_specific(["sig"], row)["sig"]
