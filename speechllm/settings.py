"""A short variant laid over a full base, every fault of it told at once.

A recipe has one full YAML; all others name it and say what differs::

    # command, hardware, time, score to expect
    base: train.yaml
    backbone: !include:package:backbones/qwen2.5-7b.yaml
    prune_layers: 8

Included fragments hold plain data, objects are built in the base alone, and a
key that the base does not have is refused at any depth.
"""

from __future__ import annotations

import copy
import io
import os
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError
from speechbrain.utils.run_opts import RunOptions

from speechbrain_ext.training.faults import ConfigError, Fault, as_yaml, label
from speechllm.device import pick_device
from speechllm.overrides import Overrides, Raw, leaves, mapping, own_options
from speechllm.packaged import PREFIX, included_path, packaged_path
from speechllm.settings_checks import check, plain_values
from speechllm.settings_tree import (
    INCLUDE,
    INDENT,
    Document,
    Path,
    include_file,
    is_include,
    point,
    refuse_bomb,
    tag_of,
    text_of,
    value_at,
    written,
)

COMMAND_LINE = "command line"
# What numbers, texts, lists and mappings may be tagged as.
PLAIN_TAG = "tag:yaml.org,2002:"
Rule = Callable[[dict], Iterable[Fault]]


def load_hparams(
    path: str, overrides: Overrides = None, rules: Iterable[Rule] = ()
) -> dict[str, Any]:
    """Merge, check everything, and only then build the objects."""
    overlay = _Overlay(path, overrides)
    overlay.open_all()
    plain, faults = check(overlay.document, overlay.before, overlay.origin)
    for rule in rules:
        faults += rule(plain)
    faults = overlay.faults + [overlay.located(fault) for fault in faults]
    if faults:
        raise ConfigError(path, faults)
    return load_hyperpyyaml(io.StringIO(overlay.document.text))


def merge(
    path: str,
    overrides: Overrides = None,
    include_folder: str | None = None,
    self_contained: bool = False,
) -> str:
    """The full YAML that a variant stands for, as text.

    Its includes are relative to ``include_folder``, by default the variant's
    own. If self-contained, they are written in, and the variants' heads are
    left out.
    """
    overlay = _Overlay(path, overrides)
    if self_contained:
        overlay.open_all()
    if overlay.faults:
        raise ConfigError(path, overlay.faults)
    folder = include_folder or os.path.dirname(os.path.realpath(path))
    for _, node in overlay.document.walk():
        if is_include(node):
            point(node, os.path.relpath(include_file(node), folder))
    return ("" if self_contained else overlay.heads) + overlay.document.text


# ----------------------------------------------------------------------------
# A recipe's command line.


def parse_arguments(
    argv: list[str] | None = None,
) -> tuple[str, RunOptions, dict[str, Any]]:
    """A recipe's command line, without what SpeechBrain's own parser loses."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if {"-h", "--help"} & set(argv):
        from speechllm.recipe_help import recipe_help

        print(recipe_help(argv))
        raise SystemExit(0)
    path, run_opts, _ = RunOptions.from_command_line_args(argv)
    if run_opts.device:
        pick_device(run_opts.device)
    overrides: dict[str, Any] = dict(own_options(argv))
    keys = base_chain(path)[0].keys()
    for name in sorted(run_opts.overridden_args & set(keys)):
        overrides[name] = getattr(run_opts, name)
    limit = run_opts.optimizer_step_limit
    if isinstance(limit, str):
        if not limit.isdecimal():
            raise SystemExit(
                f"--optimizer_step_limit {limit}: give a whole number"
            )
        run_opts = replace(run_opts, optimizer_step_limit=int(limit))
    return path, run_opts, overrides


# ----------------------------------------------------------------------------
# A base with variants and overrides laid over it.


class _Overlay:
    """``document``: all laid over the base; ``before``: the base's values."""

    def __init__(self, path: str, overrides: Overrides) -> None:
        base, *variants = base_chain(path)
        self.document = base
        self.heads = "".join(variant.head for variant in variants[::-1])
        self.faults: list[Fault] = []
        self.origin: dict[Path, str] = {}  # where it is not the base
        self.opened: set[Path] = set()  # includes that were written in
        own_folder = os.path.dirname(os.path.realpath(path))
        self.folders = list(
            dict.fromkeys([os.getcwd(), own_folder, base.folder])
        )
        whole = copy.deepcopy(base)
        _open_all(whole)
        self.before, _ = plain_values(whole)
        self.placeholders = {
            path
            for path, node in whole.walk()
            if tag_of(node) == "!PLACEHOLDER"
        }
        for variant in variants:
            self.lay_document(variant)
        self.lay_overrides(overrides)

    def open_all(self) -> None:
        """Write in every fragment that is still included."""
        self.faults += map(self.located, _open_all(self.document))
        for path, node in list(self.document.walk()):
            if path[-1] == "source" and text_of(node).startswith(PREFIX):
                try:
                    self.document.put(path, packaged_path(text_of(node)))
                except ValueError as error:
                    fault = Fault(label(path), text_of(node), str(error))
                    self.faults.append(self.located(fault))

    def located(self, fault: Fault) -> Fault:
        """The fault with the file that its value came from."""
        path = tuple(re.findall(r"[^.\[\]]+", fault.key))
        file = self.document.file
        for length in range(len(path) + 1):
            file = self.origin.get(path[:length], file)
        return replace(fault, file=file)

    def lay_document(self, source: Document) -> None:
        """Lay every key of a document but ``base`` over the base."""
        for key, value in source.root.items():
            if key != "base":
                self.lay((key,), value, source.file)

    def lay(self, path: Path, value: Any, file: str) -> None:
        """Lay one value over the base; mappings are merged key by key."""
        found = self.document.find(path)
        merges = isinstance(value, dict) and value and not tag_of(value)
        if found is None:
            self.faults.append(self.unknown(path, value, file))
        elif merges and is_include(found):
            self.opened.add(path)
            faults = _open(self.document, path)
            self.faults += map(self.located, faults)
            if not faults:
                self.lay(path, value, file)
        elif merges and isinstance(found, dict):
            for key, below in value.items():
                self.lay((*path, key), below, file)
        else:
            self.document.put(path, value)
            self.opened.discard(path)
            for old in list(self.origin):
                if old[: len(path)] == path:
                    del self.origin[old]
            self.origin[path] = file

    def unknown(self, path: Path, value: Any, file: str) -> Fault:
        """The fault of a key that the base does not have."""
        right = self.document.nearest(path)
        known = self.document.keys(path[:-1])
        if right:
            mend = f"did you mean {right}?"
        elif known:
            mend = f"known are {', '.join(known)}"
        else:
            mend = f"{label(path[:-1])} has no keys below it"
        return Fault(label(path), written(value), f"unknown key: {mend}", file)

    def lay_overrides(self, overrides: Overrides) -> None:
        """Lay a dict, or a command line's text, over the base."""
        try:
            pairs = list(leaves(mapping(overrides)))
        except ValueError as error:
            self.faults.append(Fault("overrides", str(overrides), str(error)))
            return
        # A whole fragment first, then its children: --backbone FILE
        # --backbone.source DIR, in whichever order they were given.
        for path, value in sorted(pairs, key=lambda pair: len(pair[0])):
            try:
                text = self.override_text(path, value)
                above = [f"{' ' * i}{as_yaml(k)}:" for i, k in enumerate(path)]
                source = Document("\n".join(above) + f" {text}", COMMAND_LINE)
            except ValueError as error:
                fault = Fault(label(path), value, str(error), COMMAND_LINE)
                self.faults.append(fault)
            else:
                self.lay_document(source)

    def override_text(self, path: Path, value: Any) -> str:
        """One line of YAML for an override."""
        if not isinstance(value, str):
            return as_yaml(value)
        includes = path in self.opened or is_include(self.document.find(path))
        if value.startswith(INCLUDE) or (
            includes and not value.startswith(("!", "{"))
        ):
            name = value.removeprefix(INCLUDE)
            files = [os.path.join(folder, name) for folder in self.folders]
            for file in filter(os.path.isfile, files):
                return INCLUDE + os.path.abspath(file)
            file = included_path(name, self.folders[0])
            if os.path.isfile(file):
                return INCLUDE + file
            places = " or ".join(self.folders)
            raise ValueError(
                f"no such file in {places}: give the path of a YAML file, or "
                "package:backbones/NAME.yaml for one that comes along"
            )
        if value.startswith(("!ref ", "!copy ", "!new:", "!name:")):
            return str(value)
        if not isinstance(value, Raw):
            return as_yaml(value)
        text = value.strip()
        quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
        takes_text = path in self.placeholders or isinstance(
            value_at(self.before, path), str
        )
        if takes_text and not quoted:
            return "null" if text in ("null", "~", "") else as_yaml(text)
        refuse_bomb(text)
        try:
            YAML().compose(f"key: {text}")
        except YAMLError:
            return as_yaml(text)
        return text or "null"


def base_chain(path: str) -> list[Document]:
    """A YAML and the bases under it, the full one first."""
    documents: list[Document] = []
    seen, named_by, top = [], "", path
    while True:
        key = "base" if named_by else "YAML"
        try:
            if os.path.realpath(path) in seen:
                names = [os.path.basename(d.file) for d in documents[::-1]]
                circle = " -> ".join([*names, os.path.basename(path)])
                raise ValueError(f"the bases go in a circle, {circle}")
            document = Document.read(path)
        except ValueError as error:
            fault = Fault(key, path, str(error), named_by)
            raise ConfigError(top, [fault]) from None
        documents.insert(0, document)
        seen.append(os.path.realpath(path))
        base = document.find(("base",))
        if base is None:
            return documents
        named_by, path = path, os.path.join(document.folder, text_of(base))


# ----------------------------------------------------------------------------
# Included fragments. HyperPyYAML resolves an include late: a reference above
# it fails, a child of it cannot be overridden, and an object passed into it is
# built twice. Written in before anything else is done, it is data like other.


def _open_all(document: Document) -> list[Fault]:
    """Write in every included fragment."""
    includes = [path for path, node in document.walk() if is_include(node)]
    return sum((_open(document, path) for path in includes), [])


def _open(document: Document, path: Path, above: tuple = ()) -> list[Fault]:
    """Write in the fragment included at a path; the faults of it."""
    node, parent = document.find(path), document.find(path[:-1])
    file = include_file(node)
    try:
        if not isinstance(parent, CommentedMap) or parent.fa.flow_style():
            raise ValueError("put the include on a line of its own, key first")
        margin = document.margin + INDENT * len(path)
        fragment, faults = _fragment(file, margin, above)
    except ValueError as error:
        return [Fault(label(path), tag_of(node), str(error), document.file)]
    if faults:
        return faults
    document.put(path, fragment.root)
    # An include's own children are laid over what it includes.
    for key, value in node.items() if isinstance(node, dict) else ():
        below = (*path, key)
        if document.find(below) is None:
            known = ", ".join(document.keys(path))
            mend = f"unknown key: {tag_of(node)} has {known}"
            told = written(value)
            faults.append(Fault(label(below), told, mend, document.file))
        else:
            document.put(below, value)
    return faults


def _fragment(
    file: str, margin: int, above: tuple
) -> tuple[Document, list[Fault]]:
    """An included file, with what it includes written in."""
    real = os.path.realpath(file)
    if real in above:
        names = " -> ".join(os.path.basename(f) for f in (*above, real))
        raise ValueError(f"the includes go in a circle, {names}")
    fragment = Document.read(file, margin)
    fragment.root.ca.comment = None
    name, faults = os.path.basename(file), []
    if not fragment.root:
        raise ValueError(f"{name} is empty: give it `key: value` lines")
    for path, node in list(fragment.walk()):
        if is_include(node):
            faults += _open(fragment, path, (*above, real))
        elif tag_of(node) and not tag_of(node).startswith(PLAIN_TAG):
            raise ValueError(
                f"{name} has {tag_of(node)} at {label(path)}: included files "
                "hold plain data, objects and references stand in the recipe's"
            )
        elif path[-1] == "source" and text_of(node).startswith(("./", "../")):
            # Relative to the file that says so.
            source = os.path.join(fragment.folder, text_of(node))
            fragment.put(path, os.path.realpath(source))
    return fragment, faults
