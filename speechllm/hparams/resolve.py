"""References: what they lead to, and where HyperPyYAML would go astray."""

import difflib
import io
import re

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML

from speechbrain_ext.training.faults import ABSENT, Fault, label
from speechllm.hparams.document import Document, is_include

# Takes the place of what cannot be resolved, so that the rest still can be.
STAND_IN = "NOT-KNOWN-YET"
NO_VALUE = object()
REFERENCE = re.compile(r"<([^>]*)>")
OBJECT_TAGS = ("!new:", "!name:", "!apply:", "!applyref:", "!module:")


def is_reference(node):
    """Whether a node is ``!ref`` or ``!copy``."""
    return node.tag in ("!ref", "!copy") and isinstance(node.value, str)


def target_path(reference):
    """The path of ``a[b].attribute``: ``("a", "b")``."""
    keys = reference.split(".", 1)[0].split("[")
    return tuple(part.strip("]") for part in keys)


def plain_values(document):
    """A document's plain values, references resolved, no object built."""
    faults, unknown = [], []
    for path, node in document.walk():
        if node.tag == "!PLACEHOLDER" or is_include(node):
            unknown.append(path)
        elif is_reference(node):
            mends = reference_mends(document, path, node)
            faults += [Fault(label(path), node.value, m) for m in mends]
            if mends or needs_missing_file(document, node):
                unknown.append(path)
        elif node.tag.startswith("!applyref:"):
            # It would be called here and now.
            unknown.append(path)
    copy = Document(document.text, document.file)
    for path in dict.fromkeys(unknown):
        if copy.find(path):
            copy.replace(path, STAND_IN)
    try:
        stream = resolve_references(io.StringIO(copy.text))
        plain = strip(YAML().load(stream))
    except Exception as error:  # ruamel's and HyperPyYAML's are of many kinds
        mend = f"cannot be resolved: {error}"
        return {}, [*faults, Fault("references", ABSENT, mend)]
    return plain, faults + evaluated_texts(document, plain)


def strip(node):
    """Plain Python values of a resolved tree, without objects."""
    tag = getattr(getattr(node, "tag", None), "value", None) or ""
    if str(tag).startswith("!"):
        return NO_VALUE
    if isinstance(node, dict):
        pairs = ((str(key), strip(value)) for key, value in node.items())
        return {k: v for k, v in pairs if v is not NO_VALUE and k[:2] != "__"}
    if isinstance(node, list):
        values = (strip(value) for value in node)
        return [value for value in values if value is not NO_VALUE]
    if isinstance(node, str):
        return NO_VALUE if STAND_IN in node else str(node)
    if isinstance(node, bool) or node is None:
        return node
    for kind in (int, float):
        if isinstance(node, kind):
            return kind(node)
    return node


def reference_mends(document, path, node):
    """What is wrong with one ``!ref``, as a list of mends."""
    names = REFERENCE.findall(node.value)
    whole = REFERENCE.fullmatch(node.value.strip())
    mends = []
    for name in names:
        target = target_path(name)
        if is_open(document, target):
            continue
        found = document.find(target)
        if found is None:
            mends.append(no_such_key(document, name, target))
        elif path[: len(target)] == target or circle(
            document, path, target, ()
        ):
            mends.append(f"<{name}> leads back to {label(path)}: break it")
        elif whole and is_reference(found[1]) and comes_later(node, found[1]):
            mends.append(
                f"<{name}> stands further down and is a reference itself, "
                f"which HyperPyYAML cannot follow: move {name} above"
            )
        elif not whole and ("." in name or is_object(found[1])):
            mends.append(
                f"<{name}> is an object or its attribute, which within a "
                "longer text becomes a text: use !applyref"
            )
    return mends


def needs_missing_file(document, node):
    """Whether a reference leads into an include that could not be read."""
    for name in REFERENCE.findall(node.value):
        target = target_path(name)
        for length in range(1, len(target) + 1):
            found = document.find(target[:length])
            if found and is_include(found[1]):
                return True
    return False


def is_open(document, target):
    """Whether a path leads into an include or reference not yet resolved."""
    for length in range(1, len(target)):
        found = document.find(target[:length])
        if found and (is_include(found[1]) or is_reference(found[1])):
            return True
    return False


def is_object(node):
    """Whether a node is built by calling something."""
    return node.tag.startswith(OBJECT_TAGS)


def comes_later(node, other):
    """Whether another node stands further down."""
    return other.start_mark.index > node.start_mark.index


def no_such_key(document, name, target):
    """The mend for a reference to a key that is not there."""
    for length in range(len(target)):
        if document.find(target[: length + 1]) is None:
            known = document.keys(target[:length])
            close = difflib.get_close_matches(target[length], known, 1)
            if close:
                right = label(target[:length] + (close[0],))
                return f"<{name}> is no key here: did you mean {right}?"
    return f"<{name}> is no key here: name one that is"


def circle(document, start, target, seen):
    """Whether following references from ``target`` leads back to ``start``."""
    found = document.find(target)
    if target == start:
        return True
    if found is None or target in seen or not is_reference(found[1]):
        return False
    further = map(target_path, REFERENCE.findall(found[1].value))
    return any(circle(document, start, t, (*seen, target)) for t in further)


def evaluated_texts(document, plain):
    """Faults for texts that HyperPyYAML would reckon out."""
    faults = []
    for path, node in document.walk():
        if not is_reference(node) or REFERENCE.fullmatch(node.value.strip()):
            continue
        value = value_at(plain, path)
        meant = re.search(r"\s[-+/%]+\s|\*", node.value)
        if isinstance(value, (int, float)) and not meant:
            mend = f"would be reckoned out to {value}: put letters into a name"
            mend += " (n<a>-s<b>), or spaces around a sign of arithmetic"
            faults.append(Fault(label(path), node.value, mend))
    return faults


def value_at(plain, path):
    """The value at a path of nested dicts and lists, or ``NO_VALUE``."""
    for part in path:
        try:
            plain = plain[part]
        except (KeyError, IndexError, TypeError):
            return NO_VALUE
    return plain
