"""What lays over a YAML, as it was typed or given: pairs of a path and a value."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import RunOptions

from speechllm.settings_tree import Path, refuse_bomb

Overrides = dict | str | None


class Raw(str):
    """Text as typed: what it means depends on the key it is for."""


def own_options(argv: list[str]) -> dict[str, Raw]:
    """The options of a command line that are not SpeechBrain's."""
    run_options = {field.name for field in fields(RunOptions)}
    options: dict[str, Raw] = {}
    name: str | None = None
    for word in argv:
        if word.startswith("--"):
            name, _, value = word[2:].partition("=")
            if name in run_options:
                name = None
            else:
                options[name] = Raw(value)
        elif name is not None:
            options[name] = Raw(f"{options[name]} {word}".strip())
    return options


def mapping(overrides: Overrides) -> dict:
    """Overrides from a dict, ``key: value`` lines or any YAML."""
    if not isinstance(overrides, str):
        return overrides or {}
    lines = [line for line in overrides.split("\n") if line.strip()]
    pairs = [re.fullmatch(r"([A-Za-z_][\w.]*):(?: (.*))?", li) for li in lines]
    if all(pairs):
        return {pair[1]: Raw(pair[2] or "") for pair in pairs if pair}
    refuse_bomb(overrides)
    try:
        tree = YAML(typ="safe", pure=True).load(overrides)
    except YAMLError as error:
        raise ValueError(f"cannot be read as YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError("must be `key: value` lines")
    return tree


def leaves(tree: dict, above: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The leaves of a nested dict; dotted keys are split."""
    for key, value in tree.items():
        path = above + tuple(str(key).split("."))
        if isinstance(value, dict) and value:
            yield from leaves(value, path)
        else:
            yield path, value
