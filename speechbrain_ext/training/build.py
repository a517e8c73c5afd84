"""From settings to a speech LLM, and a trained one to and from its folder.

A finished run leaves ``trained/``: the projector (safetensors), the adapter
(PEFT's own format), bridges and folded maps (safetensors) and
``system.json``, which says what they belong to.
Backbone and encoder are named there, never copied.
"""

import copy
import os
import random
import time

import torch
from safetensors.torch import load_file, save_file
from speechbrain.dataio.dataset import FilteredSortedDynamicItemDataset
from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.data.batches import targets_of
from speechbrain_ext.healing.apply import (
    TrainableSet,
    check_places,
    heal,
    train_parts,
)
from speechbrain_ext.healing.bridge import bridges_of, save_bridges
from speechbrain_ext.healing.closed_form import (
    fit_in_sequence,
    on_device,
    save_folds,
)
from speechbrain_ext.healing.distillation import Distillation
from speechbrain_ext.healing.frozen_adapter import (
    put_frozen_adapter,
    updates_of,
)
from speechbrain_ext.healing.lora import ADAPTER, ATTENTION, save_adapter
from speechbrain_ext.healing.presets import Healing
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder_load import (
    load_config,
    load_extractor,
    normalises,
)
from speechbrain_ext.model.speech_llm import Projector, SpeechLLM, SpeechMarkers
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.runs.result import RESULT_FILE, load_run
from speechbrain_ext.training.baseline import (
    SYSTEM_FILE,
    TRAINED,
    fingerprint,
    read_system,
    refuse_another,
    refuse_pruned,
    refuse_unfinished,
)

PROJECTOR_FILE = "projector.safetensors"
BRIDGE_FILE = "bridge.safetensors"
FOLDED_FILE = "folded.safetensors"
# A baseline's adapter is beside the weights; older runs have it in them.
FROZEN = "frozen"


def describe(hparams):
    """What a trained system belongs to, as the settings name it.

    Arguments
    ---------
    hparams : dict
        A recipe's settings, or a result's configuration: an older one lacks
        some keys.

    Returns
    -------
    dict
    """
    about = {}
    for part, key in (("backbone", "backbone"), ("encoder", "speech_encoder")):
        settings = hparams[key]
        about[part] = settings["name"]
        about[f"{part}_source"] = str(settings["source"])
        for one in ("revision", "dtype"):
            about[f"{part}_{one}"] = settings.get(one)
    encoder = hparams["speech_encoder"]
    about["output_norm"] = encoder.get("output_norm", False)
    about["max_seconds"] = encoder.get("max_seconds")
    about["long_audio"] = hparams.get("long_audio", "error")
    for key in ("prompt", "chat_template", "downsampling"):
        about[key] = hparams[key]
    optional = "task projector_hidden speech_markers lowercase_targets"
    about |= {k: hparams[k] for k in optional.split() if k in hparams}
    return about


def identify(hparams):
    """What a trained system belongs to, whatever it is called and wherever."""
    backbone, encoder = hparams["backbone"], hparams["speech_encoder"]
    weights = {
        f"{part}_weights": fingerprint(one["source"], one.get("revision"))
        for part, one in (("backbone", backbone), ("encoder", encoder))
    }
    told = encoder.get("normalise_input")
    config = load_config(encoder["source"], encoder.get("revision"), None)
    if told is None and config.model_type != "whisper":
        extractor = load_extractor(
            encoder["source"], config, encoder.get("revision")
        )
        told = normalises(encoder["source"], config, extractor)
    return {**describe(hparams), **weights, "normalise_input": bool(told)}


def check_baseline(hparams):
    """Refuse a baseline that is not whole, finished and of this system."""
    folder = hparams["baseline"]
    if not folder:
        return
    refuse_unfinished(folder)
    unknown = refuse_another(told_of(folder), identify(hparams), folder)
    if unknown and if_main_process():
        print(
            f"Note: the baseline in {folder} was trained before "
            f"{', '.join(unknown)} were kept: not compared."
        )


def told_of(run_folder):
    """What a run says it is; of an older one, what its settings say (dict)."""
    system = read_system(run_folder)
    if os.path.isfile(os.path.join(run_folder, RESULT_FILE)):
        settings = load_run(run_folder).configuration
        if "backbone" in settings:
            system = {**describe(settings), **system}
    return system


def build_model(hparams, prompt, removed=None, device="cpu", encoder=None):
    """A speech LLM as the settings say, its baseline's parts put in."""
    if encoder is None:
        encoder = hparams["load_encoder"](device=device)
    decoder = hparams["load_decoder"](removed=removed, device=device)
    width = encoder.width * hparams["downsampling"]
    projector = Projector(width, decoder.width, hparams["projector_hidden"])
    markers = (
        SpeechMarkers(decoder.width) if hparams["speech_markers"] else None
    )
    model = SpeechLLM(
        encoder,
        projector,
        decoder,
        prompt,
        hparams["downsampling"],
        markers,
    )
    if hparams["baseline"]:
        load_baseline(model, hparams["baseline"], describe(hparams))
    return model.to(device)


def healing_of(hparams):
    """The healing that a recipe's settings name."""
    return Healing.of(hparams["healing"], hparams.get("healing_parts"))


def choose_trained(model, hparams, removed, maps=None):
    """Open what this run trains: a baseline's parts, or a healing strategy's."""
    if removed:
        healing = healing_of(hparams)
        return heal(model, removed, healing, hparams["lora"], maps=maps)
    adapter = None
    if hparams["adapt_attention"]:
        adapter = (ATTENTION, range(model.decoder.num_layers))
    return train_parts(
        model, projector=True, adapter=adapter, lora=hparams["lora"]
    )


def save_trained(model, run_folder, about):
    """Write the trained parts and what they belong to."""
    folder = os.path.join(run_folder, TRAINED)
    os.makedirs(folder, exist_ok=True)
    save_file(_projector_state(model), os.path.join(folder, PROJECTOR_FILE))
    if model.decoder.adapter is not None:
        save_adapter(model.decoder, folder)
    decoder = model.decoder
    bridge = BRIDGE_FILE if bridges_of(decoder) else None
    if bridge:
        save_bridges(decoder, os.path.join(folder, bridge))
    folded = FOLDED_FILE if decoder.folded else None
    if folded:
        save_folds(decoder, os.path.join(folder, folded))
    write_json(
        os.path.join(folder, SYSTEM_FILE),
        {
            **about,
            "layers": decoder.whole_layers,
            "kept_layers": list(decoder.kept),
            "adapter": ADAPTER if decoder.adapter is not None else None,
            "baseline_adapter": FROZEN if updates_of(decoder) else None,
            "bridge": bridge,
            "folded": folded,
        },
    )


def load_baseline(model, run_folder, about):
    """Put a baseline's projector and adapter into a whole or pruned model."""
    system = told_of(run_folder)
    decoder = model.decoder
    if system["layers"] != decoder.whole_layers:
        raise ValueError(
            f"baseline: {run_folder} was trained on {system['backbone']} with "
            f"{system['layers']} layers; this backbone has "
            f"{decoder.whole_layers}. Give a baseline of the same backbone."
        )
    refuse_pruned(system, run_folder)
    refuse_another(system, about, run_folder)
    load_projector(model, run_folder)
    if system["adapter"]:
        put_frozen_adapter(
            decoder,
            os.path.join(run_folder, TRAINED, system["adapter"]),
            decoder.kept,
        )


def load_projector(model, run_folder):
    """Put a run's projector (and speech markers) into a model."""
    put_projector(model, os.path.join(run_folder, TRAINED, PROJECTOR_FILE))


def put_projector(model, path):
    """Put a projector's file (and speech markers in it) into a model."""
    state, ours = load_file(path), _projector_state(model)
    for name in sorted(set(state) | set(ours)):
        theirs = tuple(state[name].shape) if name in state else None
        wanted = tuple(ours[name].shape) if name in ours else None
        if theirs != wanted:
            raise ValueError(
                f"{path}: {name} has shape {theirs}, this model wants "
                f"{wanted}. That run has another encoder, downsampling, "
                "projector_hidden or speech_markers."
            )
    for name, value in state.items():
        ours[name].copy_(value)


def _projector_state(model):
    """Tensors of projector and markers by name, sharing their memory."""
    state = {
        f"projector.{k}": v for k, v in model.projector.state_dict().items()
    }
    if model.markers is not None:
        markers = model.markers.state_dict()
        state.update({f"markers.{k}": v for k, v in markers.items()})
    return state


# ----------------------------------------------------------------------------
# A pruned model, built and made ready for the healing that settings name.
#
# Where healing looks at the unpruned model (a map in closed form,
# distillation), that one is loaded, and the pruned one shares its frozen
# weights: both take the memory of one.


def build_healed(experiment, removed, result):
    """The model, what of it is trained, and its teacher."""
    hparams = experiment.hparams
    healing = healing_of(hparams) if removed else None
    whole = maps = teacher = None
    if healing is not None:
        # Refuses what has nothing to act on, before models load.
        check_places(healing, Removal.of(removed, experiment.layers))
    if healing is not None and healing.needs_whole:
        whole = _build(experiment, None)
        model = pruned_twin(whole, removed)
    else:
        model = _build(experiment, removed)
    if healing is not None and healing.uses_map:
        began = time.monotonic()
        maps = fit_healing_maps(experiment, whole, model, healing)
        told = {str(index): one.told() for index, one in maps.items()}
        result.validation["map"] = told
        result.speed["fit_seconds"] = time.monotonic() - began
        print(f"Closed-form map: {told}")
        maps = {index: one.map for index, one in maps.items()}
    if healing is not None and healing.distillation is not None:
        teacher = Distillation(whole, **healing.distillation)
    return model, choose_trained(model, hparams, removed, maps), teacher


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
    """A pruned speech LLM that shares its frozen weights with a whole one."""
    decoder = whole.decoder
    twin = Decoder(
        drop_layers(decoder.lm, removed),
        decoder.tokenizer,
        decoder.source,
        Removal.of(removed, decoder.num_layers).kept,
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
