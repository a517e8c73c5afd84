"""The form of an exported folder: names, task settings, hashes.

::

    config.json          what is in here: backbone, encoders, tasks
    manifest.json        size and SHA-256 of every other file
    README.md            the model card
    backbone/            a plain Hugging Face causal LM with its tokenizer
    encoders/<name>/     a speech encoder, where the hub does not have it
    tasks/<name>/        task.json, projector.safetensors, adapter/ (PEFT),
                         baseline_adapter/ (PEFT), bridge.safetensors
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields

from speechbrain_ext.model.prompt import template_faults

FORMAT = "speechbrain_ext.export/1"
CONFIG = "config.json"
MANIFEST = "manifest.json"
CARD = "README.md"
BACKBONE = "backbone"
ENCODERS = "encoders"
TASKS = "tasks"
TASK = "task.json"
PROJECTOR = "projector.safetensors"
ADAPTER = "adapter"
BASELINE_ADAPTER = "baseline_adapter"
BRIDGE = "bridge.safetensors"
PRECISIONS = ("fp32", "bf16", "fp16")
LONG_AUDIO = ("error", "chunk")
# Those that are set, and what they may be.
ENCODER_OPTIONS = {
    "normalise_input": lambda v: isinstance(v, bool),
    "output_norm": lambda v: isinstance(v, bool),
    "max_seconds": lambda v: _number(v, 0.01, 100_000),
}
ENCODER_KEYS = {"name", "kind", "dtype", "folder", "source", "revision"}
# Bytes read at once while hashing.
PIECE = 1 << 22


class ExportError(ValueError):
    """A folder that cannot be used; the message names file and mend."""


def file_hash(path):
    """SHA-256 of a file, in hexadecimal digits (str)."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        while piece := stream.read(PIECE):
            digest.update(piece)
    return digest.hexdigest()


def files_of(folder):
    """Every file below a folder, by its path in it, sorted (list of str)."""
    found = []
    for here, _, names in os.walk(folder):
        where = os.path.relpath(here, folder)
        found += [
            os.path.normpath(os.path.join(where, name)).replace(os.sep, "/")
            for name in names
        ]
    return sorted(found)


@dataclass(frozen=True)
class TaskSettings:
    """What a task was trained with; its ``task.json``."""

    task: str
    prompt: str
    encoder: dict
    downsampling: int
    chat_template: bool = False
    projector_hidden: int | None = None
    speech_markers: bool = False
    adapter: bool = False
    baseline_adapter: bool = False
    bridge: bool = False
    precision: str = "fp32"
    features_dtype: str | None = None
    long_audio: str = "error"
    max_new_tokens: int = 256
    max_tokens_per_second: float = 12.0
    piece_seconds: float = 30.0
    about: dict = field(default_factory=dict)

    @classmethod
    def from_json(cls, content, path):
        """Read and check what a ``task.json`` holds."""
        if not isinstance(content, dict):
            raise ExportError(f"{path}: holds no settings: export again")
        known = {one.name for one in fields(cls)}
        wrong = [f"{key} is unknown" for key in sorted(set(content) - known)]
        missing = {"task", "prompt", "encoder", "downsampling"} - set(content)
        wrong += [f"{key} is missing" for key in sorted(missing)]
        if not wrong:
            wrong = cls(**content).faults()
        if wrong:
            raise ExportError(
                f"{path}: {'; '.join(wrong[:4])}: export the run again"
            )
        return cls(**content)

    def to_json(self):
        """Plain values (dict)."""
        return asdict(self)

    def faults(self):
        """What cannot be, in words (list of str)."""
        encoder = self.encoder if isinstance(self.encoder, dict) else {}
        named = [encoder.get(key) for key in ("name", "kind", "dtype")]
        tests = {
            "task": _text(self.task, 100),
            "prompt": _text(self.prompt, 10_000)
            and not list(template_faults(self.prompt)),
            "encoder": all(_text(one, 200) for one in named)
            and ("folder" in encoder) != ("source" in encoder)
            and not set(encoder) - ENCODER_KEYS - set(ENCODER_OPTIONS)
            and all(
                sound(encoder[key])
                for key, sound in ENCODER_OPTIONS.items()
                if key in encoder
            ),
            "downsampling": _number(self.downsampling, 1, 100, int),
            "chat_template": isinstance(self.chat_template, bool),
            "projector_hidden": self.projector_hidden is None
            or _number(self.projector_hidden, 1, 1_000_000, int),
            "speech_markers": isinstance(self.speech_markers, bool),
            "adapter": isinstance(self.adapter, bool),
            "baseline_adapter": isinstance(self.baseline_adapter, bool),
            "bridge": isinstance(self.bridge, bool),
            "precision": self.precision in PRECISIONS,
            "features_dtype": self.features_dtype in (None, "float16"),
            "long_audio": self.long_audio in LONG_AUDIO,
            "max_new_tokens": _number(self.max_new_tokens, 1, 100_000, int),
            "max_tokens_per_second": _number(
                self.max_tokens_per_second, 0.01, 10_000
            ),
            "piece_seconds": _number(self.piece_seconds, 0.1, 3600),
            "about": isinstance(self.about, dict),
        }
        return [
            f"{key}: {getattr(self, key)!r:.80} cannot be"
            for key, sound in tests.items()
            if not sound
        ]

    def for_run(self):
        """The settings under the names of a recipe (dict)."""
        names = (
            "task prompt chat_template downsampling projector_hidden "
            "speech_markers long_audio"
        )
        return {name: getattr(self, name) for name in names.split()}


def _text(value, longest):
    return isinstance(value, str) and 0 < len(value) <= longest


def _number(value, least, most, kind=(int, float)):
    # bool is an int, but no number of layers.
    sound = isinstance(value, kind) and not isinstance(value, bool)
    return sound and least <= value <= most


# ----------------------------------------------------------------------------
# What may be in an exported folder: names, kinds of files, keys.

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
    """A JSON file, or why it cannot be read."""
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
