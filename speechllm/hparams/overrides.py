"""Overrides from a dict or a command line, as YAML text of the right type."""

import re

import yaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain_ext.training.faults import as_yaml

COMMAND_LINE_PAIR = re.compile(r"([A-Za-z_][\w.]*):(?: (.*))?")


class Raw(str):
    """Text as typed: what it means depends on the key it is for."""


def override_pairs(overrides):
    """Overrides as pairs of a path and a value."""
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
    """One line of YAML for an override."""
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
