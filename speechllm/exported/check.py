"""Hold configurations against weights before a model of that size is built.

A configuration is a few bytes and may ask for any amount of memory. Here the
model is built without memory (on torch's meta device), after a look at how
many layers it wants, and each parameter's shape must be the one in the file.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import Any

import torch
from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModel
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from speechbrain_ext.healing.lora import ATTENTION, MLP
from speechbrain_ext.layers.converting import read_head
from speechbrain_ext.layers.weights import SAFETENSORS, SAFETENSORS_INDEX
from speechbrain_ext.model.encoder_load import KINDS
from speechllm.exported.format import (
    BACKBONE,
    BRIDGE,
    PROJECTOR,
    TASKS,
    ExportError,
    ExportFolder,
)

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
# What a LoRA configuration may say; the rest must be empty or false.
LORA_KEYS = {
    "peft_type": lambda v: v == "LORA",
    "task_type": lambda v: v == "CAUSAL_LM",
    "r": lambda v: type(v) is int and 0 < v <= 100_000,
    "lora_alpha": lambda v: type(v) in (int, float),
    "lora_dropout": lambda v: type(v) in (int, float) and 0 <= v < 1,
    "target_modules": lambda v: isinstance(v, list)
    and set(v) <= set(MLP + ATTENTION),
    "layers_to_transform": lambda v: isinstance(v, list)
    and all(type(one) is int and one >= 0 for one in v)
    and len(v) > 0,
    "layers_pattern": lambda v: v in (None, "layers"),
    "base_model_name_or_path": lambda v: v is None or isinstance(v, str),
    "revision": lambda v: v is None or isinstance(v, str),
    "bias": lambda v: v == "none",
    "inference_mode": lambda v: isinstance(v, bool),
    "init_lora_weights": lambda v: isinstance(v, bool),
    "peft_version": lambda v: isinstance(v, str),
}
# None does anything for a linear layer's adapter that is only read.
HARMLESS = {"ensure_weight_tying", "qalora_group_size", "megatron_core"}
NEEDED = {"peft_type", "r", "target_modules", "layers_to_transform"}


def check_backbone(folder: ExportFolder) -> int:
    """Refuse a backbone unlike its configuration; gives its width."""
    config = _config(folder, BACKBONE, MODEL_FOR_CAUSAL_LM_MAPPING)
    shapes = _shapes(folder, BACKBONE)
    maker = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    wanted = _wanted(folder, BACKBONE, config, maker, len(shapes))
    if config.num_hidden_layers != len(folder.kept):
        raise ExportError(
            f"{folder.file('config.json')}: names {len(folder.kept)} kept "
            f"layers, the backbone has {config.num_hidden_layers}: {MADE_FOR}"
        )
    if config.tie_word_embeddings:
        wanted.pop("lm_head.weight", None)
        shapes.pop("lm_head.weight", None)
    _compare(folder.file(BACKBONE), wanted, shapes)
    for name in ("tokenizer_config.json", "generation_config.json"):
        if name in folder.below(BACKBONE):
            _check_stops(folder, f"{BACKBONE}/{name}", config.vocab_size)
    if "tokenizer.json" not in folder.below(BACKBONE):
        raise ExportError(
            f"{folder.file(BACKBONE)}: holds no tokenizer.json: {MADE_FOR}"
        )
    return config.hidden_size


def check_encoder(folder: ExportFolder, inside: str) -> None:
    """Refuse an encoder whose configuration and weights disagree."""
    config = _config(folder, inside, CONFIG_MAPPING.values())
    if config.model_type not in KINDS:
        raise ExportError(
            f"{folder.file(inside)}: a {config.model_type} model, not a "
            f"speech encoder: {MADE_FOR}"
        )
    shapes = _shapes(folder, inside)
    maker: Any = partial(AutoModel.from_config, trust_remote_code=False)
    if config.model_type == "whisper":
        config.decoder_layers = 0
        if config.architectures == ["WhisperEncoder"]:
            maker = WhisperEncoder
    wanted = {
        name: shape
        for name, shape in _wanted(
            folder, inside, config, maker, len(shapes)
        ).items()
        if not name.startswith("decoder.") and name != "masked_spec_embed"
    }
    # What else is there (a decoder, a head) is not read.
    used = {name: shape for name, shape in shapes.items() if name in wanted}
    _compare(folder.file(inside), wanted, used)
    _check_preprocessing(folder, f"{inside}/preprocessor_config.json", config)


def check_task(
    folder: ExportFolder, name: str, features: int, width: int
) -> None:
    """Refuse a projector, adapter or bridge of other shapes than needed."""
    settings = folder.tasks[name]
    hidden = settings.projector_hidden or width
    wanted = {
        "projector.layers.0.weight": (hidden, features),
        "projector.layers.0.bias": (hidden,),
        "projector.layers.2.weight": (width, hidden),
        "projector.layers.2.bias": (width,),
    }
    if settings.speech_markers:
        wanted |= {"markers.start": (width,), "markers.end": (width,)}
    file = folder.file(f"{TASKS}/{name}/{PROJECTOR}")
    _compare(file, wanted, _shapes_in(file))
    for adapter in settings.adapters:
        _check_adapter(folder, f"{TASKS}/{name}/{adapter}")
    if settings.bridge:
        file = folder.file(f"{TASKS}/{name}/{BRIDGE}")
        _check_bridge(file, len(folder.kept), width)


def _config(folder, inside, classes):
    """A configuration of a known kind, from checked JSON."""
    path = folder.file(f"{inside}/config.json")
    content = folder.read_json(f"{inside}/config.json")
    kind = content.get("model_type") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise ExportError(f"{path}: model_type {kind!r:.80} is not known")
    with one_error(path, MADE_FOR):
        config = CONFIG_MAPPING[kind].from_dict(content)
        if type(config) in classes:
            return config
    raise ExportError(
        f"{path}: a {kind} model, which does not belong here: {MADE_FOR}"
    )


def _wanted(folder, inside, config, maker, tensors):
    """Shapes that a configuration asks for; takes no memory (dict)."""
    path = folder.file(f"{inside}/config.json")
    for key, value in config.to_dict().items():
        if "layers" in key and type(value) is int and value > tensors:
            raise ExportError(
                f"{path}: {key} {value}, but the weights have only "
                f"{tensors} tensors: {MADE_FOR}"
            )
    with one_error(path, MADE_FOR), torch.device("meta"):
        model = maker(config)
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


def _shapes(folder, inside):
    """Shapes of all tensors of a folder's weight files (dict)."""
    names = folder.below(inside)
    files = [name for name in names if name.endswith(".safetensors")]
    if SAFETENSORS_INDEX in names:
        index = folder.read_json(f"{inside}/{SAFETENSORS_INDEX}")
        shards = index.get("weight_map") if isinstance(index, dict) else None
        shards = shards.values() if isinstance(shards, dict) else [None]
        stray = [one for one in shards if one not in files]
        if stray:
            raise ExportError(
                f"{folder.file(f'{inside}/{SAFETENSORS_INDEX}')}: the file "
                f"{stray[0]!r:.80} is not in this folder: {MADE_FOR}"
            )
    elif files != [SAFETENSORS]:
        raise ExportError(
            f"{folder.file(inside)}: holds no {SAFETENSORS}: {MADE_FOR}"
        )
    shapes = {}
    for name in files:
        shapes |= _shapes_in(folder.file(f"{inside}/{name}"))
    return shapes


def _shapes_in(path):
    """Shapes of a weight file's tensors; reads none of them (dict)."""
    try:
        return {name: place.shape for name, place in read_head(path).items()}
    except (ValueError, OSError) as error:
        raise ExportError(str(error)) from error


def _compare(path, wanted, shapes):
    """Refuse anything but each parameter, in its shape."""
    for name in sorted(set(wanted) | set(shapes)):
        if wanted.get(name) != shapes.get(name):
            raise ExportError(
                f"{path}: {name} has shape {shapes.get(name)}, its "
                f"configuration wants {wanted.get(name)}: {MADE_FOR}"
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
            raise _cannot_be(folder.file(name), "eos_token_id", stop)


def _check_preprocessing(folder, name, config):
    """Refuse tables of absurd sizes, and a window that is not the model's."""
    if name not in folder.manifest["files"]:
        return
    settings = folder.read_json(name)
    settings = settings if isinstance(settings, dict) else {}
    for key, largest in LARGEST.items():
        value = settings.get(key, 1)
        if type(value) is not int or not 0 < value <= largest:
            raise _cannot_be(folder.file(name), key, value)
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


def _cannot_be(path, key, value):
    return ExportError(f"{path}: {key} {value!r:.80} cannot be: {MADE_FOR}")


def _check_adapter(folder, inside):
    """LoRA and nothing else, its rank as in the weights."""
    name = f"{inside}/adapter_config.json"
    path, config = folder.file(name), folder.read_json(name)
    config = config if isinstance(config, dict) else {}
    for key, value in config.items():
        may_be = LORA_KEYS.get(key, lambda v: not v)
        if key not in HARMLESS and not may_be(value):
            raise ExportError(
                f"{path}: {key} {value!r:.80} is not part of a healing "
                f"adapter: {MADE_FOR}"
            )
    for key in sorted(NEEDED - set(config)):
        raise ExportError(f"{path}: {key} is missing: {MADE_FOR}")
    file = folder.file(f"{inside}/adapter_model.safetensors")
    for name, shape in _shapes_in(file).items():
        rank = shape[0 if ".lora_A." in name else -1 :][:1]
        if len(shape) != 2 or rank != (config["r"],):
            raise ExportError(
                f"{file}: {name} has shape {shape}, but the adapter's rank is "
                f"{config['r']}: {MADE_FOR}"
            )


def _check_bridge(file, layers, width):
    """Refuse bridges of other layers or shapes than the backbone has."""
    shapes, wanted = _shapes_in(file), {}
    for key in shapes:
        index = key.partition(".")[0]
        if not index.isdecimal() or int(index) >= layers:
            raise ExportError(
                f"{file}: {key!r:.80} is no bridge of a layer from 0 to "
                f"{layers - 1}: {MADE_FOR}"
            )
        wanted[f"{index}.bias"] = (width,)
        # Of low rank, where there is a factor; the rank is free.
        rank = (shapes.get(f"{index}.down") or (0,))[0]
        if f"{index}.down" in shapes and 0 < rank < width:
            wanted[f"{index}.down"] = (rank, width)
            wanted[f"{index}.up"] = (width, rank)
        else:
            wanted[f"{index}.weight"] = (width, width)
    _compare(file, wanted, shapes)


@contextlib.contextmanager
def one_error(path: str, mend: str, what: str = "cannot be used"):
    """Turn whatever a library raises on a bad file into one clear error."""
    try:
        yield
    except (ExportError, MemoryError, torch.OutOfMemoryError):
        # Too little memory says nothing of the folder.
        raise
    except Exception as error:
        kind = type(error).__name__
        line = (str(error).strip().splitlines() or ["nothing said"])[0]
        raise ExportError(
            f"{path}: {what} ({kind}: {line:.300}): {mend}"
        ) from error
