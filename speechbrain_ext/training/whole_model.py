"""Healing that looks at the unpruned model: maps in closed form, distillation.

That model is loaded, and the pruned one shares its frozen weights: both take
the memory of one.
"""

from __future__ import annotations

import copy
import random

import torch
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset

from speechbrain_ext.data.batches import targets_of, to_device
from speechbrain_ext.healing.apply import TrainableSet, check_places
from speechbrain_ext.healing.closed_form import fit_in_sequence, on_device
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.speech_llm import SpeechLLM


def pruned_twin(whole, removed):
    """A pruned speech LLM that shares its frozen weights with a whole one."""
    decoder = whole.decoder
    twin = Decoder(
        drop_layers(decoder.lm, removed),
        decoder.tokenizer,
        decoder.source,
        Removal.of(removed, decoder.num_layers).kept,
        decode_static=decoder.static is not None,
        padding_free=decoder.pack is not None,
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
def fit_healing_maps(experiment, whole, model, healing):
    """The maps that a healing wants, from the experiment's own data."""
    how, bridge = healing.map, healing.bridge
    brain = experiment.make_brain(whole, TrainableSet())
    seed, sets = experiment.hparams["seed"], experiment.datasets
    num_layers = whole.decoder.num_layers
    gone = set(range(num_layers)) - set(model.decoder.kept)
    layers = check_places(healing, Removal.of(gone, num_layers))["bridge"]
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
    """A few utterances of a set, drawn at random."""
    ids = list(dataset.data_ids)
    if count < len(ids):
        chosen = set(random.Random(seed).sample(ids, count))
        ids = [name for name in ids if name in chosen]
    return FilteredSortedDynamicItemDataset(dataset, ids)


def _sequences(brain, dataset):
    """This process's assembled rows of a set, held on the CPU (list)."""
    rows = []
    for batch in brain.shard(dataset):
        batch = to_device(batch, brain.device)
        x_BSF, tokens_B = brain.speech_of(batch)
        targets = targets_of(batch)
        sequence = brain.model.sequence(x_BSF, tokens_B, targets)
        sequence.names = batch.id
        rows.append(on_device(sequence, "cpu"))
    return rows
