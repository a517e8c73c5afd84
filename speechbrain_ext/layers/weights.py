"""Open what a Hugging Face model is made of; its weights lazily."""

from __future__ import annotations

import contextlib
import json
import os
import re
import zipfile
from collections.abc import Iterator

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import cached_file

from speechbrain_ext.later import later
from speechbrain_ext.runs.files import of_form

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
SAFE = "take a revision with .safetensors files, or save the model as such"

# More than any model has; what counts them up would take all memory.
MOST_LAYERS = 10_000


def read_tensors(path: str) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; ValueError names one that is torn."""
    with whole_safetensors(path):
        return load_file(path)


@contextlib.contextmanager
def whole_safetensors(path: str) -> Iterator[None]:
    """Name the file that cannot be read, and the mend (ValueError)."""
    try:
        yield
    except (SafetensorError, OSError) as error:
        if getattr(error, "filename", None) or not os.path.exists(path):
            raise
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}): fetch or write "
            "it again"
        ) from error


def check_source(source: str) -> None:
    """Refuse a local folder that cannot be a model, before anything long."""
    source = str(source)
    looks_local = source.startswith((".", "/", "~")) or source.count("/") > 1
    if looks_local and not os.path.isdir(source):
        raise FileNotFoundError(
            f"source: {source} is not a folder. Give a Hugging Face model "
            "folder or a hub id such as Qwen/Qwen2.5-7B."
        )
    if os.path.isdir(source) and not os.path.isfile(
        os.path.join(source, "config.json")
    ):
        raise FileNotFoundError(
            f"source: {source} holds no config.json, so it is no Hugging "
            "Face model folder."
        )


def any_config(source: str, revision: str | None = None) -> PretrainedConfig:
    """A model's configuration; code that it brings along is never run."""
    check_source(source)
    mend = "Save or download the model again"
    with of_form(source, ": its config.json is not a model's", mend):
        try:
            return AutoConfig.from_pretrained(
                source, revision=revision, trust_remote_code=False
            )
        except OSError as error:
            why = str(error).strip().split("\n")[0]
            if os.path.isdir(source):
                raise ValueError(why) from error
            # The hub's client names neither the model nor, offline, the mend.
            raise OSError(
                f"source: {source}: no such folder here, and not to be had "
                f"from the hub ({why}): is the name right? Offline, fetch it "
                f"once before: hf download {source}"
            ) from error
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise ValueError(
                f"{source}: needs code of its own, which is never run: give a "
                "model of a kind that transformers has (Llama, Qwen2)"
            ) from error
        except StrictDataclassError as error:
            raise ValueError(" ".join(str(error).split())) from error


def source_config(source: str, revision: str | None = None) -> PretrainedConfig:
    """The configuration of a plain causal LM."""
    config = any_config(source, revision)
    # What is put together of several models has no depth of its own.
    layers = getattr(config, "num_hidden_layers", None)
    layered = layers is not None
    if layered and (type(layers) is not int or not 0 < layers <= MOST_LAYERS):
        raise ValueError(
            f"{source}: num_hidden_layers {layers!r:.80} cannot be"
        )
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING or not layered:
        raise TypeError(
            f"{source} is a {config.model_type} model, not a causal LM: give "
            "a decoder of the Llama or Qwen2 kind."
        )
    return config


def load_tokenizer(
    source: str, revision: str | None = None
) -> PreTrainedTokenizerBase:
    """A model's tokenizer; refused where it has none.

    transformers 5 gives a folder without a tokenizer an empty one of the
    model's kind, without a word: any text becomes no tokens at all.

    Arguments
    ---------
    source : str
        Hub id or local folder of the model.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    transformers.PreTrainedTokenizerBase

    Raises
    ------
    ValueError
        If the tokenizer has no tokens but special ones, or cannot be made.
    """
    why = ""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source, revision=revision, trust_remote_code=False
        )
        if len(tokenizer) > len(set(tokenizer.all_special_tokens)):
            # Some settings are looked at when there is a text.
            tokenizer("a")
            return tokenizer
    except Exception as error:  # a damaged one fails in many ways
        why = f" ({str(error) or type(error).__name__:.300})"
    raise ValueError(
        f"{source}: has no tokenizer: copy tokenizer.json and "
        "tokenizer_config.json there from the model that it was made of, or "
        "save it again with speechbrain_ext.layers.save_pruned, which writes "
        f"both{why}"
    )


def weight_files(
    source: str, revision: str | None = None
) -> dict[str, list[str] | None]:
    """Which file of a model holds which tensor; None: not told by an index."""
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (BIN, BIN_INDEX)):
        if fetch_file(source, single, revision, missing_ok=True):
            return {single: None}
        index_path = fetch_file(source, index, revision, missing_ok=True)
        if index_path:
            return {**_indexed(index_path)}
    raise FileNotFoundError(
        f"{source} holds no weights: neither {SAFETENSORS} nor {BIN}, whole "
        "or sharded. Give the folder of a Hugging Face model, or a hub id."
    )


def _indexed(path):
    """Tensors by the file that an index says they are in."""
    files: dict[str, list[str]] = {}
    with of_form(path, ": no index of weights", "Download the model again"):
        with open(path, encoding="utf-8") as stream:
            weight_map = json.load(stream)["weight_map"]
        for tensor, name in weight_map.items():
            if os.path.basename(name) != name or not name:
                raise ValueError(f"{name!r:.80} is not a file beside it")
            files.setdefault(name, []).append(tensor)
    return files


def fetch_file(
    source: str, name: str, revision: str | None, missing_ok: bool = False
) -> str | None:
    """Local path of one file of a model, downloaded where need be."""
    if os.path.isdir(source):
        path = os.path.join(source, name)
        if os.path.isfile(path):
            return path
        if missing_ok:
            return None
        raise FileNotFoundError(
            f"{path} is listed in the model's index but is not there: the "
            "folder was cut short. Download the model again."
        )
    return cached_file(
        source,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=not missing_ok,
    )


def open_weights(path, dtype=None):
    """Pairs of tensor name and lazily read value of one weight file."""
    if not path.endswith(".safetensors"):
        return list(_open_pickle(path).items())
    with whole_safetensors(path):
        weights = safe_open(path, framework="pt", device="cpu")
    slices = {name: weights.get_slice(name) for name in weights.keys()}
    converting = later("layers.converting")
    if converting:
        slices |= converting.converted(path, dtype)
    return list(slices.items())


def wanted_weights(files, source, revision, wanted, dtype=None):
    """What `open_weights` gives of some tensors: (file, name, value).

    `files` as from `weight_files`; no file is opened that holds none for
    which `wanted` is true.
    """
    for file, tensors in files.items():
        if tensors is not None and not any(map(wanted, tensors)):
            continue
        path = fetch_file(source, file, revision)
        for tensor, value in open_weights(path, dtype):
            if wanted(tensor):
                yield path, tensor, value


def first_values(value, count=8):
    """The first values of what `open_weights` gives; reads no more."""
    if hasattr(value, "first"):
        return value.first(count)
    while len(shape := shape_of(value)) > 1:
        value = value[0]
    return value[:count] if shape else value[...].reshape(1)


def shape_of(value) -> tuple[int, ...]:
    """The shape of what `open_weights` gives."""
    return tuple(value.shape if torch.is_tensor(value) else value.get_shape())


def _open_pickle(path):
    """A .bin file's tensors; no code that it may name is run."""
    try:
        # Mapped, but for files older than torch 1.6, which cannot be.
        weights = torch.load(
            path,
            map_location="cpu",
            mmap=zipfile.is_zipfile(path),
            weights_only=True,
        )
    except Exception as error:  # damaged pickles fail in many ways
        raise ValueError(f"{path}: {pickle_fault(error)}") from error
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and torch.is_tensor(value)
        for key, value in weights.items()
    ):
        raise ValueError(f"{path}: holds more than named tensors: {SAFE}")
    return weights


def pickle_fault(error):
    """What is wrong with a .bin file that torch refuses to load."""
    # torch's own words advise to load it unsafely.
    code = re.search(r"GLOBAL (\w+\.[\w.]+)", str(error))
    if code:
        return f"is a pickle that calls {code[1]}, which is not allowed: {SAFE}"
    return f"is damaged or cut short: download it again, or {SAFE}"
