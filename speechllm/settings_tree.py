"""A HyperPyYAML file as a tree that is written out as it was read.

ruamel keeps comments, quotes and tags. Plain scalars stay the text that stands
there (``1e-3``, ``False``, ``null``): what they mean is HyperPyYAML's to say.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedBase, TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError
from ruamel.yaml.error import CommentMark, YAMLError
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.resolver import VersionedResolver
from ruamel.yaml.tag import Tag
from ruamel.yaml.tokens import AliasToken, AnchorToken, CommentToken

INCLUDE = "!include:"
INDENT = 4
Path = tuple  # of keys (str) and places in lists (int)


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
                whole = os.path.join(self.folder, include_file(node))
                point(node, os.path.abspath(whole))
        _keep_comments_beside(self)

    @classmethod
    def read(cls, file: str, margin: int = 0) -> Document:
        """Read a file; its includes are pointed to by absolute paths."""
        with open(file, encoding="utf-8") as stream:
            return cls(stream.read(), file, margin)

    @property
    def text(self) -> str:
        """The document as YAML."""
        stream = io.StringIO()
        _yaml().dump(self.root, stream)
        return stream.getvalue()

    def find(self, path: Path) -> Any:
        """The node at a path, or None."""
        node = self.root
        for part in path:
            if isinstance(node, dict) and part in node:
                node = node[part]
            elif isinstance(node, list) and part in range(len(node)):
                node = node[part]
            else:
                return None
        return node

    def keys(self, path: Path = ()) -> list[str]:
        """The keys of the mapping at a path."""
        node = self.find(path)
        return list(node) if isinstance(node, dict) else []

    def walk(self) -> Iterator[tuple[Path, Any]]:
        """Every node under the root with its path, as they stand."""
        yield from _walk((), self.root)

    def put(self, path: Path, new: Any) -> None:
        """Exchange the value at a path; comments around it stay."""
        *above, key = path
        parent = self.find(tuple(above))
        beside, after = _comments(parent, key)
        parent[key] = None  # or else ruamel gives the new the old's quotes
        parent[key] = new
        if _is_block(new):
            _comment(parent, key, beside)
            _comment(*_last(new), after)
        else:
            _comment(parent, key, beside + after)


# ----------------------------------------------------------------------------
# Reading.


def _head(text):
    """The comment lines above the first key, blank line included."""
    return re.match(r"(?:[ \t]*(?:#[^\n]*)?\n)*", text).group()


def _tree(text):
    """The tree of a text, without what HyperPyYAML reads otherwise than meant."""
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
    for token in tokens:
        if isinstance(token, (AnchorToken, AliasToken)):
            line = token.start_mark.line + 1
            raise ValueError(f"has an anchor at line {line}: use !ref <key>")
    if root is None:
        return _yaml().map()
    if is_include(root):
        raise ValueError("includes at its root: put the include under a key")
    if not isinstance(root, dict):
        raise ValueError("holds no keys: write `key: value` lines")
    if any(path[-1] == "<<" for path, _ in _walk((), root)):
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
# Comments. ruamel keeps what follows a value, up to the next key, with that
# value: what stands beside it, and the lines below. After a tag without a
# value it gives both to the next key, and would write them on a new line.


def _is_block(node):
    return isinstance(node, (dict, list)) and node and not node.fa.flow_style()


def _slot(parent, key):
    """The comments of a key, and where among them what follows it stands."""
    is_map = isinstance(parent, dict)
    empty = [None] * 4
    return parent.ca.items.setdefault(key, empty), 2 if is_map else 0


def _comment(parent, key, text, column=0):
    """Set what follows a key's value; by default a space after it."""
    slot, place = _slot(parent, key)
    if len(slot) > 3:
        slot[3] = None
    token = CommentToken(text, CommentMark(column), None)
    slot[place] = token if text else None


def _last(node):
    """The place of a block's last value: (parent, key)."""
    while True:
        parent, (key, node) = node, list(_items(node))[-1]
        if not _is_block(node):
            return parent, key


def _comments(parent, key):
    """What stands beside a value, and the lines below it."""
    slot, place = _slot(parent, key)
    tokens = [slot[place], *((slot[3:] or [None])[0] or ())]
    text = "".join(token.value for token in tokens if token)
    beside, after = _split(text)
    if _is_block(parent[key]):
        slot, place = _slot(*_last(parent[key]))
        # What stands beside the last line spoke of what now goes.
        after = _split(slot[place].value)[1] if slot[place] else ""
    return beside, after


def _split(text):
    first, line_end, after = text.partition("\n")
    return first, line_end + after


def _keep_comments_beside(document):
    """Give what stands beside a tag without a value back to it."""
    before, line = None, None
    for path, node in document.walk():
        *above, key = path
        parent = document.find(tuple(above))
        if not isinstance(parent, dict):
            continue
        _, above_it, _, inside = parent.ca.items.get(key, [None] * 4)
        here = parent.lc.key(key)[0]
        if before and _beside(above_it, line):
            _comment(*before, *_joined(above_it))
            parent.ca.items[key][1] = None
        if _beside(inside, here):
            _comment(parent, key, *_joined(inside))
            node.ca.comment = None
        before, line = (parent, key), here
    if before and _beside(document.root.ca.end, line):
        _comment(*before, *_joined(document.root.ca.end))
        document.root.ca.end = []


def _beside(tokens, line):
    return bool(tokens) and tokens[0].start_mark.line == line


def _joined(tokens):
    text = "".join(token.value for token in tokens)
    return text, tokens[0].start_mark.column
