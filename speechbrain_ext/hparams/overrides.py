"""Overrides from a dict or a command line, as YAML text of the right type.

Authors
 * The speechbrain_ext authors, 2026
"""

import re

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain_ext.hparams.faults import as_yaml

COMMAND_LINE_PAIR = re.compile(r"([A-Za-z_][\w.]*):(?: (.*))?")


class Raw(str):
    """Text as typed: what it means depends on the key it is for."""


def override_pairs(overrides):
    """Overrides as pairs of a path and a value.

    Arguments
    ---------
    overrides : dict or str or None
        A dict, nested or with dotted keys; or the text that
        ``speechbrain.parse_arguments`` returns, or any YAML mapping.

    Returns
    -------
    list
        Of (path, value). Values read from a command line's text are ``Raw``.

    Raises
    ------
    ValueError
        If the text is neither.

    Example
    -------
    >>> override_pairs({"backbone": {"dtype": "float32"}, "a.b": 1})
    [(('backbone', 'dtype'), 'float32'), (('a', 'b'), 1)]
    >>> override_pairs("prompt: say: {speech}\\nsteps: 3")
    [(('prompt',), 'say: {speech}'), (('steps',), '3')]
    """
    if not overrides:
        return []
    if isinstance(overrides, str):
        lines = [line for line in overrides.split("\n") if line.strip()]
        pairs = [COMMAND_LINE_PAIR.fullmatch(line) for line in lines]
        if all(pairs):
            overrides = {p[1]: Raw(p[2] or "") for p in pairs}
        else:
            overrides = yaml_mapping(overrides)
    return list(flat(overrides))


def yaml_mapping(text):
    """A mapping read from YAML text."""
    try:
        tree = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ValueError(f"cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("must be `key: value` lines")
    return tree


def flat(tree, above=()):
    """The leaves of a nested dict: (path, value); dotted keys are split."""
    for key, value in tree.items():
        path = above + tuple(str(key).split("."))
        if isinstance(value, dict) and value:
            yield from flat(value, path)
        else:
            yield path, value


def literal(value, like, free_text=False):
    """One line of YAML for an override.

    Arguments
    ---------
    value : object
        A plain value, or ``Raw`` text.
    like : object
        The base's value: where that is a text, ``Raw`` is taken verbatim.
    free_text : bool
        Take ``Raw`` verbatim in any case (a placeholder's value).

    Returns
    -------
    str
        The YAML.

    Example
    -------
    >>> literal(Raw("1e-3"), 0.1), literal(Raw("7"), "run 1")
    ('1e-3', '"7"')
    """
    if not isinstance(value, str):
        return as_yaml(value)
    if value.startswith(("!ref ", "!copy ", "!include:", "!new:", "!name:")):
        return str(value)
    if not isinstance(value, Raw):
        return as_yaml(value)
    text = value.strip()
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    if (isinstance(like, str) or free_text) and not quoted:
        return "null" if text in ("null", "~", "") else as_yaml(text)
    try:
        yaml.compose(f"key: {text}", Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return as_yaml(text)
    return text or "null"
