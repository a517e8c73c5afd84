"""Remove decoder layers: the block, the surgery, and loading what is kept.

Layers are counted from 0. A removed layer is gone everywhere: from the module
list, from each kept layer's ``layer_idx`` (the key-value cache is indexed by
it), from ``num_hidden_layers`` and from every per-layer list of the
configuration (Qwen2's ``layer_types``), so that saving, reloading and cached
generation see an ordinary, shallower model.
"""

import copy

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    GenerationConfig,
)

from speechbrain_ext.layers.removal import (
    kept_layers,
    layer_and_rest,
    renumber,
)
from speechbrain_ext.layers.saved_lm import with_old_rope
from speechbrain_ext.layers.weights import (
    fetch_file,
    first_values,
    open_weights,
    source_config,
    weight_files,
)

# ----------------------------------------------------------------------------
# The configuration of a pruned decoder, and whether it describes one.
#
# Some families make a layer by its index. Their configurations say so in lists
# (one entry for each layer, or the indices of some layers) and in numbers (how
# many of the first layers are of a kind); where that does not suffice, a kept
# layer under its new index would be another one, and the family is refused.

# Attributes of a configuration that hold one entry for each layer.
PER_LAYER_LISTS = (
    "layer_types",
    "no_rope_layers",
    "mlp_layer_types",
    "layers_block_type",
    "moe_layer_freq",
    "moe_router_types",
    "indexer_types",
    "num_attention_heads_per_layer",
)
# Attributes that hold the indices of some layers.
INDEX_LISTS = ("mlp_only_layers", "moe_layers", "attn_layer_indices")
# Attributes that say how many of the first layers are of a kind.
FIRST_LAYERS = (
    "first_k_dense_replace",
    "num_dense_layers",
    "moe_layer_start_index",
    # The list of kinds says which layers slide; this older switch would be
    # applied to the new indices and contradict it.
    "max_window_layers",
)

CHOOSE = (
    "Remove other layers, or choose a decoder of a family that "
    "docs/families.md calls right."
)

# What a layer knows of its place alone: `drop_layers` sets it anew.
PLACE = "layer_idx"

# Layers by configuration: built once, of nothing but shapes.
_described = {}


def pruned_config(config, removed):
    """A copy of a configuration that describes only the kept layers.

    Arguments
    ---------
    config : transformers.PretrainedConfig
        Configuration of the whole decoder.
    removed : Block, iterable of int or None
        What is removed.

    Returns
    -------
    transformers.PretrainedConfig

    Raises
    ------
    TypeError
        If no configuration of this family can describe the kept layers.
    """
    whole, config = config, copy.deepcopy(config)
    num_layers = config.num_hidden_layers
    kept = kept_layers(removed, num_layers)
    if len(kept) == num_layers:
        return with_old_rope(config)
    try:
        _plain_sparse_step(config, num_layers)
        _describe_kept(config, kept, num_layers)
        differing = _first_difference(whole, config, kept)
    except Exception as error:
        # Configurations check themselves, each in its own way.
        raise TypeError(
            f"{whole.model_type}: no configuration of layers {list(kept)} "
            f"alone can be made: {error}. {CHOOSE}"
        ) from error
    if differing:
        raise TypeError(
            f"{whole.model_type}: {differing}, and its configuration cannot "
            f"say otherwise. {CHOOSE}"
        )
    # Whoever saves the model writes what transformers 4 reads, too.
    return with_old_rope(config)


def _describe_kept(config, kept, num_layers):
    """Make a configuration of the whole decoder one of the kept layers."""
    lists = {
        name: getattr(config, name)
        for name in (*PER_LAYER_LISTS, *INDEX_LISTS)
        if isinstance(getattr(config, name, None), (list, tuple))
        # Some families work a list out of others of their numbers.
        if not isinstance(
            getattr(type(config), config.attribute_map.get(name, name), None),
            property,
        )
    }
    for name, entries in lists.items():
        if name in INDEX_LISTS:
            places = [kept.index(old) for old in entries if old in kept]
            setattr(config, name, places)
        elif len(entries) == num_layers:
            setattr(config, name, [entries[old] for old in kept])
    for name in FIRST_LAYERS:
        first = getattr(config, name, None)
        if isinstance(first, int):
            setattr(config, name, sum(old < first for old in kept))
    config.num_hidden_layers = len(kept)


def _plain_sparse_step(config, num_layers):
    """Say which layers are dense by a list in place of every how many."""
    step = getattr(config, "decoder_sparse_step", 1)
    if step != 1 and hasattr(config, "mlp_only_layers"):
        dense = {i for i in range(num_layers) if (i + 1) % step}
        config.mlp_only_layers = sorted(dense | set(config.mlp_only_layers))
        config.decoder_sparse_step = 1


def _first_difference(whole, pruned, kept):
    """What would be made otherwise under new indices (str or None)."""
    if type(whole) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        # Whoever loads it says of which kind it is.
        return None
    layers, around = _describe(whole)
    new_layers, new_around = _describe(pruned)
    for new, old in enumerate(kept):
        for fact in sorted(layers[old].keys() | new_layers[new].keys()):
            if layers[old].get(fact) != new_layers[new].get(fact):
                return (
                    f"layer {old} would be another one as layer {new} of the "
                    f"pruned model ({fact.removeprefix('.')})"
                )
    for name in sorted(around.keys() | new_around.keys()):
        if around.get(name) != new_around.get(name):
            return (
                "what stands around the layers depends on how many there "
                f"are ({name})"
            )
    return None


def _describe(config):
    """What each layer is, and the shapes around them: plain values."""
    key = type(config), config.to_json_string(use_diff=False)
    if key not in _described:
        model_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
        # Shapes without memory: this is no more than the code's own time.
        with torch.device("meta"):
            model = model_class._from_config(copy.deepcopy(config))
        inner = getattr(model, "model", None)
        layers = getattr(inner, "layers", ())
        inside = {id(p) for layer in layers for p in layer.parameters()}
        around = {
            name: tuple(p.shape)
            for name, p in model.named_parameters()
            if id(p) not in inside
        }
        if len(_described) >= 8:
            _described.clear()
        _described[key] = [_facts(layer) for layer in layers], around
    return _described[key]


def _facts(layer):
    """A layer's classes, settings and shapes, by name."""
    facts = {}
    for name, module in layer.named_modules():
        facts[name or "layer"] = type(module).__qualname__
        for setting, value in vars(module).items():
            # How it is loaded is no part of what it is.
            if setting.startswith("_") or setting in (PLACE, "training"):
                continue
            if isinstance(value, (bool, int, float, str, type(None), tuple)):
                facts[f"{name}.{setting}"] = value
            elif isinstance(value, list):
                facts[f"{name}.{setting}"] = repr(value)
        tensors = [*module.named_parameters(recurse=False)]
        tensors += module.named_buffers(recurse=False)
        facts.update({f"{name}.{n}": tuple(t.shape) for n, t in tensors})
    return facts


def decoder_layers(model):
    """The module list of decoder layers of a causal LM of the Llama kind.

    Arguments
    ---------
    model : torch.nn.Module
        A Hugging Face causal LM, a PEFT model around one, or an object with
        such a model as its ``lm``.

    Returns
    -------
    torch.nn.ModuleList

    Raises
    ------
    TypeError
        If the model keeps its layers elsewhere than in ``model.layers``.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> len(decoder_layers(tiny_speech_llm(layers=4).decoder))
    4
    """
    return base_model(model).layers


def causal_lm(model):
    """The plain Hugging Face causal LM inside a wrapper (ours or PEFT's).

    Arguments
    ---------
    model : torch.nn.Module
        As in `decoder_layers`.

    Returns
    -------
    transformers.PreTrainedModel

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> causal_lm(model.decoder) is model.decoder.lm
    True
    """
    model = getattr(model, "lm", model)
    if hasattr(model, "get_base_model"):
        model = model.get_base_model()
    return model


def base_model(model):
    """The decoder without its LM head, from whatever wraps it.

    Arguments
    ---------
    model : torch.nn.Module
        As in `decoder_layers`.

    Returns
    -------
    torch.nn.Module

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> type(base_model(model.decoder)).__name__
    'Qwen2Model'
    """
    inner = getattr(causal_lm(model), "model", None)
    if not isinstance(getattr(inner, "layers", None), torch.nn.ModuleList):
        raise TypeError(
            f"{type(model).__name__} does not keep its layers in "
            "`model.layers`: use a causal LM of the Llama or Qwen2 kind."
        )
    return inner


def drop_layers(model, removed):
    """A causal LM without the removed layers.

    The given model is left as it was. The new one shares its parameters, so
    no weight is copied; forget the old one to free the removed layers.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        A causal LM of the Llama or Qwen2 kind.
    removed : Block, iterable of int or None
        What to remove. None gives an identical model.

    Returns
    -------
    transformers.PreTrainedModel
        Same class; kept layers renumbered from 0.

    Raises
    ------
    ValueError
        If there is no such layer, or none is left to receive.
    TypeError
        If the model is of another kind.

    Example
    -------
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(
    ...     hidden_size=8, intermediate_size=8, num_hidden_layers=4,
    ...     num_attention_heads=2, num_key_value_heads=2, vocab_size=11
    ... )
    >>> pruned = drop_layers(LlamaForCausalLM(config), Block(1, 2))
    >>> pruned.config.num_hidden_layers
    2
    """
    num_layers = len(decoder_layers(model))
    kept = kept_layers(removed, num_layers)
    config = pruned_config(causal_lm(model).config, removed)
    shared = {id(p): p for p in model.parameters()}
    shared.update({id(b): b for b in model.buffers()})
    pruned = copy.deepcopy(model, shared)
    inner = base_model(pruned)
    inner.layers = torch.nn.ModuleList(inner.layers[old] for old in kept)
    for new, layer in enumerate(inner.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = new
    for module in pruned.modules():
        if hasattr(module, "config"):
            module.config = config
    return pruned


def load_pruned(source, removed=None, revision=None, **kwargs):
    """Load a causal LM with its kept layers only.

    The removed layers' weights are never read; on the hub, a shard that holds
    nothing else is not even downloaded. ``from_pretrained(key_mapping=...)``
    is not used: it applies its renames one after the other, and with
    9 -> 7 and 7 -> 5 assigns wrong weights without a word.

    Arguments
    ---------
    source : str
        Hub id or local folder of the whole model.
    removed : Block, iterable of int or None
        What to leave out.
    revision : str or None
        Branch, tag or commit on the hub.
    **kwargs : dict
        Passed to ``AutoModelForCausalLM.from_pretrained``: ``dtype``,
        ``device_map``, ``attn_implementation``.

    Returns
    -------
    transformers.PreTrainedModel

    Raises
    ------
    FileNotFoundError
        If the source holds no weights.
    ValueError
        If there is no such layer, if weights are missing, if layers have
        weights that the model has no place for, or if a layer does not hold
        what its own layer of the source holds.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> lm = load_pruned(tiny_decoder(), Block(1, 2))
    >>> lm.config.num_hidden_layers
    2
    """
    whole = source_config(source, revision)
    kept = kept_layers(removed, whole.num_hidden_layers)
    files = weight_files(source, revision)
    depth = whole.num_hidden_layers
    if type(whole) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise TypeError(
            f"{source} is a {whole.model_type} model, not a causal LM: give "
            "a decoder of the Llama or Qwen2 kind."
        )
    state, samples = _kept_state(
        files, source, revision, kept, depth, kwargs.get("dtype")
    )
    # The Auto class wants a folder; the concrete one takes a lazy state.
    model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(whole)].from_pretrained(
        None,
        config=pruned_config(whole, removed),
        state_dict=state,
        output_loading_info=True,
        # Refused below, in words that name the tensor.
        ignore_mismatched_sizes=True,
        **kwargs,
    )
    _check_report(report, source)
    _check_layers(model, kept, samples, source)
    model.config._name_or_path = model.name_or_path = str(source)
    _load_generation_config(model, source, revision)
    return model


def _kept_state(files, source, revision, kept, depth, dtype=None):
    """Lazy tensors of the kept layers, under their new names."""
    new_index = {old: new for new, old in enumerate(kept)}

    def wanted(tensor):
        beyond = (layer_and_rest(tensor)[0] or 0) >= depth
        return tensor if beyond else renumber(tensor, new_index)

    state, samples = {}, {}
    for file, tensors in files.items():
        if tensors is not None and not any(map(wanted, tensors)):
            continue
        path = fetch_file(source, file, revision)
        for tensor, value in open_weights(path, dtype):
            name = wanted(tensor)
            if name is None:
                continue
            if name in state:
                raise ValueError(f"{path}: holds {tensor} a second time")
            state[name] = value
            layer, rest = layer_and_rest(tensor)
            if layer is not None:
                samples.setdefault(layer, {})[rest] = first_values(value)
    return state, samples


def _check_report(report, source):
    """Refuse weights that do not fit; a stray one outside layers may be."""
    lacking = sorted(map(str, report["missing_keys"]))
    lacking += sorted(map(str, report["mismatched_keys"]))
    stray = sorted(
        key
        for key in report["unexpected_keys"]
        if layer_and_rest(key)[0] is not None
    )
    if not lacking and not stray:
        return
    told = []
    if lacking:
        names = ", ".join(lacking[:5])
        told.append(f"{names} missing or of another shape")
    if stray:
        told.append(f"{', '.join(stray[:5])} too much")
    mend = "Download the model again."
    if stray:
        mend = (
            "Load it with the class that it was saved from, and save it "
            "again as a causal LM."
        )
    elif lacking == ["lm_head.weight"]:
        mend = (
            "It was saved from the base model, without its head: give the "
            "whole causal LM."
        )
    raise ValueError(
        f"{source}: the weights do not fit its config.json: "
        f"{'; '.join(told)}. {mend}"
    )


def _check_layers(model, kept, samples, source):
    """Each layer must hold what its own layer of the source holds."""
    for new, old in enumerate(kept):
        values = decoder_layers(model)[new].state_dict()
        for name, expected in samples.get(old, {}).items():
            value = values.get(name)
            # Fused, offloaded or quantised weights cannot be compared.
            if value is None or value.is_meta:
                continue
            if not value.is_floating_point() or value.dtype.itemsize < 2:
                continue
            found = value.flatten()[: len(expected)].cpu()
            expected = expected.to(found.dtype)
            if not torch.allclose(found, expected, 0, 0, equal_nan=True):
                raise ValueError(
                    f"{source}: after loading, layer {new} is not layer "
                    f"{old} of the source (seen in {name}): this version of "
                    "transformers reads the checkpoint in another way."
                )


def _load_generation_config(model, source, revision):
    """The source's own generation settings, where it has some."""
    try:
        model.generation_config = GenerationConfig.from_pretrained(
            source, revision=revision
        )
    except OSError:
        model.generation_config = GenerationConfig.from_model_config(
            model.config
        )
