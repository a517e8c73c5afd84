"""Runs of earlier versions, whose settings lack some keys."""

from typing import Any

# What a setting was before there was a key for it.
FORMER: dict[str, Any] = {
    "healing_parts": None,
    "decode_static": False,
    "length_pool": 1,
    "batch_seconds": None,
    "padding_free": False,
    "keep": "last",
    "start_from": None,
    "objective": "answer",
    "projector_dropout": 0.0,
    "weight_decay": 0.0,
    "speed_perturb": [],
    "noise_snr": [],
    # All clips were trained on; none is longer than a day.
    "train_min_seconds": 0,
    "train_max_seconds": 100_000,
}


def filled(settings: dict) -> dict:
    """Settings with the keys that are younger than they are."""
    former = {**FORMER, **settings}
    if "split" in settings:
        former["split"] = {"test_speakers": None, **settings["split"]}
    return former
