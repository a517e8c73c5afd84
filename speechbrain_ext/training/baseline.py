"""Which run may be a baseline: a whole, finished one of the very same system.

Its projector is worth nothing to a decoder that is given other features or
another prompt, and its adapter nothing on other layers.
"""

from __future__ import annotations

import json
import os

from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.later import later
from speechbrain_ext.model.encoder_load import (
    load_config,
    load_extractor,
    normalises,
)
from speechbrain_ext.runs.files import of_form
from speechbrain_ext.runs.result import RESULT_FILE, load_run

TRAINED = "trained"
SYSTEM_FILE = "system.json"
# What decides what the projector hears, and what is said to and by the LLM.
MUST_AGREE = (
    "backbone",
    "backbone_weights",
    "backbone_dtype",
    "encoder",
    "encoder_weights",
    "encoder_dtype",
    "normalise_input",
    "output_norm",
    "max_seconds",
    "window",
    "long_audio",
    "downsampling",
    "projector_hidden",
    "speech_markers",
    "task",
    "prompt",
    "chat_template",
    "lowercase_targets",
)
# Of older runs, whose weights have no fingerprint.
REVISIONS = ("backbone_revision", "encoder_revision")
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
    return {**former, "speech_encoder": encoder}


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


def known_of(run_folder: str) -> dict:
    """What a run says it is; of an older one, what its settings say."""
    system = read_system(run_folder)
    if os.path.isfile(os.path.join(run_folder, RESULT_FILE)):
        settings = load_run(run_folder).configuration
        if "backbone" in settings:
            system = {**describe(settings), **system}
    return system


# ----------------------------------------------------------------------------
# May this one be it?


def check_baseline(hparams: dict) -> None:
    """Refuse a baseline that is not whole, finished and of this system.

    So it is with a run that training starts from, which must not be adapted.
    """
    folder = hparams["baseline"] or hparams.get("start_from")
    if not folder:
        return
    refuse_unfinished(folder)
    known = known_of(folder)
    if known["adapter"] and not hparams["baseline"]:
        raise ValueError(
            f"start_from: {folder} has an adapted decoder, and only the "
            "projector is taken over: give a run without adapt_attention"
        )
    unknown = refuse_another(known, identify(hparams), folder)
    if unknown and if_main_process():
        print(
            f"Note: the baseline in {folder} was trained before "
            f"{', '.join(unknown)} were kept: not compared."
        )


def refuse_pruned(system: dict, run_folder: str) -> None:
    """Refuse a baseline that lacks layers (ValueError)."""
    kept, layers = system["kept_layers"], system["layers"]
    if list(kept) != list(range(layers)):
        raise ValueError(
            f"baseline: {run_folder} was pruned, it keeps {len(kept)} of "
            f"{layers} layers, and what it was healed with belongs to these: "
            "give the whole model's run."
        )


def refuse_unfinished(run_folder: str) -> None:
    """Refuse all but a whole, finished run, before anything is loaded.

    Raises
    ------
    FileNotFoundError, ValueError
        Saying what is there instead, and what to do.
    """
    refuse_pruned(read_system(run_folder), run_folder)
    path = os.path.join(run_folder, RESULT_FILE)
    try:
        with open(path, encoding="utf-8") as stream:
            status = json.load(stream)["status"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"baseline: {path} cannot be read ({error}): give the folder of a "
            "finished run."
        ) from error
    if status != "done":
        raise ValueError(
            f"baseline: {run_folder} is not finished, its status is {status}: "
            "start the command that began it again, which goes on with it."
        )


def refuse_another(known: dict, about: dict, run_folder: str) -> list[str]:
    """Refuse a baseline of another system; gives what is not known of it."""
    keys = [key for key in MUST_AGREE if key in about]
    if "backbone_weights" not in known:
        keys += [key for key in REVISIONS if key in about]
    faults = [
        f"{key}: {about[key]!r}, but the baseline in {run_folder} was trained "
        f"with {known[key]!r}. {_mend(key)}, or train another baseline."
        for key in keys
        if key in known and known[key] != about[key]
    ]
    if faults:
        raise ValueError("\n".join(faults))
    return [key for key in keys if key not in known]


def _mend(key):
    """What to do about a key that differs (str)."""
    part, _, what = key.partition("_")
    if what != "weights":
        return "Use the same"
    section = {"backbone": "backbone", "encoder": "speech_encoder"}[part]
    return (
        "The two are fingerprints of the weights: give the same checkpoint "
        f"with {section}.source and {section}.revision"
    )
