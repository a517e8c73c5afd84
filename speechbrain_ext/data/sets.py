"""A run's data sets: what they hold, and cached features for them."""

from __future__ import annotations

import csv
import functools

import torch
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.data.batches import row_group

ROOT = "$data_root"


def all_splits(hparams: dict) -> list[str]:
    """The splits for training, validation, comparison of losses and test."""
    kinds = ("train_splits", "valid_splits", "loss_splits", "test_splits")
    return [split for kind in kinds for split in hparams.get(kind, [])]


def read_manifest(file: str, root: str = "") -> dict:
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

    Raises
    ------
    ValueError
        If it lacks one of these columns.
    """
    rows = {}
    with open(file, newline="", encoding="utf-8") as stream:
        table = csv.DictReader(stream)
        there = table.fieldnames or []
        lacking = {"ID", "duration", "wav"}.difference(there)
        if lacking:
            raise ValueError(
                f"{file}: no manifest: no column {', '.join(sorted(lacking))} "
                f"(there is {', '.join(there) or 'nothing'}): prepare the data "
                "again"
            )
        for row in table:
            row["duration"] = float(row["duration"])
            if row["wav"].startswith(ROOT):
                row["wav"] = root + row["wav"][len(ROOT) :]
            rows[row.pop("ID")] = row
    return rows


def speaker_of(row: dict) -> str | None:
    """Who speaks in a manifest's row, by its `spk_id`; None: not known."""
    speaker = str(row.get("spk_id") or "").strip()
    return None if speaker in ("", "unknown") else speaker


def all_sets(datasets):
    """Every set by its name (dict of str to DynamicItemDataset)."""
    names = ["train", "valid", *(["loss"] if datasets.get("loss") else [])]
    return {**{name: datasets[name] for name in names}, **datasets["test"]}


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


def refuse_lengths(datasets, encoder, skip=False):
    """Find utterances that the encoder does not take, before long work."""
    rate = encoder.sample_rate
    # One frame suffices for a speech token, which is filled up with zeros.
    # Half a sample less: a duration in seconds is rounded.
    least = (encoder.min_samples - 0.5) / rate
    bounds = [
        (
            lambda seconds: seconds < least,
            f"shorter than the {encoder.min_samples / rate:.4f} s that one "
            f"frame of {encoder.name} needs",
            "",
        )
    ]
    if encoder.max_samples is not None and encoder.long_audio != "chunk":
        most = encoder.max_samples / rate
        bounds.append(
            (
                lambda seconds: seconds > most,
                f"longer than the {most:.1f} s that {encoder.name} takes",
                ", cut them with long_audio: chunk where the YAML has it",
            )
        )
    for name, dataset in all_sets(datasets).items():
        for is_bad, why, mend in bounds:
            _refuse_where(is_bad, name, dataset, why, mend, skip)


def _refuse_where(is_bad, name, dataset, why, mend, skip):
    """Refuse a set's utterances of some lengths, or leave them out."""
    seconds = dict(zip(dataset.data_ids, durations(dataset)))
    bad = [i for i, length in seconds.items() if is_bad(length)]
    if not bad:
        return
    told = ", ".join(f"{i} ({seconds[i]:.4g} s)" for i in bad[:10])
    if len(bad) > 10:
        told += f" and {len(bad) - 10} more"
    if not skip:
        raise ValueError(
            f"{name}: {len(bad)} utterances are {why}: {told}. Leave them "
            f"out with --skip_bad True{mend}, or take another encoder."
        )
    if if_main_process():
        print(f"{name}: left out as {why}: {told}")
    left_out = set(bad)
    dataset.data_ids = [i for i in dataset.data_ids if i not in left_out]


def keep_lengths(dataset, shortest, longest):
    """Train on clips of some lengths alone, and say how many those are.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The training set; changed in place.
    shortest, longest : float
        Bounds in seconds, themselves included.

    Raises
    ------
    ValueError
        If nothing is left.
    """
    seconds = dict(zip(dataset.data_ids, durations(dataset)))
    short = sum(length < shortest for length in seconds.values())
    long = sum(length > longest for length in seconds.values())
    told = (
        f"{short} shorter than train_min_seconds {shortest}, {long} longer "
        f"than train_max_seconds {longest}"
    )
    if short + long == len(seconds):
        raise ValueError(
            f"train: none of {len(seconds)} utterances is left, {told}: give "
            "other bounds"
        )
    dataset.data_ids = [
        i for i, length in seconds.items() if shortest <= length <= longest
    ]
    if if_main_process():
        print(
            f"train: {len(dataset)} of {len(seconds)} utterances are trained "
            f"on, {sum(durations(dataset)) / 3600:.2f} hours; {told}"
        )


def texts(dataset):
    """Target texts of a set, as the decoder is to say them (list of str).

    Arguments
    ---------
    dataset : DynamicItemDataset
        With the key target.

    Returns
    -------
    list of str
    """
    with dataset.output_keys_as(["target"]):
        return [row["target"] for row in dataset]


def groups_of(dataset):
    """Row groups of utterances in Parquet files (list of str), or None."""
    rows = (dataset.data[i] for i in dataset.data_ids)
    groups = [row_group(row.get("wav", "")) for row in rows]
    return groups if any(groups) else None


def seconds_of(dataset):
    """An utterance's index in the set to its seconds (callable)."""
    rows, names = dataset.data, dataset.data_ids
    return lambda index: float(rows[names[index]]["duration"])


def positions_of(dataset, per_second):
    """How many positions of the LLM an utterance takes, about.

    The prompt's, the same for all, are left out.

    Arguments
    ---------
    dataset : DynamicItemDataset
        With the key target_ids.
    per_second : float
        Speech tokens a second.

    Returns
    -------
    callable
        An utterance's index in the set to its length (float). No audio is
        read for it.
    """

    seconds = seconds_of(dataset)

    def positions(index):
        """Those of its speech and of its target."""
        name = dataset.data_ids[index]
        row = {**dataset.data[name], "id": name}
        ids = dataset.pipeline.compute_specific(["target_ids"], row)
        return seconds(index) * per_second + len(ids["target_ids"])

    return positions


def use_cached_features(datasets, folder, encoder, downsampling):
    """Let sets give features instead of waveforms, each computed once.

    The recipe's own pipeline reads the audio; where that is changed, what it
    gave before must be deleted, or another folder given.
    """
    from speechbrain_ext.data.features import GIVE_UP, FeatureCache

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
