"""The faults of a configuration, and plain values as people write them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import yaml

ABSENT = object()  # a fault without a value to show


@dataclass(frozen=True)
class Fault:
    """One thing wrong in a configuration."""

    key: str  # nested ones with dots: backbone.source
    value: object  # what stands there, or ABSENT
    mend: str  # what is wrong, and how to put it right
    file: str = ""  # where the value came from, or "command line"

    def __str__(self) -> str:
        shown = ""
        if self.value is not ABSENT:
            is_text = isinstance(self.value, str)
            shown = f"{self.value if is_text else as_yaml(self.value)}, "
        where = f" ({self.file})" if self.file else ""
        return f"{self.key}: {shown}{self.mend}{where}"


class ConfigError(ValueError):
    """Every fault of the configuration that was asked for, told at once."""

    def __init__(self, path: str, faults: Iterable[Fault]) -> None:
        # By what they say: a value may be a list, which has no hash.
        self.faults = list({str(fault): fault for fault in faults}.values())
        number = len(self.faults)
        lines = "".join(f"\n  - {fault}" for fault in self.faults)
        plural = "" if number == 1 else "s"
        super().__init__(f"{path} has {number} fault{plural}:{lines}")


def as_yaml(value: Any) -> str:
    """One line of YAML 1.1 and 1.2 alike for a plain value."""
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


def label(path: Iterable[str | int]) -> str:
    """A path of keys as people write it: ``("a", "b", 0)`` is ``a.b[0]``."""
    parts = (f"[{p}]" if isinstance(p, int) else f".{p}" for p in path)
    return "".join(parts).lstrip(".")
