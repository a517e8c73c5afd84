"""Which run may be a baseline: a whole, finished one of the very same system.

Its projector is worth nothing to a decoder that is given other features or
another prompt, and its adapter nothing on other layers.
"""

import json
import os

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


def read_system(run_folder, key="baseline"):
    """What a finished run's ``system.json`` says.

    Arguments
    ---------
    run_folder : str
        A run's output folder.
    key : str
        The setting that named it.

    Returns
    -------
    dict

    Raises
    ------
    FileNotFoundError
        If the run is not finished, or there is none.

    Example
    -------
    >>> read_system("nowhere")
    Traceback (most recent call last):
    ...
    FileNotFoundError: baseline: nowhere holds no trained system ...
    """
    path = os.path.join(run_folder, TRAINED, SYSTEM_FILE)
    if not os.path.isfile(path):
        name = os.path.basename(os.path.normpath(run_folder))
        raise FileNotFoundError(
            f"{key}: {run_folder} holds no trained system ({path} is not "
            f"there). Train it first: python train.py hparams/{name}.yaml "
            "(with the same results_folder), or give another folder with "
            f"--{key}."
        )
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def refuse_pruned(system, run_folder):
    """Refuse a baseline that lacks layers (ValueError).

    Its adapter belongs to the layers that it kept, by their new numbers.
    """
    kept, layers = system["kept_layers"], system["layers"]
    if list(kept) != list(range(layers)):
        raise ValueError(
            f"baseline: {run_folder} was pruned, it keeps {len(kept)} of "
            f"{layers} layers, and what it was healed with belongs to these: "
            "give the whole model's run."
        )


def refuse_unfinished(run_folder):
    """Refuse all but a whole, finished run, before anything is loaded.

    Raises
    ------
    FileNotFoundError, ValueError
        Saying what is there instead, and what to do.
    """
    system = read_system(run_folder)
    refuse_pruned(system, run_folder)
    path = os.path.join(run_folder, "result.json")
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


def refuse_another(told, about, run_folder):
    """Refuse a baseline of another system, all that differs told at once.

    Arguments
    ---------
    told : dict
        What the baseline says it is, as `speechbrain_ext.system.identify`
        does of a run; older ones say less.
    about : dict
        What this run is.
    run_folder : str
        The baseline's folder.

    Returns
    -------
    list of str
        Keys that the baseline says nothing of.

    Raises
    ------
    ValueError
        Naming each key that differs, with both values.
    """
    keys = [key for key in MUST_AGREE if key in about]
    if "backbone_weights" not in told:
        keys += [key for key in REVISIONS if key in about]
    unknown = [key for key in keys if key not in told]
    faults = [
        f"{key}: {about[key]!r}, but the baseline in {run_folder} was trained "
        f"with {told[key]!r}. {_mend(key)}, or train another baseline."
        for key in keys
        if key in told and told[key] != about[key]
    ]
    if faults:
        raise ValueError("\n".join(faults))
    return unknown


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
