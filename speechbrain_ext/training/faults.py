"""The faults of a configuration, and plain values as people write them."""

import json
import re
from dataclasses import dataclass

import yaml

ABSENT = object()  # a fault without a value to show


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a configuration.

    Arguments
    ---------
    key : str
        The key, nested ones with dots: ``backbone.source``.
    value : object
        What stands there; ``ABSENT`` where there is nothing to show.
    mend : str
        What is wrong and how to put it right.
    file : str
        The file (or "command line") that the value came from.
    """

    key: str
    value: object
    mend: str
    file: str = ""

    def __str__(self):
        shown = ""
        if self.value is not ABSENT:
            is_text = isinstance(self.value, str)
            shown = f"{self.value if is_text else as_yaml(self.value)}, "
        where = f" ({self.file})" if self.file else ""
        return f"{self.key}: {shown}{self.mend}{where}"


class ConfigError(ValueError):
    """Every fault of a configuration, told at once.

    Arguments
    ---------
    path : str
        The YAML file that was asked for.
    faults : list
        Of ``Fault``.
    """

    def __init__(self, path, faults):
        self.faults = list(dict.fromkeys(faults))
        number = len(self.faults)
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        plural = "" if number == 1 else "s"
        super().__init__(f"{path} has {number} fault{plural}:{lines}")


def as_yaml(value):
    """One line of YAML 1.1 and 1.2 alike for a plain value.

    Arguments
    ---------
    value : None, bool, int, float, str, list or dict
        What to write.

    Returns
    -------
    str
        The text.
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, float):
        text = repr(value)
        if text in ("inf", "-inf", "nan"):
            return text.replace("inf", ".inf").replace("nan", ".nan")
        # Without its point, 1e-05 is a text to YAML 1.1.
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(as_yaml(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{as_yaml(k)}: {as_yaml(v)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    if isinstance(value, int):
        return str(value)
    value = str(value)
    plain = re.fullmatch(r"[A-Za-z./~][\w./-]*", value)
    if plain and isinstance(yaml.safe_load(value), str):
        return value
    return json.dumps(value, ensure_ascii=False)


def label(path):
    """A path of keys as people write it: ``("a", "b", 0)`` is ``a.b[0]``.

    Arguments
    ---------
    path : tuple
        Of keys (str) and places in lists (int).

    Returns
    -------
    str
        The label.
    """
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return "".join(parts).lstrip(".")
