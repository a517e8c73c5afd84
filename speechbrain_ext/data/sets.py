"""A run's data sets: what they hold."""

from __future__ import annotations

from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.later import later


def all_splits(hparams: dict) -> list[str]:
    """The splits for training, validation, comparison of losses and test."""
    kinds = ("train_splits", "valid_splits", "loss_splits", "test_splits")
    return [split for kind in kinds for split in hparams.get(kind, [])]


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
    parquet = later("data.row_groups")
    if parquet is None:
        return None
    rows = (dataset.data[i] for i in dataset.data_ids)
    groups = [parquet.row_group(row.get("wav", "")) for row in rows]
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
