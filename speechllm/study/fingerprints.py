"""Fingerprints of settings: what a change of a YAML makes anew.

Two runs whose settings say the same have the same fingerprint, whatever the
comments, the order of the keys or the folders are.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import yaml

from speechbrain_ext.runs.files import configuration_hash
from speechbrain_ext.training.run_record import NOT_TRAINING
from speechllm.packaged import included_path
from speechllm.settings import merge

EVALUATED = "test_splits"


def made_of(words) -> str:
    """The fingerprint of words."""
    return configuration_hash({"words": words})


def made_of_recipe(
    words, file: Path, options: dict | None = None, everything: bool = False
) -> tuple[str, list]:
    """That of words and of a recipe's settings, and the sets it scores."""
    given = {k: _content(file, v) for k, v in (options or {}).items()}
    settings = {**_settings(str(file)), **given}
    counted = {k: v for k, v in settings.items() if k not in NOT_TRAINING}
    sets = settings.get(EVALUATED) or []
    if everything:
        counted[EVALUATED] = sets
        counted["language"] = settings.get("language")
    return configuration_hash({"words": words, "settings": counted}), sets


def _content(file, value):
    """What a YAML says that an option names; other values as they are."""
    if not str(value).endswith(".yaml"):
        return value
    named = Path(included_path(value, file.parent.parent))
    if not os.path.isfile(named):
        return value
    return _fragment(named)


@functools.cache
def _fragment(file):
    """A YAML without tags, which every run of a study names again."""
    return yaml.safe_load(file.read_text(encoding="utf-8"))


@functools.cache
def _settings(file):
    """A YAML's settings with base and includes, tags and references kept."""
    root = yaml.compose(merge(file, self_contained=True))
    return {key.value: _plain(value) for key, value in root.value}


def _plain(node):
    if isinstance(node, yaml.MappingNode):
        return {key.value: _plain(value) for key, value in node.value}
    if isinstance(node, yaml.SequenceNode):
        return [_plain(one) for one in node.value]
    # A reference is not the text that it looks like.
    return node.value if node.tag.startswith("tag:") else [node.tag, node.value]
