"""Hold configurations against weights before a model of that size is built.

A configuration is a few bytes and may ask for any amount of memory. Here the
model is built without memory (on torch's meta device), after a look at how
many layers it wants, and each parameter's shape must be the one in the file.
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

from speechbrain_ext.healing.lora import ATTENTION, MLP
from speechbrain_ext.layers.weights import (
    SAFETENSORS,
    SAFETENSORS_INDEX,
    read_head,
)
from speechbrain_ext.model.encoder_load import KINDS
from speechllm.exported.format import (
    ADAPTER,
    BACKBONE,
    BASELINE_ADAPTER,
    BRIDGE,
    PROJECTOR,
    TASKS,
    ExportError,
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


def check_backbone(folder):
    """Refuse a backbone whose configuration and weights disagree."""
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
    """Refuse an encoder whose configuration and weights disagree."""
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


# ----------------------------------------------------------------------------
# Hold a task's settings against its projector, adapter and bridges.

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


def check_task(folder, name, features, width):
    """Refuse a projector or an adapter of other shapes than are needed."""
    settings = folder.tasks[name]
    file = folder.file(f"{TASKS}/{name}/{PROJECTOR}")
    hidden = settings.projector_hidden or width
    wanted = {
        "projector.layers.0.weight": (hidden, features),
        "projector.layers.0.bias": (hidden,),
        "projector.layers.2.weight": (width, hidden),
        "projector.layers.2.bias": (width,),
    }
    if settings.speech_markers:
        wanted |= {"markers.start": (width,), "markers.end": (width,)}
    shapes = {key: place.shape for key, place in head_of(file).items()}
    compare_shapes(file, wanted, shapes, extra=False)
    if settings.adapter:
        _check_adapter(folder, f"{TASKS}/{name}/{ADAPTER}")
    if settings.baseline_adapter:
        _check_adapter(folder, f"{TASKS}/{name}/{BASELINE_ADAPTER}")
    if settings.bridge:
        _check_bridge(folder, f"{TASKS}/{name}/{BRIDGE}", width)


def _check_adapter(folder, inside):
    """LoRA and nothing else, its rank as in the weights."""
    path = f"{inside}/adapter_config.json"
    config = folder.read_json(path)
    content = config if isinstance(config, dict) else {}
    for key, value in content.items():
        test = LORA_KEYS.get(key)
        if key in HARMLESS or (test is None and not value):
            continue
        if test is None or not test(value):
            raise ExportError(
                f"{folder.file(path)}: {key} {value!r:.80} is not part of "
                f"a healing adapter: {MADE_FOR}"
            )
    needed = {"peft_type", "r", "target_modules", "layers_to_transform"}
    missing = sorted(needed - set(content))
    if missing:
        raise ExportError(
            f"{folder.file(path)}: {missing[0]} is missing: {MADE_FOR}"
        )
    file = folder.file(f"{inside}/adapter_model.safetensors")
    for name, place in head_of(file).items():
        rank = place.shape[0 if ".lora_A." in name else -1 :][:1]
        if len(place.shape) != 2 or rank != (content["r"],):
            raise ExportError(
                f"{file}: {name} has shape {place.shape}, but the adapter's "
                f"rank is {content['r']}: {MADE_FOR}"
            )


def _check_bridge(folder, inside, width):
    """Refuse bridges of other layers or shapes than the backbone has."""
    file = folder.file(inside)
    shapes = {key: place.shape for key, place in head_of(file).items()}
    wanted = {}
    for key in shapes:
        index = key.partition(".")[0]
        if not index.isdecimal() or int(index) >= len(folder.kept):
            raise ExportError(
                f"{file}: {key!r:.80} is no bridge of a layer from 0 to "
                f"{len(folder.kept) - 1}: {MADE_FOR}"
            )
        wanted[f"{index}.bias"] = (width,)
        # Of low rank, where there is a factor; the rank is free.
        rank = (shapes.get(f"{index}.down") or (0,))[0]
        if f"{index}.down" in shapes and 0 < rank < width:
            wanted[f"{index}.down"] = (rank, width)
            wanted[f"{index}.up"] = (width, rank)
        else:
            wanted[f"{index}.weight"] = (width, width)
    compare_shapes(file, wanted, shapes, extra=False)
