"""Included fragments: plain data, from wherever the file that names them lies.

HyperPyYAML resolves an include late: a reference above it fails, a child of it
cannot be overridden, and an object passed into it is built twice. Written into
the text before anything else is done, it is data like any other.
"""

import os
import re
import textwrap

from speechbrain_ext.training.faults import Fault, as_yaml, label
from speechllm.hparams.document import (
    INCLUDE,
    Document,
    is_include,
    is_mapping,
    span,
)


def include_file(document, node):
    """The file that an include of a document names."""
    return os.path.join(document.folder, node.tag[len(INCLUDE) :])


def repoint(document, folder):
    """Write a document's includes relative to another folder."""
    nodes = [node for _, node in document.walk() if is_include(node)]
    for node in sorted(nodes, key=lambda n: -n.start_mark.index):
        file = os.path.abspath(include_file(document, node))
        start = node.start_mark.index
        written = re.match(r"!include:[^\s,\]}]*", document.text[start:])
        if folder is not None:
            file = os.path.relpath(file, folder)
        end = start + written.end()
        document.text = (
            document.text[:start] + INCLUDE + file + document.text[end:]
        )
    document.folder = folder or document.folder
    document.parse()


def inline_all(document):
    """Write every included fragment into the text."""
    faults = []
    for path, node in list(document.walk()):
        if is_include(node):
            faults += inline(document, path)
    return faults


def inline(document, path, above=()):
    """Write the fragment included at a path into the text."""
    key, node = document.find(path)
    file = include_file(document, node)
    try:
        if key is None or document.find(path[:-1])[1].flow_style:
            raise ValueError("put the include on a line of its own, key first")
        fragment, faults = read_fragment(file, above)
    except OSError:
        mend = f"no such file: {file}"
        return [Fault(label(path), node.tag, mend, document.file)]
    except ValueError as error:
        return [Fault(label(path), node.tag, str(error), document.file)]
    if faults:
        return faults
    body = Document(document.text, document.file)
    start = span(fragment.root.value[0][0])[0]
    text = fragment.text[start : span(fragment.root)[1]]
    margin = " " * (key.start_mark.column + 4)
    document.replace(path, "\n" + textwrap.indent(text.rstrip(), margin))
    return lay_body(document, path, body)


def lay_body(document, path, body):
    """Lay an include's own children over the fragment just written in."""
    faults = []
    node = body.find(path)[1]
    for key, value in node.value if is_mapping(node) else []:
        below = path + (key.value,)
        if document.find(below) is None:
            known = ", ".join(document.keys(path))
            mend = f"unknown key: {node.tag} has {known}"
            faults.append(Fault(label(below), value.value, mend, body.file))
        else:
            document.replace(below, body.value_text(key, value))
    return faults


def read_fragment(file, above=()):
    """An included file, with what it includes written in."""
    real = os.path.realpath(file)
    if real in above:
        names = " -> ".join(os.path.basename(f) for f in (*above, real))
        raise ValueError(f"the includes go in a circle, {names}")
    fragment = Document.read(file)
    name, faults = os.path.basename(file), []
    if not fragment.root.value:
        raise ValueError(f"{name} is empty: give it `key: value` lines")
    for path, node in list(fragment.walk()):
        if is_include(node):
            faults += inline(fragment, path, (*above, real))
        elif node.tag.startswith("!"):
            raise ValueError(
                f"{name} has {node.tag} at {label(path)}: included files "
                "hold plain data, objects and references stand in the recipe's"
            )
        elif path[-1] == "source" and isinstance(node.value, str):
            if node.value.startswith(("./", "../")):
                source = os.path.join(fragment.folder, node.value)
                fragment.replace(path, as_yaml(os.path.realpath(source)))
    return fragment, faults
