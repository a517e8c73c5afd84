"""Find and open the weight files of a Hugging Face model, lazily.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import os
import re
import zipfile
from dataclasses import replace

import torch
from safetensors import safe_open
from transformers.utils import cached_file

from speechbrain_ext.safetensors_file import ConvertedTensor, read_head

SAFETENSORS = "model.safetensors"
SAFETENSORS_INDEX = "model.safetensors.index.json"
BIN = "pytorch_model.bin"
BIN_INDEX = "pytorch_model.bin.index.json"
SAFE = "take a revision with .safetensors files, or save the model as such"


def weight_files(source, revision=None):
    """Which file of a model holds which tensor.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    dict
        File name to list of tensor names; None instead of the list for a
        file that is not sharded.

    Raises
    ------
    FileNotFoundError
        If no weight file is found.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> weight_files(tiny_decoder())
    {'model.safetensors': None}
    """
    for single, index in ((SAFETENSORS, SAFETENSORS_INDEX), (BIN, BIN_INDEX)):
        if fetch_file(source, single, revision, missing_ok=True):
            return {single: None}
        index_path = fetch_file(source, index, revision, missing_ok=True)
        if index_path:
            with open(index_path, encoding="utf-8") as stream:
                weight_map = json.load(stream)["weight_map"]
            files = {}
            for tensor, name in weight_map.items():
                files.setdefault(name, []).append(tensor)
            return files
    raise FileNotFoundError(
        f"{source} holds no weights: neither {SAFETENSORS} nor {BIN}, whole "
        "or sharded. Give the folder of a Hugging Face model, or a hub id."
    )


def fetch_file(source, name, revision, missing_ok=False):
    """Local path of one file of a model, downloaded where need be.

    Arguments
    ---------
    source : str
        Hub id or local folder.
    name : str
        The file's.
    revision : str or None
        Branch, tag or commit on the hub.
    missing_ok : bool
        Give None for a file that is not there.

    Returns
    -------
    str or None

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> fetch_file(tiny_decoder(), "other.json", None, missing_ok=True)
    """
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
    """Pairs of tensor name and lazily read value of one weight file.

    Arguments
    ---------
    path : str
        The file.
    dtype : torch.dtype or None
        Type that is wanted in the end. A tensor of another floating type is
        converted as it is read, so that the file's own is never held.

    Returns
    -------
    list of (str, object)
        The object gives its tensor with ``[...]``.

    Raises
    ------
    ValueError
        If the file is damaged, or a pickle of more than tensors.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_decoder
    >>> file = os.path.join(tiny_decoder(), "model.safetensors")
    >>> dict(open_weights(file))["model.norm.weight"][...].shape
    torch.Size([32])
    """
    if not path.endswith(".safetensors"):
        return list(_open_pickle(path).items())
    weights = safe_open(path, framework="pt", device="cpu")
    places = read_head(path)
    return [
        (name, ConvertedTensor(places[name], dtype))
        if _differs(places[name].dtype, dtype)
        else (name, weights.get_slice(name))
        for name in weights.keys()
    ]


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
    while len(shape := tuple(_shape(value))) > 1:
        value = value[0]
    return value[:count] if shape else value[...].reshape(1)


def _shape(value):
    return value.shape if torch.is_tensor(value) else value.get_shape()


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
        code = re.search(r"GLOBAL (\w+\.[\w.]+)", str(error))
        if code:
            raise ValueError(
                f"{path}: is a pickle that calls {code[1]}, which is not "
                f"allowed: {SAFE}"
            ) from error
        raise ValueError(
            f"{path}: is damaged or cut short: download it again, or {SAFE}"
        ) from error
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and torch.is_tensor(value)
        for key, value in weights.items()
    ):
        raise ValueError(f"{path}: holds more than named tensors: {SAFE}")
    return weights
