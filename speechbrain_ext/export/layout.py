"""The form of an exported folder: names, task settings, hashes.

::

    config.json          what is in here: backbone, encoders, tasks
    manifest.json        size and SHA-256 of every other file
    README.md            the model card
    backbone/            a plain Hugging Face causal LM with its tokenizer
    encoders/<name>/     a speech encoder, where the hub does not have it
    tasks/<name>/        task.json, projector.safetensors, adapter/ (PEFT),
                         baseline_adapter/ (PEFT), bridge.safetensors

Authors
 * The speechbrain_ext authors, 2026
"""

import hashlib
import os
from dataclasses import asdict, dataclass, field, fields

from speechbrain_ext.prompt import template_faults

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
    """What a task was trained with; its ``task.json``.

    Arguments
    ---------
    task : str
        "ASR", or "AST en-de".
    prompt : str
        Template with ``{speech}``.
    encoder : dict
        name, kind, dtype, `ENCODER_OPTIONS`; ``folder`` inside the export,
        or ``source`` and ``revision`` on the hub.
    downsampling : int
        k, frames of one speech token.
    chat_template : bool
        The prompt stands in the tokenizer's chat template.
    projector_hidden : int or None
        Width of the projector's hidden layer; None: the backbone's.
    speech_markers : bool
        Trained embeddings stand around the speech.
    adapter : bool
        There is a PEFT adapter.
    baseline_adapter : bool
        There is the frozen PEFT adapter of the unpruned system too.
    bridge : bool
        There are bridges across gaps, which plain transformers lacks.
    precision : str
        "fp32", "bf16" or "fp16": autocast while decoding.
    features_dtype : str or None
        Type that features were rounded to in training's cache.
    long_audio : str
        What the encoder does over its own limit: "error" or "chunk".
    max_new_tokens : int
        Most tokens of an answer.
    max_tokens_per_second : float
        Most tokens of an answer for a second of speech.
    piece_seconds : float
        Longest piece of audio that is decoded at once.
    about : dict
        Run, lineage and scores; for readers.
    """

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
        """Read and check what a ``task.json`` holds.

        Arguments
        ---------
        content : object
            The parsed file.
        path : str
            Its name, for errors.

        Returns
        -------
        TaskSettings

        Raises
        ------
        ExportError
            Naming each value that cannot be.
        """
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
