"""A HyperPyYAML file as a tree that is written out as it was read.

ruamel keeps comments, quotes and tags. Plain scalars stay the text that stands
there (``1e-3``, ``False``, ``null``): what they mean is HyperPyYAML's to say.
"""

from __future__ import annotations

import difflib
import io
import os
import re
import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import (
    CommentedBase,
    CommentedMap,
    CommentedSeq,
    TaggedScalar,
)
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag
from ruamel.yaml.tokens import AliasToken, AnchorToken, CommentToken

from speechbrain_ext.training.faults import label
from speechllm.packaged import included_path

# Letters, and brackets or indents open at once: parsers of YAML take minutes
# over a hundred thousand brackets. The largest settings have 7,000 letters.
LARGEST, DEEPEST = 100_000, 40
INCLUDE = "!include:"
# HyperPyYAML's own, and those of YAML that its loader knows.
TAGS = re.compile(
    r"!(new|name|module|apply|applyref|include):.*|!(ref|copy|tuple|PLACEHOLDER)"
    r"|(tag:yaml.org,2002:|!!)(str|int|float|bool|null|map|seq|set|omap|pairs"
    r"|binary|timestamp|merge|value)|"
)
INDENT = 4
Path = tuple  # of keys (str) and places in lists (int)
NO_VALUE = object()


class _AsWritten(VersionedResolver):
    """Takes every plain scalar for a text."""

    def resolve(self, kind, value, implicit):
        if kind is ScalarNode:
            return Tag(suffix="tag:yaml.org,2002:str")
        return super().resolve(kind, value, implicit)


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Resolver = _AsWritten
    yaml.preserve_quotes = True
    yaml.width = 1_000_000
    yaml.indent(mapping=INDENT, sequence=INDENT + 2, offset=INDENT)
    return yaml


def tag_of(node: Any) -> str:
    """A node's tag, such as ``!ref``; empty where there is none."""
    has_tag = isinstance(node, CommentedBase)
    return str(node.tag.value or "") if has_tag else ""


def text_of(node: Any) -> str:
    """A scalar's text; empty for lists and mappings."""
    if isinstance(node, TaggedScalar):
        return node.value
    return node if isinstance(node, str) else ""


def is_include(node: Any) -> bool:
    """Whether a node is an ``!include:``."""
    return tag_of(node).startswith(INCLUDE)


def include_file(node: Any) -> str:
    """The file that an include names, its whole path."""
    return tag_of(node)[len(INCLUDE) :]


def point(node: Any, file: str) -> None:
    """Have an include name another file."""
    node.yaml_set_ctag(Tag(suffix=INCLUDE + file))


def written(node: Any) -> str:
    """A node as it stands in a file, without the key before it."""
    stream = io.StringIO()
    _yaml().dump({"x": node}, stream)
    return stream.getvalue()[2:].strip()


def value_at(node: Any, path: Path) -> Any:
    """What lies at a path of nested mappings and lists, or ``NO_VALUE``."""
    for part in path:
        try:
            node = NO_VALUE if isinstance(node, str) else node[part]
        except (KeyError, IndexError, TypeError):
            return NO_VALUE
    return node


class Document:
    """A file's tree of mappings, lists, tagged and other scalars.

    ``margin`` is how deep the text will stand within another document.
    """

    def __init__(self, text: str, file: str, margin: int = 0) -> None:
        self.file, self.margin = file, margin
        self.folder = os.path.dirname(os.path.realpath(file))
        self.head = _head(text)
        self.root = _tree(textwrap.indent(text, " " * margin))
        for path, node in self.walk():
            if is_include(node):
                point(node, included_path(include_file(node), self.folder))
        _part_comments(self.root)

    @classmethod
    def read(cls, file: str, margin: int = 0) -> Document:
        """Read a file; its includes are pointed to by absolute paths."""
        try:
            with open(file, encoding="utf-8") as stream:
                return cls(stream.read(), file, margin)
        except OSError:
            raise ValueError(
                "no such file: give the path of a YAML file"
            ) from None

    @property
    def text(self) -> str:
        """The document as YAML."""
        stream = io.StringIO()
        _yaml().dump(self.root, stream)
        return stream.getvalue()

    def find(self, path: Path) -> Any:
        """The node at a path, or None."""
        found = value_at(self.root, path)
        return None if found is NO_VALUE else found

    def keys(self, path: Path = ()) -> list[str]:
        """The keys of the mapping at a path."""
        node = self.find(path)
        return list(node) if isinstance(node, dict) else []

    def nearest(self, path: Path) -> str | None:
        """The key that is most like one that is not there, with its path."""
        missing = next(
            length
            for length in range(len(path))
            if self.find(path[: length + 1]) is None
        )
        above, known = path[:missing], self.keys(path[:missing])
        close = difflib.get_close_matches(str(path[missing]), known, 1)
        return label((*above, *close)) if close else None

    def walk(self) -> Iterator[tuple[Path, Any]]:
        """Every node under the root with its path, as they stand."""
        yield from _walk((), self.root)

    def put(self, path: Path, new: Any) -> None:
        """Exchange the value at a path; comments around it stay."""
        *above, key = path
        parent = self.find(tuple(above))
        slot, beside = _slot(parent, key)
        if slot[beside]:
            slot[beside] = _comment(slot[beside].value)
        parent[key] = None  # or else ruamel gives the new the old's quotes
        parent[key] = new


# ----------------------------------------------------------------------------
# Reading.


def _head(text):
    """The comment lines above the first key, blank line included."""
    return re.match(r"(?:[ \t]*(?:#[^\n]*)?\n)*", text).group()


def refuse_bomb(text: str) -> None:
    """Refuse what is no settings file, and takes a parser very long."""
    if len(text) > LARGEST:
        raise ValueError(f"has {len(text)} letters: it is no settings file")
    deep = 0
    for sign in text:
        deep += (sign in "[{") - (sign in "]}")
        if deep > DEEPEST:
            raise ValueError("is nested too deep: it is no settings file")
    if re.search(rf"^ {{{8 * DEEPEST},}}\S", text, re.MULTILINE):
        raise ValueError("is indented too deep: it is no settings file")


def _tree(text):
    """The tree of a text, without what HyperPyYAML reads otherwise than meant."""
    refuse_bomb(text)
    try:
        tokens = list(YAML().scan(text))
        root = _yaml().load(text)
    except DuplicateKeyError as error:
        key = re.search('"(.*?)"', error.problem)[1]
        line = error.problem_mark.line + 1
        raise ValueError(f"has the key {key} twice (line {line}): keep one")
    except YAMLError as error:
        if re.search(rf"{INCLUDE}\S*<", text):
            raise ValueError(
                "has a reference in an include's name: name the file, "
                "and choose another with a variant"
            ) from error
        raise ValueError(f"is no YAML: {error}") from error
    except RecursionError:
        raise ValueError("is nested too deep: it is no settings file") from None
    for token in tokens:
        if isinstance(token, (AnchorToken, AliasToken)):
            line = token.start_mark.line + 1
            raise ValueError(f"has an anchor at line {line}: use !ref <key>")
    if root is None:
        return _yaml().map()
    if is_include(root):
        raise ValueError("includes at its root: put the include under a key")
    if tag_of(root).startswith("!"):
        raise ValueError(f"is a {tag_of(root)} as a whole: put it under a key")
    if not isinstance(root, dict):
        raise ValueError("holds no keys: write `key: value` lines")
    for path, node in [(("root",), root), *_walk((), root)]:
        # These call what they name wherever they stand: HyperPyYAML's loader
        # knows them too.
        if "python/" in tag_of(node):
            raise ValueError(
                f"has {tag_of(node):.80} at {label(path)}, which would run "
                "code: objects are made by !new:, in the recipe's own YAML"
            )
        if not TAGS.fullmatch(tag_of(node)):
            raise ValueError(
                f"has {tag_of(node):.80} at {label(path)}, which is no tag of "
                "HyperPyYAML: quote the value, or correct the tag"
            )
    keys = [path[-1] for path, _ in _walk((), root)]
    odd = [key for key in keys if not isinstance(key, (str, int))]
    if odd:
        raise ValueError(f"has the key {odd[0]!r:.80}: write a word")
    if "<<" in keys:
        raise ValueError("has `<<:`: put the include under a key")
    return root


def _walk(path, node):
    if path:
        yield path, node
    for key, value in _items(node):
        yield from _walk((*path, key), value)


def _items(node):
    if isinstance(node, dict):
        return node.items()
    return enumerate(node) if isinstance(node, list) else ()


# ----------------------------------------------------------------------------
# Comments. ruamel keeps all that stands between a value and the next key with
# the value, or with that key where a tag has no value. An exchanged value
# would take the head of the next section along, so they are parted here.

ABOVE, WITHIN = 1, 3  # places in ruamel's comments of a key


def _part_comments(root):
    """Leave a value what stands beside it; the next key gets the lines below."""
    places = list(_places(root))
    for (parent, key), following in zip_longest(places, places[1:]):
        slot, beside = _slot(parent, key)
        after, within = slot[beside], slot[WITHIN] or []
        slot[beside] = slot[WITHIN] = None
        if isinstance(parent[key], (CommentedMap, CommentedSeq)):
            parent[key].ca.comment = None
        below = _slot(*following)[0][ABOVE] if following else root.ca.end
        tokens = [*([after] if after else []), *within, *(below or [])]
        if tokens and (after or _is_beside(tokens[0], parent, key)):
            first, _, rest = tokens[0].value.partition("\n")
            column = tokens[0].start_mark.column
            slot[beside] = _comment(f"{first}\n", column) if first else None
            tokens[0] = _comment(rest)
        tokens = [token for token in tokens if token.value]
        if following:
            _slot(*following)[0][ABOVE] = tokens
        else:
            root.ca.end = tokens


def _places(node):
    """Every key and item that has a line of its own: (parent, key)."""
    if isinstance(node, (dict, list)) and not node.fa.flow_style():
        for key, value in _items(node):
            yield node, key
            yield from _places(value)


def _slot(parent, key):
    """The comments of a key, and where among them stands what is beside."""
    slot = parent.ca.items.setdefault(key, [None] * 4)
    return slot, 2 if isinstance(parent, dict) else 0


def _is_beside(token, parent, key):
    """Whether a comment stands on the line of a key or of its value."""
    lines = (parent.lc.data or {}).get(key, ())[::2]
    return token.value[0] == "#" and token.start_mark.line in lines


def _comment(text, column=0):
    return CommentToken(text, CommentMark(column), None)
