"""What may be in an exported folder: names, kinds of files, keys.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import re

from speechbrain_ext.export.layout import ExportError

PART = re.compile(r"[\w][\w.+-]*")
# Of these, none runs or unpickles anything.
SUFFIXES = (".json", ".safetensors", ".md", ".txt")
PLAIN_TEXTS = ("LICENSE", "NOTICE")
LARGEST_JSON = 64 * 2**20
# Keys with which a configuration names code, or another way of loading.
CODE = {
    "auto_map",
    "custom_generate",
    "custom_pipelines",
    "trust_remote_code",
    "quantization_config",
    "compression_config",
    "attn_implementation",
    "_attn_implementation",
    "experts_implementation",
    "use_kernels",
}
AGAIN = "fetch or export it again"


def read_json(path):
    """A JSON file, or why it cannot be read.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    object

    Raises
    ------
    ExportError
        If it is missing, too large, or not JSON.
    """
    try:
        if os.path.getsize(path) > LARGEST_JSON:
            raise ExportError(f"{path}: is too large for a settings file")
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (ValueError, RecursionError, OSError) as error:
        if isinstance(error, ExportError):
            raise
        raise ExportError(
            f"{path}: cannot be read as JSON ({error}): {AGAIN}"
        ) from error


def path_parts(name, folder):
    """A relative path's parts, none of which leads out of the folder."""
    parts = name.split("/") if isinstance(name, str) else [""]
    if not all(PART.fullmatch(part) for part in parts):
        raise ExportError(
            f"{folder}: the path {name!r:.100} is not one inside the folder: "
            "do not use this folder"
        )
    return parts


def check_kind(name, folder):
    """Refuse files of kinds that could carry code."""
    parts = path_parts(name, folder)
    if not parts[-1].endswith(SUFFIXES) and parts[-1] not in PLAIN_TEXTS:
        raise ExportError(
            f"{os.path.join(folder, name)}: a file of this kind is not part "
            "of an export (JSON and safetensors only): do not use this folder"
        )


def keys_of(content):
    """Every key at any depth of parsed JSON (set)."""
    found, left = set(), [content]
    while left:
        one = left.pop()
        if isinstance(one, dict):
            # Set to nothing, a key names nothing.
            found.update(key for key, value in one.items() if value)
            left.extend(one.values())
        elif isinstance(one, list):
            left.extend(one)
    return found
