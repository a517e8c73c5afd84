"""The one builder of a speech LLM, from settings or pruned from another.

A finished run leaves ``trained/``: the projector (safetensors), the adapter
(PEFT's own format), bridges and folded maps (safetensors) and
``system.json``, which says what they belong to.
Backbone and encoder are named there, never copied.
"""

from __future__ import annotations

import os
import time

from safetensors.torch import save_file

from speechbrain_ext.healing.apply import check_places, heal, train_parts
from speechbrain_ext.healing.lora import ADAPTER, ATTENTION, save_adapter
from speechbrain_ext.healing.presets import Healing
from speechbrain_ext.later import later
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.weights import load_tokenizer, read_tensors
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.encoder import SpeechEncoder
from speechbrain_ext.model.prompt import Prompt
from speechbrain_ext.model.speech_llm import Projector, SpeechLLM, SpeechMarkers
from speechbrain_ext.runs.files import write_json
from speechbrain_ext.training.baseline import (
    SYSTEM_FILE,
    TRAINED,
    describe,
    read_system,
)

PROJECTOR_FILE = "projector.safetensors"
BRIDGE_FILE = "bridge.safetensors"
FOLDED_FILE = "folded.safetensors"
# A baseline's adapter is beside the weights; older runs have it in them.
FROZEN = "frozen"


def load_prompt(hparams: dict) -> Prompt:
    """The prompt of the settings, in the backbone's own tokens."""
    backbone = hparams["backbone"]
    tokenizer = load_tokenizer(backbone["source"], backbone.get("revision"))
    return Prompt.from_template(
        tokenizer, hparams["prompt"], hparams["chat_template"]
    )


def build_speech_llm(
    encoder: SpeechEncoder,
    decoder: Decoder,
    prompt: Prompt,
    k: int,
    projector_hidden: int | None = None,
    markers: bool = False,
    dropout: float = 0.0,
) -> SpeechLLM:
    """Join frozen parts by a new projector.

    Arguments
    ---------
    encoder : SpeechEncoder
        Frozen; may be shared.
    decoder : Decoder
        Whole or pruned; may be shared.
    prompt : Prompt
        What stands around the speech.
    k : int
        Frames that are joined to one speech token.
    projector_hidden : int or None
        Width of the projector's hidden layer; None: the decoder's.
    markers : bool
        Put trained embeddings around the speech.
    dropout : float
        Of the projector's hidden layer.

    Returns
    -------
    SpeechLLM
        What is trained in it is drawn at random.
    """
    projector = Projector(
        encoder.width * k, decoder.width, projector_hidden, dropout
    )
    around = SpeechMarkers(decoder.width) if markers else None
    return SpeechLLM(encoder, projector, decoder, prompt, k, around)


def build_from_settings(hparams, encoder, prompt, removed=None, device="cpu"):
    """A speech LLM as the settings say, its baseline's parts put in.

    Arguments
    ---------
    hparams : dict
        A recipe's settings, objects built.
    encoder : SpeechEncoder
        The settings' own.
    prompt : Prompt
        As from `load_prompt`.
    removed : Block, Plan or None
        Layers of the decoder that are not even loaded.
    device : str
        Where to.

    Returns
    -------
    SpeechLLM
    """
    model = build_speech_llm(
        encoder,
        hparams["load_decoder"](removed=removed, device=device),
        prompt,
        hparams["downsampling"],
        hparams["projector_hidden"],
        hparams["speech_markers"],
        hparams.get("projector_dropout", 0.0),
    )
    given = hparams["baseline"] or hparams.get("start_from")
    if given:
        load_baseline(model, given, describe(hparams))
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
    """Write the trained parts and what they belong to, as one folder."""
    final = os.path.join(run_folder, TRAINED)
    if folders := later("runs.folders"):
        with folders.whole_folder(final) as folder:
            _write_trained(model, folder, about)
    else:
        os.makedirs(final, exist_ok=True)
        _write_trained(model, final, about)


def _write_trained(model, folder, about):
    """Write the trained parts into a new folder."""
    save_file(_projector_state(model), os.path.join(folder, PROJECTOR_FILE))
    if model.decoder.adapter is not None:
        save_adapter(model.decoder, folder)
    decoder = model.decoder
    bridge = _save_bridges(decoder, folder)
    freezing = later("healing.frozen_adapter")
    frozen = freezing and freezing.updates_of(decoder)
    folded = FOLDED_FILE if decoder.folded else None
    if folded:
        folds = later("healing.closed_form", "healing")
        folds.save_folds(decoder, os.path.join(folder, folded))
    write_json(
        os.path.join(folder, SYSTEM_FILE),
        {
            **about,
            "layers": decoder.whole_layers,
            "kept_layers": list(decoder.kept),
            "adapter": ADAPTER if decoder.adapter is not None else None,
            "baseline_adapter": FROZEN if frozen else None,
            "bridge": bridge,
            "folded": folded,
        },
    )


def _save_bridges(decoder, folder):
    """Write bridges where there are some; gives the file's name, or None."""
    bridging = later("healing.bridge")
    if not bridging or not bridging.bridges_of(decoder):
        return None
    bridging.save_bridges(decoder, os.path.join(folder, BRIDGE_FILE))
    return BRIDGE_FILE


def load_baseline(model, run_folder, about):
    """Put a baseline's projector and adapter into a whole or pruned model."""
    checks = later("training.baseline_checks")
    system = checks.known_of(run_folder) if checks else read_system(run_folder)
    decoder = model.decoder
    if system["layers"] != decoder.whole_layers:
        raise ValueError(
            f"baseline: {run_folder} was trained on {system['backbone']} with "
            f"{system['layers']} layers; this backbone has "
            f"{decoder.whole_layers}. Give a baseline of the same backbone."
        )
    if checks:
        checks.refuse_pruned(system, run_folder)
        checks.refuse_another(system, about, run_folder)
    folder = os.path.join(run_folder, TRAINED)
    put_projector(model, os.path.join(folder, PROJECTOR_FILE))
    if system["adapter"]:
        later("healing.frozen_adapter", "baseline").put_frozen_adapter(
            decoder,
            os.path.join(folder, system["adapter"]),
            decoder.kept,
        )


def put_projector(model, path):
    """Put a projector's file (and speech markers in it) into a model."""
    state, ours = read_tensors(path), _projector_state(model)
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


def build_healed(experiment, removed, result):
    """The model of an experiment, what of it is trained, and its teacher.

    Arguments
    ---------
    experiment : Experiment
        Settings, encoder, prompt, data.
    removed : Block, Plan or None
        The layers that are not there.
    result : RunResult
        Is told of a map that was fitted.

    Returns
    -------
    model : SpeechLLM
    trainable : TrainableSet
    teacher : Distillation or None
    """
    hparams = experiment.hparams
    if not removed:
        model = experiment.build_model()
        return model, choose_trained(model, hparams, None), None
    healing = healing_of(hparams)
    # Refuses what has nothing to act on, before models load.
    check_places(healing, Removal.of(removed, experiment.layers))
    whole = maps = teacher = None
    if healing.needs_whole:
        maps_of = later("training.whole_model", "healing")
        whole = experiment.build_model()
        model = experiment.twin(whole, removed)
    else:
        model = experiment.build_model(removed)
    if healing.uses_map:
        began = time.monotonic()
        fits = maps_of.fit_healing_maps(experiment, whole, model, healing)
        about = {str(index): fit.told() for index, fit in fits.items()}
        result.validation["map"] = about
        result.speed["fit_seconds"] = time.monotonic() - began
        print(f"Closed-form map: {about}")
        maps = {index: fit.map for index, fit in fits.items()}
    if healing.distillation is not None:
        distilling = later("healing.distillation", "healing")
        teacher = distilling.Distillation(whole, **healing.distillation)
    return model, choose_trained(model, hparams, removed, maps), teacher
