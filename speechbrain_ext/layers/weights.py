"""Open what a Hugging Face model is made of; its weights lazily."""

from __future__ import annotations

import json
import os
import re
import zipfile
from dataclasses import dataclass, replace

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

from speechbrain_ext.runs.files import of_form

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
SAFE = "take a revision with .safetensors files, or save the model as such"

# The library maps the whole file into memory, which costs nothing as long as a
# tensor is used as it lies there. Where another type is wanted, the mapped
# original and the converted copy are held side by side; here a tensor is read
# in small pieces and only the converted one stays.

TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
# More than any model has; what counts them up would take all memory.
MOST_LAYERS = 10_000
# Values converted at once.
PIECE = 1 << 16


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in its file."""

    path: str
    dtype: torch.dtype
    shape: tuple
    offset: int

    def read(self, dtype=None):
        """Read the tensor, converted on the way."""
        value = torch.empty(self.shape, dtype=dtype or self.dtype)
        flat = value.view(-1)
        buffer = bytearray(PIECE * self.dtype.itemsize)
        with open(self.path, "rb") as stream:
            stream.seek(self.offset)
            for first in range(0, len(flat), PIECE):
                count = min(PIECE, len(flat) - first)
                part = memoryview(buffer)[: count * self.dtype.itemsize]
                if stream.readinto(part) < len(part):
                    raise ValueError(
                        f"{self.path}: is cut short: fetch it again"
                    )
                piece = torch.frombuffer(part, dtype=self.dtype)
                flat[first : first + count] = piece
        return value


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor that is read, and converted, when it is asked for."""

    place: TensorPlace
    dtype: torch.dtype

    def __getitem__(self, index):
        """The tensor; transformers asks for it with ``[...]``."""
        return self.place.read(self.dtype)[index]


def read_head(path: str) -> dict[str, TensorPlace]:
    """Where a safetensors file's tensors lie; reads none, refuses a torn file."""
    mend = "Fetch or write it again"
    try:
        with of_form(path, ": not a whole safetensors file", mend):
            # The library refuses sizes and offsets that do not fit the file.
            safe_open(path, framework="pt")
            with open(path, "rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                head = json.loads(stream.read(length))
            head.pop("__metadata__", None)
            return {
                name: TensorPlace(
                    str(path),
                    _type_of(entry["dtype"]),
                    tuple(entry["shape"]),
                    8 + length + entry["data_offsets"][0],
                )
                for name, entry in head.items()
            }
    except SafetensorError as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}): fetch or write "
            "it again"
        ) from error


def _type_of(name):
    """The type that a safetensors file calls so."""
    if name not in TYPES:
        raise ValueError(f"type {name!r} is unknown here")
    return TYPES[name]


def read_tensors(path: str) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; ValueError names one that is torn."""
    read_head(path)
    return load_file(path)


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
    places = read_head(path)
    weights = safe_open(path, framework="pt", device="cpu")
    return [
        (name, ConvertedTensor(places[name], dtype))
        if _differs(places[name].dtype, dtype)
        else (name, weights.get_slice(name))
        for name in weights.keys()
    ]


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


def _differs(stored, wanted):
    """Whether a tensor has to be converted."""
    wants = isinstance(wanted, torch.dtype) and wanted.is_floating_point
    return wants and stored.is_floating_point and stored != wanted


def first_values(value, count=8):
    """The first values of what `open_weights` gives; reads no more."""
    if isinstance(value, ConvertedTensor):
        total = value.place.shape
        shape = (min(count, int(torch.Size(total).numel())),)
        return replace(value.place, shape=shape).read(value.dtype)
    while len(shape := shape_of(value)) > 1:
        value = value[0]
    return value[:count] if shape else value[...].reshape(1)


def shape_of(value) -> tuple[int, ...]:
    """The shape of what `open_weights` gives."""
    if isinstance(value, ConvertedTensor):
        return value.place.shape
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
