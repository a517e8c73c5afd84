"""What can be said of a merged configuration before anything is built."""

from __future__ import annotations

import copy
import io
import pydoc
import re
from collections.abc import Iterable, Iterator

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.scalarstring import ScalarString

from speechbrain_ext.training.faults import ABSENT, Fault, as_yaml, label
from speechllm.settings_tree import (
    INCLUDE,
    NO_VALUE,
    Document,
    Path,
    is_include,
    tag_of,
    text_of,
    value_at,
)

# Takes the place of what cannot be resolved, so that the rest still can be.
STAND_IN = "NOT-KNOWN-YET"
REFERENCE = re.compile(r"<([^>]*)>")
OBJECT_TAGS = ("!new:", "!name:", "!apply:", "!applyref:", "!module:")


# What YAML does not read as a text where it stands for a key.
NO_NAME = re.compile(r"(?![A-Za-z_])|(null|true|false|yes|no|on|off)$", re.I)


def check(
    document: Document, before: dict, changed: Iterable[Path]
) -> tuple[dict, list[Fault]]:
    """A merged document's plain values, and every fault of it.

    Where it was changed, values are to be of the same kind as before.
    """
    plain, faults = plain_values(document)
    for path, node in document.walk():
        faults += (
            Fault(label(path), value, mend) for value, mend in _trap(path, node)
        )
    faults += [
        Fault(str(key), str(key), "is no name: begin it with a letter")
        for key in document.root
        if NO_NAME.match(str(key))
    ]
    for path in changed:
        was, now = value_at(before, path), value_at(plain, path)
        if was is not NO_VALUE and now is not NO_VALUE:
            faults += _kind_faults(path, was, now)
    return plain, faults


def _trap(path, node):
    """What HyperPyYAML stops at or misreads in one node: (value, mend)."""
    tag, text = tag_of(node), text_of(node)
    quoted = isinstance(node, ScalarString)
    if tag == "!PLACEHOLDER":
        what = "DIR" if label(path).endswith("folder") else "VALUE"
        yield ABSENT, f"give it with --{label(path)} {what}"
    elif quoted and re.fullmatch(r"\(.*\)", text):
        # Its quotes are lost on the way.
        yield text, "would be read as a tuple: begin or end it otherwise"
    elif tag.startswith(OBJECT_TAGS):
        name = tag.split(":", 1)[1]
        try:
            found = pydoc.locate(name)
            why = "is nowhere to be found" if found is None else ""
        except pydoc.ErrorDuringImport as error:
            why = f"cannot be imported ({error.value})"
        if why:
            yield name, f"{why}: correct the name, or install what holds it"


# ----------------------------------------------------------------------------
# Plain values, and where references would go astray.


def plain_values(document: Document) -> tuple[dict, list[Fault]]:
    """A document's plain values, references resolved, no object built."""
    faults, unknown = [], []
    for path, node in document.walk():
        # What is applied by reference would be called here and now.
        if tag_of(node).startswith(("!PLACEHOLDER", INCLUDE, "!applyref:")):
            unknown.append(path)
        elif _is_reference(node):
            mends = list(_reference_mends(document, path, node))
            faults += [Fault(label(path), text_of(node), m) for m in mends]
            if mends or any(
                _is_below(document, target, is_include)
                for _, target in _targets(node)
            ):
                unknown.append(path)
    known = copy.deepcopy(document)
    for path in unknown:
        if known.find(path) is not None:
            known.put(path, STAND_IN)
    try:
        stream = resolve_references(io.StringIO(known.text))
        plain = _stripped(YAML().load(stream))
    except Exception as error:  # ruamel's and HyperPyYAML's are of many kinds
        mend = f"cannot be resolved: {error}"
        return {}, [*faults, Fault("references", ABSENT, mend)]
    return plain, faults + list(_evaluated_texts(document, plain))


def _stripped(node):
    """Plain Python values of a resolved tree, without objects."""
    if tag_of(node).startswith("!") or (
        isinstance(node, str) and STAND_IN in node
    ):
        return NO_VALUE
    if isinstance(node, dict):
        pairs = ((str(key), _stripped(value)) for key, value in node.items())
        return {k: v for k, v in pairs if v is not NO_VALUE and k[:2] != "__"}
    if isinstance(node, list):
        return [v for v in map(_stripped, node) if v is not NO_VALUE]
    for kind in (bool, int, float, str):
        if isinstance(node, kind):
            return kind(node)
    return node


def _is_reference(node):
    return tag_of(node) in ("!ref", "!copy") and bool(text_of(node))


def _targets(node):
    """A reference's names and paths: ``a[b].c`` leads to ``("a", "b")``."""
    for name in REFERENCE.findall(text_of(node)):
        keys = name.split(".", 1)[0].split("[")
        yield name, tuple(part.strip("]") for part in keys)


def _is_below(document, target, what):
    """Whether a target lies below a node of which ``what`` holds."""
    return any(
        what(document.find(target[:length])) for length in range(1, len(target))
    )


def _reference_mends(document, path, node) -> Iterator[str]:
    """What is wrong with one ``!ref``."""
    whole = REFERENCE.fullmatch(text_of(node).strip())
    for name, target in _targets(node):
        found = document.find(target)
        if _is_below(document, target, is_include) or _is_below(
            document, target, _is_reference
        ):
            continue  # not known before these are resolved
        if found is None:
            right = document.nearest(target)
            mend = f"did you mean {right}?" if right else "name one that is"
            yield f"<{name}> is no key here: {mend}"
        elif path[: len(target)] == target or _circle(document, path, target):
            yield f"<{name}> leads back to {label(path)}: break it"
        elif whole and _is_reference(found) and _later(document, path, target):
            yield (
                f"<{name}> stands further down and is a reference itself, "
                f"which HyperPyYAML cannot follow: move {name} above"
            )
        elif not whole and (
            "." in name or tag_of(found).startswith(OBJECT_TAGS)
        ):
            yield (
                f"<{name}> is an object or its attribute, which within a "
                "longer text becomes a text: use !applyref"
            )


def _later(document, path, target):
    """Whether a target stands below a path in the file."""
    order = [p for p, _ in document.walk() if p in (path, target)]
    return order[-1] == target


def _circle(document, start, target, seen=()):
    """Whether following references from ``target`` leads back to ``start``."""
    found = document.find(target)
    if target == start:
        return True
    if target in seen or not _is_reference(found):
        return False
    further = (target for _, target in _targets(found))
    return any(_circle(document, start, t, (*seen, target)) for t in further)


def _evaluated_texts(document, plain):
    """Faults for texts that HyperPyYAML would reckon out."""
    for path, node in document.walk():
        text = text_of(node)
        if not _is_reference(node) or REFERENCE.fullmatch(text.strip()):
            continue
        value = value_at(plain, path)
        meant = re.search(r"\s[-+/%]+\s|\*", text)
        if isinstance(value, (int, float)) and not meant:
            mend = f"would be reckoned out to {value}: put letters into a name"
            mend += " (n<a>-s<b>), or spaces around a sign of arithmetic"
            yield Fault(label(path), text, mend)


# ----------------------------------------------------------------------------
# Kinds of values.

KINDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}


def _kind_faults(path, was, now):
    """Faults where a value is of another kind than the base's."""
    if was is None or (now is None and isinstance(was, str)):
        return
    wanted, given = (
        KINDS.get(type(value), f"a {type(value).__name__}")
        for value in (was, now)
    )
    if isinstance(was, dict) and isinstance(now, dict):
        for key in (key for key in was if key in now):
            yield from _kind_faults((*path, key), was[key], now[key])
    elif isinstance(was, list) and isinstance(now, list):
        like = was[0] if len(set(map(type, was))) == 1 else None
        for place, item in enumerate(now):
            yield from _kind_faults((*path, place), like, item)
    elif wanted != given and (wanted, given) != (KINDS[float], KINDS[int]):
        shown = f'"{now}"' if isinstance(now, str) else now
        mend = f"is {given} where {wanted} belongs: {_kind_mend(was, now)}"
        yield Fault(label(path), shown, mend)


def _kind_mend(was, now):
    """How to write a value of the kind wanted."""
    if isinstance(was, bool):
        return "write true or false"
    if isinstance(was, (int, float)):
        try:
            number = float(now)
        except (TypeError, ValueError):
            return f"write a number, such as {as_yaml(was)}"
        if isinstance(was, float):
            return f"write {as_yaml(number)} without quotes"
        if number.is_integer():
            how = " without quotes" if isinstance(now, str) else ""
            return f"write {int(number)}{how}"
        return "write a number without a fraction"
    if isinstance(was, str):
        return f'write "{now}" with quotes'
    if isinstance(was, list):
        return f"write {as_yaml([now])}"
    return f"write keys below it, such as {as_yaml(was)}"
