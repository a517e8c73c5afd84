"""Hold configurations against weights before a model of that size is built.

A configuration is a few bytes and may ask for any amount of memory. Here the
model is built without memory (on torch's meta device), after a look at how
many layers it wants, and each parameter's shape must be the one in the file.

Authors
 * The speechbrain_ext authors, 2026
"""

import os
from functools import partial

import torch
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoModel,
)
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechbrain_ext.encoder_source import KINDS
from speechbrain_ext.export.layout import (
    BACKBONE,
    ExportError,
)
from speechbrain_ext.safetensors_file import read_head
from speechbrain_ext.weights import SAFETENSORS, SAFETENSORS_INDEX

MADE_FOR = "the folder was put together wrongly: export the run again"
# Largest values of a preprocessor_config.json: tables of these sizes are made.
LARGEST = {
    "n_fft": 16_384,
    "feature_size": 1024,
    "hop_length": 16_384,
    "chunk_length": 120,
    "sampling_rate": 48_000,
    "n_samples": 10_000_000,
    "nb_max_frames": 100_000,
}


def check_backbone(folder):
    """Refuse a backbone whose configuration and weights disagree.

    Arguments
    ---------
    folder : speechbrain_ext.export.folder.ExportFolder
        The export.

    Raises
    ------
    ExportError
        Naming the file and the first disagreement.
    """
    config = _config(folder, BACKBONE, MODEL_FOR_CAUSAL_LM_MAPPING)
    shapes = _shapes(folder, BACKBONE)
    model = _without_memory(
        folder, BACKBONE, config, MODEL_FOR_CAUSAL_LM_MAPPING, shapes
    )
    if config.num_hidden_layers != len(folder.kept):
        raise ExportError(
            f"{folder.file('config.json')}: names {len(folder.kept)} kept "
            f"layers, the backbone has {config.num_hidden_layers}: {MADE_FOR}"
        )
    wanted = {name: tuple(p.shape) for name, p in model.named_parameters()}
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
        shapes.pop("lm_head.weight", None)
    _compare(folder, BACKBONE, wanted, shapes, extra=False)
    for name in ("tokenizer_config.json", "generation_config.json"):
        if name in folder.below(BACKBONE):
            _check_stops(folder, f"{BACKBONE}/{name}", config.vocab_size)
    if "tokenizer.json" not in folder.below(BACKBONE):
        raise ExportError(
            f"{folder.file(BACKBONE)}: holds no tokenizer.json: {MADE_FOR}"
        )


def _check_stops(folder, name, vocabulary):
    """Refuse settings without a meaning for the tokens that end a text."""
    settings = folder.read_json(name)
    if not isinstance(settings, dict):
        raise ExportError(f"{folder.file(name)}: holds no settings")
    stops = settings.get("eos_token_id")
    for stop in stops if isinstance(stops, list) else [stops]:
        sound = type(stop) is int and 0 <= stop < vocabulary
        if not sound and stop is not None:
            raise ExportError(
                f"{folder.file(name)}: eos_token_id {stops!r:.80} cannot be: "
                f"{MADE_FOR}"
            )


def check_encoder(folder, inside):
    """Refuse an encoder whose configuration and weights disagree.

    Arguments
    ---------
    folder : speechbrain_ext.export.folder.ExportFolder
        The export.
    inside : str
        The encoder's folder in it.

    Raises
    ------
    ExportError
        Naming the file and the first disagreement.
    """
    config = _config(folder, inside, dict.fromkeys(CONFIG_MAPPING.values()))
    if config.model_type not in KINDS:
        raise ExportError(
            f"{folder.file(inside)}: a {config.model_type} model, not a "
            f"speech encoder: {MADE_FOR}"
        )
    shapes = _shapes(folder, inside)
    maker = partial(AutoModel.from_config, trust_remote_code=False)
    if config.model_type == "whisper":
        config.decoder_layers = 0
        if config.architectures == ["WhisperEncoder"]:
            maker = WhisperEncoder
    model = _without_memory(folder, inside, config, maker, shapes)
    wanted = {
        name: tuple(p.shape)
        for name, p in model.named_parameters()
        if not name.startswith("decoder.") and name != "masked_spec_embed"
    }
    _compare(folder, inside, wanted, shapes, extra=True)
    _check_preprocessing(folder, f"{inside}/preprocessor_config.json", config)


def _check_preprocessing(folder, name, config):
    """Refuse tables of absurd sizes, and a window that is not the model's."""
    if name not in folder.manifest["files"]:
        return
    settings = folder.read_json(name)
    settings = settings if isinstance(settings, dict) else {}
    for key, largest in LARGEST.items():
        value = settings.get(key, 1)
        if type(value) is not int or not 0 < value <= largest:
            raise ExportError(
                f"{folder.file(name)}: {key} {value!r:.80} cannot be: "
                f"{MADE_FOR}"
            )
    if config.model_type != "whisper":
        return
    rate, hop = settings.get("sampling_rate", 16000), settings.get("hop_length")
    window = 2 * (hop or 160) * config.max_source_positions
    seconds = settings.get("chunk_length", 30)
    bins = settings.get("feature_size", config.num_mel_bins)
    if window != seconds * rate or bins != config.num_mel_bins:
        raise ExportError(
            f"{folder.file(name)}: {seconds} s at {rate} Hz in {bins} bins, "
            f"but the model takes {window} samples in {config.num_mel_bins} "
            f"bins: {MADE_FOR}"
        )


def _config(folder, inside, mapping):
    """A configuration of a known kind, from checked JSON."""
    path = folder.file(f"{inside}/config.json")
    content = folder.read_json(f"{inside}/config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ExportError(f"{path}: model_type {kind!r:.80} is not known")
    with _told(path):
        config = CONFIG_MAPPING[kind].from_dict(content)
        if type(config) in mapping:
            return config
    raise ExportError(
        f"{path}: a {kind} model, which does not belong here: {MADE_FOR}"
    )


def _shapes(folder, inside):
    """Shapes of all tensors of a folder's weight files (dict)."""
    names = folder.below(inside)
    files = [name for name in names if name.endswith(".safetensors")]
    if SAFETENSORS_INDEX in names:
        path = folder.file(f"{inside}/{SAFETENSORS_INDEX}")
        index = folder.read_json(f"{inside}/{SAFETENSORS_INDEX}")
        shards = index.get("weight_map") if isinstance(index, dict) else None
        shards = shards.values() if isinstance(shards, dict) else [None]
        stray = [one for one in shards if one not in files]
        if stray:
            raise ExportError(
                f"{path}: the file {stray[0]!r:.80} is not in this folder: "
                f"{MADE_FOR}"
            )
    elif files != [SAFETENSORS]:
        raise ExportError(
            f"{folder.file(inside)}: holds no {SAFETENSORS}: {MADE_FOR}"
        )
    shapes = {}
    for name in files:
        head = head_of(folder.file(f"{inside}/{name}"))
        shapes.update((key, place.shape) for key, place in head.items())
    return shapes


def _without_memory(folder, inside, config, maker, shapes):
    """A model on the meta device, if it has no more layers than weights."""
    path = folder.file(f"{inside}/config.json")
    for key, value in config.to_dict().items():
        if "layers" in key and type(value) is int and value > len(shapes):
            raise ExportError(
                f"{path}: {key} {value}, but the weights have only "
                f"{len(shapes)} tensors: {MADE_FOR}"
            )
    with _told(path), torch.device("meta"):
        if hasattr(maker, "_model_mapping"):
            maker = maker[type(config)]
        return maker(config)


def _compare(folder, inside, wanted, shapes, extra):
    compare_shapes(folder.file(inside), wanted, shapes, extra)


def compare_shapes(path, wanted, shapes, extra):
    """Each parameter's shape, and (unless allowed) nothing else."""
    names = set(wanted) | (set() if extra else set(shapes))
    for name in sorted(names):
        if wanted.get(name) != shapes.get(name):
            raise ExportError(
                f"{path}: {name} has shape {shapes.get(name)}, its "
                f"configuration wants {wanted.get(name)}: {MADE_FOR}"
            )


def head_of(path):
    """Names and places of a weight file's tensors (dict)."""
    try:
        return read_head(path)
    except (ValueError, OSError) as error:
        raise ExportError(str(error)) from error


class _told:
    """Turn whatever a library raises on a bad file into one clear error."""

    def __init__(self, path):
        self.path = os.fspath(path)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, Exception) and not isinstance(error, ExportError):
            line = (str(error).strip().splitlines() or [kind.__name__])[0]
            raise ExportError(
                f"{self.path}: cannot be used ({line:.200}): {MADE_FOR}"
            ) from error
        return False
