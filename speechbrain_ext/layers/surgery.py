"""Remove decoder layers, and load a decoder with its kept layers alone.

A removed layer is gone everywhere: from the module list, from each kept
layer's ``layer_idx`` (the key-value cache is indexed by it), from
``num_hidden_layers`` and from every per-layer list of the configuration
(Qwen2's ``layer_types``), so that saving, reloading and cached generation see
an ordinary, shallower model.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterable
from typing import Any

import torch
from transformers import (
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import GENERATION_CONFIG_NAME

from speechbrain_ext.later import later
from speechbrain_ext.layers.lm_calls import causal_lm
from speechbrain_ext.layers.places import PLAIN, Place
from speechbrain_ext.layers.pruned_config import pruned_config
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.weights import (
    any_config,
    fetch_file,
    first_values,
    load_tokenizer,
    shape_of,
    source_config,
    wanted_weights,
    weight_files,
)
from speechbrain_ext.runs.files import of_form


def drop_layers(
    model: PreTrainedModel, removed: Iterable[int] | None
) -> PreTrainedModel:
    """A causal LM, or a speech LLM, without the removed decoder layers.

    The given model is left as it was. The new one shares its parameters, so
    no weight is copied; forget the old one to free the removed layers.

    Arguments
    ---------
    model : transformers.PreTrainedModel
        A causal LM of the Llama or Qwen2 kind, or a speech LLM of a family
        that `speechbrain_ext.layers.nested` lists.
    removed : Block, Plan, iterable of int or None
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
    >>> from speechbrain_ext.layers import Block
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> config = LlamaConfig(
    ...     hidden_size=8, intermediate_size=8, num_hidden_layers=4,
    ...     num_attention_heads=2, num_key_value_heads=2, vocab_size=11
    ... )
    >>> pruned = drop_layers(LlamaForCausalLM(config), Block(1, 2))
    >>> pruned.config.num_hidden_layers
    2
    """
    nested = later("layers.nested")
    place = nested.place_of(model) if nested else PLAIN
    removed = Removal.of(removed, len(place.inner(model).layers))
    config = pruned_place(place, causal_lm(model).config, removed)
    tensors = itertools.chain(model.parameters(), model.buffers())
    shared: dict[int, Any] = {id(tensor): tensor for tensor in tensors}
    pruned = copy.deepcopy(model, shared)
    inner = place.inner(pruned)
    inner.layers = torch.nn.ModuleList(
        inner.layers[old] for old in removed.kept
    )
    for new, layer in enumerate(inner.layers):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = new
    place.put_configs(pruned, config)
    return pruned


def pruned_place(
    place: Place, config: PretrainedConfig, removed: Iterable[int] | None
) -> PretrainedConfig:
    """A model's configuration whose decoder has the kept layers alone."""
    own = pruned_config(place.decoder_config(config), removed)
    return place.with_decoder(config, own)


def source_place(
    source: str, revision: str | None = None
) -> tuple[Place, PretrainedConfig]:
    """Where a source has its decoder, and the model's configuration.

    Refuses what is neither a causal LM nor a speech LLM that is known.
    """
    nested = later("layers.nested")
    found = nested and nested.source_place(any_config(source, revision), source)
    return found or (PLAIN, source_config(source, revision))


def load_pruned(
    source: str,
    removed: Iterable[int] | None = None,
    revision: str | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a causal LM, or a speech LLM, with its kept decoder layers only.

    The removed layers' weights are never read; on the hub, a shard that holds
    nothing else is not even downloaded. ``from_pretrained(key_mapping=...)``
    is not used: it applies its renames one after the other, and with
    9 -> 7 and 7 -> 5 assigns wrong weights without a word.

    Arguments
    ---------
    source : str
        Hub id or local folder of the whole model.
    removed : Block, Plan, iterable of int or None
        What to leave out.
    revision : str or None
        Branch, tag or commit on the hub.
    **kwargs : dict
        Passed to the class's ``from_pretrained``: ``dtype``,
        ``device_map``, ``attn_implementation``.

    Returns
    -------
    transformers.PreTrainedModel

    Raises
    ------
    FileNotFoundError
        If the source holds no weights.
    ValueError
        If there is no such layer, if weights are missing or have an adapter
        beside them, if layers have
        weights that the model has no place for, or if a layer does not hold
        what its own layer of the source holds.
    TypeError
        If it is neither a causal LM nor a speech LLM that is known, or of a
        family that cannot be pruned.

    Example
    -------
    >>> from speechbrain_ext.layers import Block
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> lm = load_pruned(tiny_decoder(), Block(1, 2))
    >>> lm.config.num_hidden_layers
    2
    """
    place, whole = source_place(source, revision)
    layers = place.decoder_config(whole).num_hidden_layers
    removed = Removal.of(removed, layers)
    place.refuse_adapter(source, revision)
    files = weight_files(source, revision)
    state, samples = _kept_state(
        place, files, source, revision, removed, kwargs.get("dtype")
    )
    # The Auto class wants a folder; the concrete one takes a lazy state.
    model_class: Any = place.class_of(whole)
    config = pruned_place(place, whole, removed)
    mend = "Save or download the model again"
    with of_form(source, ": the weights do not fit its config.json", mend):
        _check_sizes(model_class, config, len(removed.kept), state)
        model, report = model_class.from_pretrained(
            None,
            config=config,
            state_dict=state,
            output_loading_info=True,
            # Refused below, in words that name the tensor.
            ignore_mismatched_sizes=True,
            trust_remote_code=False,
            **kwargs,
        )
    check_report(report, source, place)
    layers = place.inner(model).layers
    _check_layers(layers, removed.kept, samples, source)
    model.config._name_or_path = model.name_or_path = str(source)
    with of_form(source, ": its generation_config.json is none", mend):
        _load_generation_config(model, source, revision)
    return model


def save_pruned(
    lm: PreTrainedModel,
    folder: str,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> None:
    """Write a pruned causal LM with its tokenizer, for transformers 5 and 4.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        What `load_pruned` or `drop_layers` gave.
    folder : str
        Where to.
    tokenizer : transformers.PreTrainedTokenizerBase or None
        Its tokenizer; None: that of the model's source.

    Raises
    ------
    ValueError
        If no tokenizer is given, and the source has none or is not known.
        Nothing is written then.

    Example
    -------
    >>> import os, tempfile
    >>> from speechbrain_ext.layers import Block, load_pruned
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> lm = load_pruned(tiny_decoder(), Block(1, 2))
    >>> folder = tempfile.mkdtemp()
    >>> save_pruned(lm, folder)
    >>> os.path.isfile(os.path.join(folder, "tokenizer.json"))
    True
    """
    if tokenizer is None:
        if not lm.name_or_path:
            raise ValueError(
                "save_pruned: the model does not say where it came from: "
                "give its tokenizer"
            )
        tokenizer = load_tokenizer(lm.name_or_path)
    saving = later("layers.saved_lm")
    if saving:
        saving.save_causal_lm(lm, tokenizer, folder)
    else:
        lm.save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def _kept_state(place, files, source, revision, removed, dtype=None):
    """Lazy tensors of the kept layers, under their new names."""
    new_index = {old: new for new, old in enumerate(removed.kept)}

    def wanted(tensor):
        """A tensor's name among the kept layers, or None."""
        # Layers that the configuration does not know are told of later.
        beyond = (place.layer_and_rest(tensor)[0] or 0) >= removed.num_layers
        return tensor if beyond else place.renumber(tensor, new_index)

    state, samples = {}, {}
    for path, tensor, value in wanted_weights(
        files, source, revision, wanted, dtype
    ):
        name = wanted(tensor)
        if name in state:
            raise ValueError(f"{path}: holds {tensor} a second time")
        state[name] = value
        layer, rest = place.layer_and_rest(tensor)
        if layer is not None:
            samples.setdefault(layer, {})[rest] = first_values(value)
    return state, samples


def _check_sizes(model_class, config, layers, state):
    """Refuse, before memory is taken, what is larger than its weights."""
    if layers > len(state):
        raise ValueError(
            f"it wants {layers} layers, and these have {len(state)} tensors"
        )
    with torch.device("meta"):
        model = model_class(copy.deepcopy(config))
    for name, value in model.named_parameters():
        if name in state and (shape := shape_of(state[name])) != value.shape:
            raise ValueError(
                f"{name} has shape {shape}, and it wants {tuple(value.shape)}"
            )


def check_report(report, source, place=PLAIN):
    """Refuse weights that do not fit; a stray one outside layers may be."""
    lacking = sorted(map(str, report["missing_keys"]))
    lacking += sorted(map(str, report["mismatched_keys"]))
    stray = sorted(
        key
        for key in report["unexpected_keys"]
        if place.layer_and_rest(key)[0] is not None
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


def _check_layers(layers, kept, samples, source):
    """Each layer must hold what its own layer of the source holds."""
    for new, old in enumerate(kept):
        values = layers[new].state_dict()
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
    made = GenerationConfig.from_model_config(model.config)
    if fetch_file(source, GENERATION_CONFIG_NAME, revision, missing_ok=True):
        try:
            made = GenerationConfig.from_pretrained(source, revision=revision)
        except (
            OSError
        ) as error:  # what transformers says of one that is no JSON
            raise ValueError(error) from error
    model.generation_config = made
