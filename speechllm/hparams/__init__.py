"""A short variant laid over a full base, every fault of it told at once.

A recipe has one full YAML; all others name it and say what differs::

    # command, hardware, time, score to expect
    base: train.yaml
    backbone: !include:models/backbones/qwen2.5-7b.yaml
    prune_layers: 8

Included fragments hold plain data, objects are built in the base alone, and a
key that the base does not have is refused at any depth.
"""

import io
import os

from hyperpyyaml import load_hyperpyyaml

from speechbrain_ext.training.faults import ABSENT, ConfigError, Fault
from speechllm.hparams.checks import check
from speechllm.hparams.command_line import parse_arguments
from speechllm.hparams.overlay import Overlay

__all__ = [
    "ABSENT",
    "ConfigError",
    "Fault",
    "load_hparams",
    "merge",
    "parse_arguments",
]


def load_hparams(path, overrides=None, rules=()):
    """Merge, check everything, and only then build the objects."""
    overlay = Overlay(path, overrides, folder=None)
    overlay.inline_all()
    plain, faults = check(overlay.document, overlay.before, overlay.origin)
    for rule in rules:
        faults += rule(plain)
    faults = overlay.faults + [overlay.located(fault) for fault in faults]
    if faults:
        raise ConfigError(path, faults)
    return load_hyperpyyaml(io.StringIO(overlay.document.text))


def merge(path, overrides=None, include_folder=None):
    """The full YAML that a variant stands for, as text."""
    if include_folder is None:
        include_folder = os.path.dirname(os.path.realpath(path))
    overlay = Overlay(path, overrides, os.path.abspath(include_folder))
    if overlay.faults:
        raise ConfigError(path, overlay.faults)
    return overlay.heads + overlay.document.text
