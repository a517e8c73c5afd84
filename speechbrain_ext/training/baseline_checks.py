"""Which run may be a baseline: a whole, finished one of the very same system.

Its projector is worth nothing to a decoder that is given other features or
another prompt, and its adapter nothing on other layers.
"""

from __future__ import annotations

import json
import os

from speechbrain.utils.distributed import if_main_process

from speechbrain_ext.runs.result import RESULT_FILE, load_run
from speechbrain_ext.training.baseline import describe, identify, read_system

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


def known_of(run_folder: str) -> dict:
    """What a run says it is; of an older one, what its settings say."""
    system = read_system(run_folder)
    if os.path.isfile(os.path.join(run_folder, RESULT_FILE)):
        settings = load_run(run_folder).configuration
        if "backbone" in settings:
            system = {**describe(settings), **system}
    return system


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
