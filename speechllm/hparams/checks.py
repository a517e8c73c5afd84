"""What can be said of a merged configuration before anything is built."""

import pydoc
import re

from speechbrain_ext.training.faults import ABSENT, Fault, as_yaml, label
from speechllm.hparams.resolve import (
    NO_VALUE,
    is_object,
    plain_values,
    value_at,
)


def check(document, before, changed):
    """Every fault of a merged document, and its plain values."""
    plain, faults = plain_values(document)
    faults += placeholder_faults(document)
    faults += quoted_tuple_faults(document)
    faults += missing_class_faults(document)
    for path in changed:
        was, now = value_at(before, path), value_at(plain, path)
        if was is not NO_VALUE and now is not NO_VALUE:
            faults += type_faults(path, was, now)
    return plain, faults


def placeholder_faults(document):
    """A fault for each ``!PLACEHOLDER`` that is still there."""
    faults = []
    for path, node in document.walk():
        if node.tag == "!PLACEHOLDER":
            key = label(path)
            what = "DIR" if key.endswith("folder") else "VALUE"
            faults.append(Fault(key, ABSENT, f"give it with --{key} {what}"))
    return faults


def quoted_tuple_faults(document):
    """Faults for texts in brackets: their quotes are lost, they become tuples."""
    faults = []
    for path, node in document.walk():
        quoted = getattr(node, "style", None) is not None
        if quoted and isinstance(node.value, str):
            if re.fullmatch(r"\(.*\)", node.value):
                mend = "would be read as a tuple: begin or end it otherwise"
                faults.append(Fault(label(path), node.value, mend))
    return faults


def missing_class_faults(document):
    """Faults for classes and functions that cannot be found."""
    faults = []
    for path, node in document.walk():
        if not is_object(node):
            continue
        name = node.tag.split(":", 1)[1]
        try:
            found = pydoc.locate(name)
            why = "is nowhere to be found" if found is None else ""
        except pydoc.ErrorDuringImport as error:
            why = f"cannot be imported ({error.value})"
        if why:
            mend = f"{why}: correct the name, or install what holds it"
            faults.append(Fault(label(path), name, mend))
    return faults


def type_faults(path, was, now):
    """Faults where a value is of another kind than the base's."""
    if was is None or (now is None and isinstance(was, str)):
        return []
    if isinstance(was, dict) and isinstance(now, dict):
        both = [key for key in was if key in now]
        pairs = [type_faults((*path, k), was[k], now[k]) for k in both]
        return sum(pairs, [])
    if isinstance(was, list) and isinstance(now, list):
        kinds = {kind(item) for item in was}
        like = was[0] if len(kinds) == 1 else None
        items = [type_faults((*path, i), like, v) for i, v in enumerate(now)]
        return sum(items, [])
    wanted, given = kind(was), kind(now)
    if wanted == given or (wanted == "a number" and given == "a whole number"):
        return []
    shown = f'"{now}"' if isinstance(now, str) else now
    mend = f"is {given} where {wanted} belongs: {type_mend(was, now)}"
    return [Fault(label(path), shown, mend)]


def kind(value):
    """What people call the kind of a plain value."""
    names = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "a mapping",
        type(None): "nothing",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def type_mend(was, now):
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
        if number == int(number):
            how = " without quotes" if isinstance(now, str) else ""
            return f"write {int(number)}{how}"
        return "write a number without a fraction"
    if isinstance(was, str):
        return f'write "{now}" with quotes'
    if isinstance(was, list):
        return f"write {as_yaml([now])}"
    return f"write keys below it, such as {as_yaml(was)}"
