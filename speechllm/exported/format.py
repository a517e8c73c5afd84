"""The form of an exported folder, and how one from anywhere is opened.

::

    config.json          what is in here: backbone, encoders, tasks
    manifest.json        size and SHA-256 of every other file
    README.md            the model card
    backbone/            a plain Hugging Face causal LM with its tokenizer
    encoders/<name>/     a speech encoder, where the hub does not have it
    tasks/<name>/        task.json, projector.safetensors, adapter/ (PEFT),
                         baseline_adapter/ (PEFT), bridge.safetensors

Nothing is believed before it is checked: names stay inside the folder, every
file has the size and the hash that the manifest says, no file is there that
it does not name, and nothing may carry code. `check` holds what the
configurations say against the weights.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

from speechbrain_ext.model.prompt import template_faults

FORMAT = "speechbrain_ext.export/1"
# What transformers' pipelines read waveforms with.
PREPROCESSOR = "preprocessor_config.json"
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

AGAIN = "fetch or export it again"
DISTRUST = "do not use this folder"
# Of these, none runs or unpickles anything.
SUFFIXES = (".json", ".safetensors", ".md", ".txt")
PLAIN_TEXTS = ("LICENSE", "NOTICE")
# Left beside the files by git and by the hub's own client.
IGNORED = (".gitattributes", ".gitignore", ".cache/", ".git/", ".huggingface/")
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
PART = re.compile(r"[\w][\w.+-]*")
NAME = re.compile(r"[A-Za-z]\w{0,63}")
MOST_FILES = 10_000
LARGEST_JSON = 64 * 2**20


class ExportError(ValueError):
    """A folder that cannot be used; the message names file and mend."""


# ----------------------------------------------------------------------------
# A task's settings: each with its type, its default, and what it may be.


def _number(least, most, kind=(int, float)):
    # bool is an int, but no number of layers.
    return lambda v: (
        isinstance(v, kind) and not isinstance(v, bool) and least <= v <= most
    )


def _text(longest):
    return lambda v: isinstance(v, str) and 0 < len(v) <= longest


def _kind(kind):
    return lambda v: isinstance(v, kind)


# Those that are set, and what they may be.
ENCODER_OPTIONS = {
    "normalise_input": _kind(bool),
    "output_norm": _kind(bool),
    "max_seconds": _number(0.01, 100_000),
    "window": lambda v: v in ("30s", "own"),
}
ENCODER_KEYS = {"name", "kind", "dtype", "folder", "source", "revision"}


def _is_encoder(told):
    """Whether this names an encoder, in the folder or on the hub."""
    return (
        isinstance(told, dict)
        and all(_text(200)(told.get(k)) for k in ("name", "kind", "dtype"))
        and ("folder" in told) != ("source" in told)
        and not set(told) - ENCODER_KEYS - set(ENCODER_OPTIONS)
        and all(
            may_be(told[key])
            for key, may_be in ENCODER_OPTIONS.items()
            if key in told
        )
    )


def _setting(may_be: Callable[[Any], bool], default: Any = MISSING) -> Any:
    return field(default=default, metadata={"may_be": may_be})


# Those that a run calls alike.
OF_A_RUN = (
    "prompt chat_template downsampling projector_hidden speech_markers"
).split()


@dataclass(frozen=True)
class TaskSettings:
    """What a task was trained with; its ``task.json``."""

    task: str = _setting(_text(100))
    prompt: str = _setting(
        lambda v: _text(10_000)(v) and not list(template_faults(v))
    )
    encoder: dict = _setting(_is_encoder)
    downsampling: int = _setting(_number(1, 100, int))
    chat_template: bool = _setting(_kind(bool), False)
    projector_hidden: int | None = _setting(
        lambda v: v is None or _number(1, 1_000_000, int)(v), None
    )
    speech_markers: bool = _setting(_kind(bool), False)
    adapter: bool = _setting(_kind(bool), False)
    baseline_adapter: bool = _setting(_kind(bool), False)
    bridge: bool = _setting(_kind(bool), False)
    precision: str = _setting(lambda v: v in ("fp32", "bf16", "fp16"), "fp32")
    features_dtype: str | None = _setting(
        lambda v: v in (None, "float16"), None
    )
    long_audio: str = _setting(lambda v: v in ("error", "chunk"), "error")
    max_new_tokens: int = _setting(_number(1, 100_000, int), 256)
    max_tokens_per_second: float = _setting(_number(0.01, 10_000), 12.0)
    piece_seconds: float = _setting(_number(0.1, 3600), 30.0)
    about: dict = field(default_factory=dict, metadata={"may_be": _kind(dict)})

    def scores(self, digits: int) -> dict[str, str]:
        """What its run scored on each set, in words."""
        return {
            where: f"{score['metric']} {score['value']:.{digits}f}"
            for where, score in self.about.get("scores", {}).items()
            if score["value"] is not None
        }

    @property
    def adapters(self) -> list[str]:
        """Names of its adapters' folders; all are to be active at once."""
        there = {ADAPTER: self.adapter, BASELINE_ADAPTER: self.baseline_adapter}
        return [name for name, is_there in there.items() if is_there]

    @classmethod
    def from_json(cls, content: object, path: str) -> TaskSettings:
        """Read and check what a ``task.json`` holds."""
        if not isinstance(content, dict):
            raise ExportError(f"{path}: holds no settings: export again")
        several = inspect.signature(cls).parameters.values()
        known = {one.name for one in several}
        needed = {one.name for one in several if one.default is one.empty}
        wrong = [f"{key} is unknown" for key in sorted(set(content) - known)]
        wrong += [f"{key} is missing" for key in sorted(needed - set(content))]
        wrong = wrong or cls(**content).faults()
        if wrong:
            raise ExportError(
                f"{path}: {'; '.join(wrong[:4])}: export the run again"
            )
        return cls(**content)

    def faults(self) -> list[str]:
        """What cannot be, in words."""
        return [
            f"{one.name}: {getattr(self, one.name)!r:.80} cannot be"
            for one in fields(self)
            if not one.metadata["may_be"](getattr(self, one.name))
        ]


# ----------------------------------------------------------------------------
# Files and their names.


def file_hash(path: str | os.PathLike) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_of(folder: str) -> list[str]:
    """Every file below a folder, by its path in it, sorted."""
    return sorted(
        os.path.relpath(os.path.join(here, name), folder).replace(os.sep, "/")
        for here, _, names in os.walk(folder)
        for name in names
    )


def read_json(path: str) -> Any:
    """A JSON file, or why it cannot be read."""
    try:
        if os.path.getsize(path) > LARGEST_JSON:
            raise ExportError(f"{path}: is too large for a settings file")
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except ExportError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise ExportError(
            f"{path}: cannot be read as JSON ({error}): {AGAIN}"
        ) from error


def _keys_of(content):
    """Every key at any depth of parsed JSON that is set (set)."""
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


class ExportFolder:
    """An exported folder, checked."""

    def __init__(
        self, path: str | os.PathLike, linked: bool = False, verify: bool = True
    ):
        self.path = str(path)
        # The hub's cache keeps its files elsewhere and links to them.
        self.linked = linked
        self.manifest = self._manifest()
        self._check_files(verify)
        self.config = self.read_json(CONFIG)
        self._check_config()
        if PREPROCESSOR in self.manifest["files"]:
            # For transformers' pipelines, which come after us.
            self.read_json(PREPROCESSOR)
        self.tasks = {}
        for name in self.config["tasks"]:
            inside = f"{TASKS}/{name}/{TASK}"
            self.tasks[name] = TaskSettings.from_json(
                self.read_json(inside), self.file(inside)
            )

    def file(self, relative: str) -> str:
        """A path inside the folder, checked to stay there."""
        parts = relative.split("/") if isinstance(relative, str) else [""]
        if not all(PART.fullmatch(part) for part in parts):
            raise ExportError(
                f"{self.path}: the path {relative!r:.100} is not one inside "
                f"the folder: {DISTRUST}"
            )
        return os.path.join(self.path, *parts)

    def read_json(self, relative: str) -> Any:
        """A JSON file of the folder; refuses one that names code."""
        path = self.file(relative)
        content = read_json(path)
        found = sorted(_keys_of(content) & CODE)
        if found:
            raise ExportError(
                f"{path}: {found[0]} would have code or kernels of others "
                f"loaded, which is never done here: {DISTRUST}"
            )
        return content

    @property
    def backbone(self) -> str:
        """Folder of the backbone."""
        return self.file(BACKBONE)

    @property
    def kept(self) -> tuple[int, ...]:
        """Old indices of the backbone's layers."""
        return tuple(self.config["backbone"]["kept_layers"])

    def size(self) -> int:
        """Bytes of all files."""
        return sum(one["bytes"] for one in self.manifest["files"].values())

    def below(self, folder: str) -> list[str]:
        """Names of the files right in a folder of the export."""
        paths = map(os.path.split, self.manifest["files"])
        return [name for where, name in paths if where == folder.rstrip("/")]

    def _manifest(self):
        path = os.path.join(self.path, MANIFEST)
        if not os.path.isfile(path):
            raise ExportError(
                f"{self.path}: holds no {MANIFEST}, so it is no exported "
                "speech LLM: give a folder that `speechllm export` wrote"
            )
        content = read_json(path)
        files = content.get("files") if isinstance(content, dict) else None
        sound = isinstance(files, dict) and content.get("format") == FORMAT
        if not sound or len(files) > MOST_FILES:
            raise ExportError(
                f"{path}: is not a manifest of the form {FORMAT}: {AGAIN}, "
                "with a speechbrain_ext of the same age"
            )
        for name, entry in files.items():
            entry = entry if isinstance(entry, dict) else {}
            size, digest = entry.get("bytes"), entry.get("sha256")
            if type(size) is not int or not isinstance(digest, str):
                raise ExportError(f"{path}: the entry {name!r:.80} is broken")
        return content

    def _check_files(self, verify):
        named = self.manifest["files"]
        for name, entry in named.items():
            self._check_file(self.file(name), entry, verify)
        for name in files_of(self.path):
            known = name in named or name == MANIFEST
            if not known and not name.startswith(IGNORED):
                raise ExportError(
                    f"{os.path.join(self.path, name)}: is not in the "
                    "manifest: remove it, or export again"
                )
        for name in sorted({CONFIG, CARD} - set(named)):
            raise ExportError(
                f"{self.file(name)}: is not in the manifest: {AGAIN}"
            )

    def _check_file(self, path, entry, verify):
        """Refuse a file that may carry code, or is not what is said of it."""
        if not path.endswith((*SUFFIXES, *(f"/{n}" for n in PLAIN_TEXTS))):
            raise ExportError(
                f"{path}: a file of this kind is not part of an export (JSON "
                f"and safetensors only): {DISTRUST}"
            )
        if not os.path.isfile(path):
            raise ExportError(f"{path}: is missing: {AGAIN}")
        root = os.path.realpath(self.path) + os.sep
        if not self.linked and not os.path.realpath(path).startswith(root):
            raise ExportError(f"{path}: leads out of its folder: {DISTRUST}")
        size = os.path.getsize(path)
        if size != entry["bytes"]:
            raise ExportError(
                f"{path}: has {size} bytes, not {entry['bytes']}: it was cut "
                f"short or changed: {AGAIN}"
            )
        if verify and file_hash(path) != entry["sha256"]:
            raise ExportError(
                f"{path}: its content is not what the manifest says: it was "
                f"changed or damaged: {AGAIN}"
            )

    def _check_config(self):
        path, config = self.file(CONFIG), self.config
        backbone = config.get("backbone") if isinstance(config, dict) else None
        if not isinstance(backbone, dict) or config.get("format") != FORMAT:
            raise ExportError(
                f"{path}: is not of the form {FORMAT}: give a folder that "
                "`speechllm export` wrote"
            )
        kept, tasks = backbone.get("kept_layers"), config.get("tasks")
        if not isinstance(kept, list) or not all(
            type(one) is int and 0 <= one < 10_000 for one in kept
        ):
            raise ExportError(f"{path}: kept_layers {kept!r:.80} cannot be")
        names = tasks if isinstance(tasks, list) else []
        if not names or not all(
            isinstance(name, str) and NAME.fullmatch(name) for name in names
        ):
            raise ExportError(f"{path}: tasks {tasks!r:.80} cannot be")
        if config.get("default_task") not in names:
            raise ExportError(
                f"{path}: default_task {config.get('default_task')!r:.80} is "
                "none of its tasks"
            )
