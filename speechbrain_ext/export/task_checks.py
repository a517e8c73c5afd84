"""Hold a task's settings against its projector, adapter and bridges.

Authors
 * The speechbrain_ext authors, 2026
"""

from speechbrain_ext.export.checks import (
    MADE_FOR,
    compare_shapes,
    head_of,
)
from speechbrain_ext.export.layout import (
    ADAPTER,
    BASELINE_ADAPTER,
    BRIDGE,
    PROJECTOR,
    TASKS,
    ExportError,
)
from speechbrain_ext.healing import ATTENTION, MLP

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
    """Refuse a projector or an adapter of other shapes than are needed.

    Arguments
    ---------
    folder : speechbrain_ext.export.folder.ExportFolder
        The export.
    name : str
        The task.
    features : int
        F, k times the encoder's width.
    width : int
        D, the backbone's width.

    Raises
    ------
    ExportError
        Naming the file and the first disagreement.
    """
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
