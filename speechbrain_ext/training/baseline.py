"""What a trained system belongs to, and what a finished run says of itself."""

from __future__ import annotations

import json
import os

from speechbrain_ext.later import later
from speechbrain_ext.model.encoder_load import (
    load_config,
    load_extractor,
    normalises,
)
from speechbrain_ext.runs.files import of_form

TRAINED = "trained"
SYSTEM_FILE = "system.json"
FORMER_ENCODER = {
    "normalise_input": None,
    "output_norm": False,
    "max_seconds": None,
    "window": "30s",
}


def with_former(settings: dict) -> dict:
    """Settings as recorded by a run, keys younger than it filled in.

    Arguments
    ---------
    settings : dict
        Of a run of any age, or today's.

    Returns
    -------
    dict
    """
    encoder = {**FORMER_ENCODER, **settings["speech_encoder"]}
    older = later("training.older_runs")
    former = older.filled(settings) if older else settings
    # Not every recipe has the key.
    return {"long_audio": "error", **former, "speech_encoder": encoder}


# ----------------------------------------------------------------------------
# What a trained system belongs to.


def describe(hparams: dict) -> dict:
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
    hparams, about = with_former(hparams), {}
    for part, key in (("backbone", "backbone"), ("encoder", "speech_encoder")):
        settings = hparams[key]
        about[part] = settings["name"]
        about[f"{part}_source"] = str(settings["source"])
        for what in ("revision", "dtype"):
            about[f"{part}_{what}"] = settings.get(what)
    for key in ("output_norm", "max_seconds", "window"):
        about[key] = hparams["speech_encoder"][key]
    for key in ("long_audio", "prompt", "chat_template", "downsampling"):
        about[key] = hparams[key]
    optional = "task projector_hidden speech_markers lowercase_targets"
    about |= {k: hparams[k] for k in optional.split() if k in hparams}
    return about


def identify(hparams: dict) -> dict:
    """`describe`, and fingerprints: whatever it is called and wherever."""
    backbone, encoder = hparams["backbone"], hparams["speech_encoder"]
    prints = later("training.fingerprint")
    weights = prints.weights_of(backbone, encoder) if prints else {}
    normalised = encoder.get("normalise_input")
    config = load_config(encoder["source"], encoder.get("revision"), None)
    if normalised is None and config.model_type != "whisper":
        extractor = load_extractor(
            encoder["source"], config, encoder.get("revision")
        )
        normalised = normalises(encoder["source"], config, extractor)
    return {
        **describe(hparams),
        **weights,
        "normalise_input": bool(normalised),
    }


def read_system(run_folder: str, key: str | None = "baseline") -> dict:
    """What a finished run's ``system.json`` says.

    Arguments
    ---------
    run_folder : str
        A run's output folder.
    key : str or None
        The setting that named it, if one did.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If the run is not finished, or there is none.
    """
    path = os.path.join(run_folder, TRAINED, SYSTEM_FILE)
    if not os.path.isfile(path):
        name = os.path.basename(os.path.normpath(run_folder))
        where, how = (f"{key}: ", f" with --{key}") if key else ("", "")
        raise FileNotFoundError(
            f"{where}{run_folder} holds no trained system ({path} is not "
            f"there). Train it first: python train.py hparams/{name}.yaml "
            f"(with the same results_folder), or give another folder{how}."
        )
    with of_form(path, ": not what a run is", "Train that run again"):
        with open(path, encoding="utf-8") as stream:
            system = json.load(stream)
        kept, layers = system["kept_layers"], system["layers"]
        whole = range(layers) if layers < 10_000 else ()
        if not all(type(one) is int and one in whole for one in kept):
            raise ValueError(f"it keeps {kept!r:.80} of {layers!r:.40} layers")
    return system
