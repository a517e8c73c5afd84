"""HyperPyYAML files as text with a tree over it.

A value is exchanged by cutting it out of the text, so that comments, banners,
tags, references and quotes around it stay exactly as they were written.
"""

import os
import re

import yaml

from speechbrain_ext.training.faults import label

MAP = "tag:yaml.org,2002:map"
INCLUDE = "!include:"


def is_mapping(node):
    """Whether a node is a mapping (of any tag)."""
    return isinstance(node, yaml.MappingNode)


def is_include(node):
    """Whether a node is an ``!include:``."""
    return node.tag.startswith(INCLUDE)


def span(node):
    """Where a node's text begins and ends, without what follows it."""
    leaf = node
    while (
        isinstance(leaf, yaml.CollectionNode)
        and not leaf.flow_style
        and leaf.value
    ):
        leaf = leaf.value[-1]
        leaf = leaf[1] if isinstance(leaf, tuple) else leaf
    return node.start_mark.index, leaf.end_mark.index


class Document:
    """A YAML file's text and the tree of its nodes."""

    def __init__(self, text, file):
        self.text = text if text.endswith("\n") else text + "\n"
        self.file = file
        self.folder = os.path.dirname(os.path.realpath(file))
        self.parse()
        refuse_traps(self)

    @classmethod
    def read(cls, file):
        """Read a file; see ``Document``."""
        with open(file, encoding="utf-8") as stream:
            return cls(stream.read(), file)

    def parse(self):
        """Make the tree of the text anew."""
        try:
            self.root = yaml.compose(self.text, Loader=yaml.SafeLoader)
        except yaml.YAMLError as error:
            if re.search(r"!include:\S*<", self.text):
                raise ValueError(
                    "has a reference in an include's name: name the file, "
                    "and choose another with a variant"
                ) from error
            raise ValueError(f"is no YAML: {error}") from error
        if self.root is None:
            self.root = yaml.MappingNode(MAP, [])

    def keys(self, path=()):
        """The keys of the mapping at a path."""
        node = self.find(path)[1]
        return [key.value for key, _ in node.value] if is_mapping(node) else []

    def find(self, path):
        """The nodes (key, value) at a path, or None."""
        key, node = None, self.root
        for part in path:
            if is_mapping(node):
                pairs = {k.value: (k, v) for k, v in node.value}
                if part not in pairs:
                    return None
                key, node = pairs[part]
            elif isinstance(node, yaml.SequenceNode) and part in range(
                len(node.value)
            ):
                key, node = None, node.value[part]
            else:
                return None
        return key, node

    def walk(self):
        """Every node under the root with its path: (path, node)."""
        waiting = [((), self.root)]
        while waiting:
            path, node = waiting.pop()
            if path:
                yield path, node
            if is_mapping(node):
                below = [(path + (k.value,), v) for k, v in node.value]
            elif isinstance(node, yaml.SequenceNode):
                below = [(path + (i,), v) for i, v in enumerate(node.value)]
            else:
                below = []
            waiting.extend(reversed(below))

    def head_comment(self):
        """The comment lines above the first key, blank line included."""
        return re.match(r"(?:[ \t]*(?:#[^\n]*)?\n)*", self.text).group()

    def value_text(self, key, value, shift=0):
        """A value's text as written, its further lines moved by ``shift``."""
        start, end = span(value)
        text = self.text[start:end].rstrip()
        if value.start_mark.line > key.end_mark.line:
            text = "\n" + " " * value.start_mark.column + text
        first, *rest = text.split("\n")
        if shift >= 0:
            rest = [" " * shift + line if line else line for line in rest]
        else:
            rest = [re.sub(f"^ {{0,{-shift}}}", "", line) for line in rest]
        return "\n".join([first, *rest])

    def replace(self, path, new):
        """Put the text ``new`` in place of the value at a path."""
        key, value = self.find(path)
        start, end = span(value)
        end = start + len(self.text[start:end].rstrip())
        after = self.text[end:]
        if "\n" in self.text[start:end]:
            # A comment beside the last line spoke of what now goes.
            after = re.sub(r"^[ \t]*#[^\n]*", "", after)
        if key is None:
            self.text = self.text[:start] + new + after
        else:
            colon = self.text.index(":", key.end_mark.index) + 1
            between = self.text[colon:start]
            beside = between.split("\n")[0] if "\n" in between else ""
            if "\n" in new and not beside:
                beside = re.match(r"(?:[ \t]+#[^\n]*)?", after).group()
                after = after[len(beside) :]
            first, *rest = new.split("\n", 1)
            first = f" {first}" if first else ""
            new = "\n".join([first + beside.rstrip(), *rest])
            self.text = self.text[:colon] + new + after
        self.parse()


def refuse_traps(document):
    """Refuse what HyperPyYAML fails on, or reads otherwise than meant."""
    root = document.root
    if is_include(root):
        raise ValueError("includes at its root: put the include under a key")
    if not is_mapping(root):
        raise ValueError("holds no keys: write `key: value` lines")
    for token in yaml.scan(document.text):
        if isinstance(token, (yaml.AnchorToken, yaml.AliasToken)):
            line = token.start_mark.line + 1
            raise ValueError(f"has an anchor at line {line}: use !ref <key>")
    for path, node in [((), root), *document.walk()]:
        keys = [k.value for k, _ in node.value] if is_mapping(node) else []
        if "<<" in keys:
            raise ValueError("has `<<:`: put the include under a key")
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            name = label(path + (twice[0],))
            raise ValueError(f"has the key {name} twice: keep one")
