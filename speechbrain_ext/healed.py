"""A pruned model, built and made ready for the healing that settings name.

Where healing looks at the unpruned model (a map in closed form,
distillation), that one is loaded, and the pruned one shares its frozen
weights: both take the memory of one.

Authors
 * The speechbrain_ext authors, 2026
"""

import copy
import random
import time

import torch
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset

from speechbrain_ext.batches import targets_of
from speechbrain_ext.blocks import kept_layers, receiving_layers
from speechbrain_ext.closed_form_map import fit_in_sequence
from speechbrain_ext.closed_form_map.states import on_device
from speechbrain_ext.decoder import Decoder
from speechbrain_ext.healing import (
    Distillation,
    TrainableSet,
    check_places,
    needs_whole,
    parts_of,
    receivers,
    uses_map,
)
from speechbrain_ext.model import SpeechLLM
from speechbrain_ext.pruning import drop_layers
from speechbrain_ext.system import build_model, choose_trained


def build_healed(experiment, removed, result):
    """The model, what of it is trained, and its teacher.

    Arguments
    ---------
    experiment : speechbrain_ext.experiment.Experiment
        The run.
    removed : Block, iterable of int or None
        Layers to leave out; nothing: a baseline.
    result : speechbrain_ext.results.RunResult
        Gets what fitting a map took and found.

    Returns
    -------
    model : speechbrain_ext.model.SpeechLLM
    trainable : speechbrain_ext.healing.TrainableSet
    distillation : speechbrain_ext.healing.Distillation or None

    Example
    -------
    >>> build_healed(experiment, [1, 2], result)  # doctest: +SKIP
    """
    hparams = experiment.hparams
    parts = parts_of(hparams) if removed else None
    whole = maps = teacher = None
    if parts is not None:
        check_before_loading(parts, removed, experiment.layers, hparams)
    if parts is not None and needs_whole(parts):
        whole = _build(experiment, None)
        model = pruned_twin(whole, removed)
    else:
        model = _build(experiment, removed)
    if parts is not None and uses_map(parts):
        began = time.monotonic()
        maps = fit_healing_maps(experiment, whole, model, parts)
        told = {str(index): one.told() for index, one in maps.items()}
        result.validation["map"] = told
        result.speed["fit_seconds"] = time.monotonic() - began
        print(f"Closed-form map: {told}")
        maps = {index: one.map for index, one in maps.items()}
    if parts is not None and parts["distillation"] is not None:
        teacher = Distillation(whole, **parts["distillation"])
    return model, choose_trained(model, hparams, removed, maps), teacher


def check_before_loading(parts, removed, num_layers, hparams):
    """Refuse a healing that has nothing to act on, before models load.

    Arguments
    ---------
    parts : dict
        As `speechbrain_ext.healing.healing_parts` gives it.
    removed : Block or iterable of int
        What is removed.
    num_layers : int
        Layers of the whole decoder.
    hparams : dict
        Keys used: healing.

    Example
    -------
    >>> from speechbrain_ext.healing import healing_parts
    >>> parts = healing_parts("map_folded")
    >>> check_before_loading(parts, [1], 4, {"healing": "map_folded"})
    """
    receiving = receiving_layers(removed, num_layers)
    kept = len(kept_layers(removed, num_layers))
    check_places(parts, receiving, kept, hparams["healing"])


def _build(experiment, removed):
    """A model of the settings on the experiment's encoder."""
    return build_model(
        experiment.hparams,
        experiment.prompt,
        removed,
        experiment.device,
        experiment.encoder,
    )


def pruned_twin(whole, removed):
    """A pruned speech LLM that shares its frozen weights with a whole one.

    Arguments
    ---------
    whole : speechbrain_ext.model.SpeechLLM
        Is left as it is.
    removed : Block or iterable of int
        Layers to leave out.

    Returns
    -------
    speechbrain_ext.model.SpeechLLM
        With a projector (and markers) of its own.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> pruned_twin(tiny_speech_llm(), [1]).decoder.kept
    (0, 2, 3)
    """
    decoder = whole.decoder
    twin = Decoder(
        drop_layers(decoder.lm, removed),
        decoder.tokenizer,
        decoder.source,
        kept_layers(removed, decoder.num_layers),
        decode_static=decoder.static is not None,
    )
    return SpeechLLM(
        whole.encoder,
        copy.deepcopy(whole.projector),
        twin,
        whole.prompt,
        whole.downsampling,
        copy.deepcopy(whole.markers),
    )


@torch.no_grad()
def fit_healing_maps(experiment, whole, model, parts):
    """The maps that a healing wants, from the experiment's own data.

    Fitted on training utterances, drawn by the run's seed; the ridge is
    chosen on validation utterances.

    Arguments
    ---------
    experiment : speechbrain_ext.experiment.Experiment
        Its data sets and settings are used.
    whole, model : speechbrain_ext.model.SpeechLLM
        The unpruned and the pruned one.
    parts : dict
        As `speechbrain_ext.healing.healing_parts` gives it.

    Returns
    -------
    dict
        Layer index to `speechbrain_ext.closed_form_map.FittedMap`.

    Example
    -------
    >>> fit_healing_maps(experiment, whole, model, parts)  # doctest: +SKIP
    """
    how, bridge = parts["map"], parts["bridge"]
    brain = experiment.make_brain(whole, TrainableSet())
    seed, sets = experiment.hparams["seed"], experiment.datasets
    removed = set(range(whole.decoder.num_layers)) - set(model.decoder.kept)
    receiving = receivers(model.decoder, removed)
    layers = check_places(parts, receiving, model.decoder.num_layers)["bridge"]
    whole.eval()
    model.eval()
    with brain.evaluation_ctx:
        return fit_in_sequence(
            whole.decoder,
            model.decoder,
            layers,
            _sequences(brain, some_of(sets["train"], how["utterances"], seed)),
            _sequences(brain, some_of(sets["valid"], how["held_out"], seed)),
            how["ridge"],
            form="folded" if bridge["form"] == "folded" else "module",
            rank=bridge["rank"],
            positions=how["positions"],
        )


def some_of(dataset, count, seed=0):
    """A few utterances of a set, drawn at random.

    Arguments
    ---------
    dataset : DynamicItemDataset
        The set.
    count : int
        How many; all, where there are fewer.
    seed : int
        Of the draw.

    Returns
    -------
    DynamicItemDataset

    Example
    -------
    >>> from speechbrain.dataio.dataset import DynamicItemDataset
    >>> dataset = DynamicItemDataset({"a": {"x": 1}, "b": {"x": 2}})
    >>> len(some_of(dataset, 1)), len(some_of(dataset, 9))
    (1, 2)
    """
    ids = list(dataset.data_ids)
    if count < len(ids):
        chosen = set(random.Random(seed).sample(ids, count))
        ids = [one for one in ids if one in chosen]
    return FilteredSortedDynamicItemDataset(dataset, ids)


def _sequences(brain, dataset):
    """This process's assembled rows of a set, held on the CPU (list)."""
    rows = []
    for batch in brain.shard(dataset):
        batch = batch.to(brain.device)
        x_BSF, tokens_B = brain.speech_of(batch)
        targets = targets_of(batch)
        sequence = brain.model.sequence(x_BSF, tokens_B, targets)
        rows.append(on_device(sequence, "cpu"))
    return rows
