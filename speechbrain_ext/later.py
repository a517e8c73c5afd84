"""Parts that a later pull request brings: used where they are there."""

import importlib
import importlib.util
from typing import Any


def later(module: str, wanted: str = "") -> Any:
    """A module of this package by its name, or None where it is not there.

    Where a setting has `wanted` it, that is refused by name (ValueError).
    """
    name = f"{__package__}.{module}"
    if importlib.util.find_spec(name) is not None:
        return importlib.import_module(name)
    if wanted:
        raise ValueError(f"{wanted}: needs {name}, which is not there yet")
    return None
