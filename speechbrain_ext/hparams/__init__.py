"""A short variant laid over a full base, every fault of it told at once.

A recipe has one full YAML; all others name it and say what differs::

    # command, hardware, time, score to expect
    base: train.yaml
    backbone: !include:models/backbones/qwen2.5-7b.yaml
    prune_layers: 8

Included fragments hold plain data, objects are built in the base alone, and a
key that the base does not have is refused at any depth.

Authors
 * The speechbrain_ext authors, 2026
"""

import io
import os

from hyperpyyaml import load_hyperpyyaml

from speechbrain_ext.hparams.checks import check
from speechbrain_ext.hparams.command_line import parse_arguments
from speechbrain_ext.hparams.faults import ABSENT, ConfigError, Fault
from speechbrain_ext.hparams.overlay import Overlay

__all__ = [
    "ABSENT",
    "ConfigError",
    "Fault",
    "load_hparams",
    "merge",
    "parse_arguments",
]


def load_hparams(path, overrides=None, rules=()):
    """Merge, check everything, and only then build the objects.

    Arguments
    ---------
    path : str
        A full YAML, or a variant with ``base:``.
    overrides : dict or str, optional
        Values laid over both: a dict, or the text that
        ``speechbrain.parse_arguments`` returns. Dotted keys reach nested
        values (``backbone.source``); a key that is an include in the base
        takes a YAML file, looked for from here and from the YAML's folder.
    rules : iterable of callable
        Each takes the dict of plain values (references resolved, objects
        left out) and gives ``Fault(key, value, mend)`` for what is wrong.

    Returns
    -------
    dict
        As ``hyperpyyaml.load_hyperpyyaml`` gives it.

    Raises
    ------
    ConfigError
        With all faults: key, value, mend and file of each.

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> _ = folder.join("train.yaml").write("seed: 1\\nrun: !ref s<seed>\\n")
    >>> _ = folder.join("two.yaml").write("base: train.yaml\\nseed: 2\\n")
    >>> load_hparams(str(folder.join("two.yaml")))
    {'seed': 2, 'run': 's2'}
    """
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
    """The full YAML that a variant stands for, as text.

    Comments, banners and tags of the base are kept and references stay
    unresolved; the head comment of the variant stands above the base's.

    Arguments
    ---------
    path : str
        A full YAML, or a variant with ``base:``.
    overrides : dict or str, optional
        As for ``load_hparams``.
    include_folder : str, optional
        The folder where the text will lie: includes are written relative to
        it. Default: the variant's own.

    Returns
    -------
    str
        HyperPyYAML text.

    Raises
    ------
    ConfigError
        If base, variant and overrides do not fit together.

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> _ = folder.join("train.yaml").write("steps: 9  # enough\\n")
    >>> _ = folder.join("two.yaml").write("base: train.yaml\\nsteps: 2\\n")
    >>> merge(str(folder.join("two.yaml")))
    'steps: 2  # enough\\n'
    """
    if include_folder is None:
        include_folder = os.path.dirname(os.path.realpath(path))
    overlay = Overlay(path, overrides, os.path.abspath(include_folder))
    if overlay.faults:
        raise ConfigError(path, overlay.faults)
    return overlay.heads + overlay.document.text
