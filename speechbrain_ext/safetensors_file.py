"""The head of a safetensors file, and its tensors read a piece at a time.

The library maps the whole file into memory, which costs nothing as long as a
tensor is used as it lies there. Where another type is wanted, the mapped
original and the converted copy are held side by side; here a tensor is read
in small pieces and only the converted one stays.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
import math
import os
from dataclasses import dataclass

import torch

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
}
# Bytes; the library's own limit is the same.
LONGEST_HEAD = 100_000_000
# Values converted at once.
PIECE = 1 << 16


@dataclass(frozen=True)
class TensorPlace:
    """Where a tensor lies in its file.

    Arguments
    ---------
    path : str
        The file.
    dtype : torch.dtype
        Type it is stored in.
    shape : tuple of int
        Its shape.
    offset : int
        First byte, from the file's beginning.
    """

    path: str
    dtype: torch.dtype
    shape: tuple
    offset: int

    def read(self, dtype=None):
        """Read the tensor, converted on the way.

        Arguments
        ---------
        dtype : torch.dtype or None
            Wanted type; None: as stored.

        Returns
        -------
        torch.Tensor
            In memory of its own.
        """
        value = torch.empty(self.shape, dtype=dtype or self.dtype)
        flat = value.view(-1)
        buffer = bytearray(PIECE * self.dtype.itemsize)
        with open(self.path, "rb", buffering=0) as stream:
            stream.seek(self.offset)
            for first in range(0, len(flat), PIECE):
                count = min(PIECE, len(flat) - first)
                part = memoryview(buffer)[: count * self.dtype.itemsize]
                _fill(stream, part, self.path)
                piece = torch.frombuffer(part, dtype=self.dtype)
                flat[first : first + count] = piece
        return value


@dataclass(frozen=True)
class ConvertedTensor:
    """A tensor that is read, and converted, when it is asked for.

    Arguments
    ---------
    place : TensorPlace
        Where it lies.
    dtype : torch.dtype
        Wanted type.

    Example
    -------
    >>> from safetensors.torch import save_file
    >>> file = str(getfixture("tmpdir").join("a.safetensors"))
    >>> save_file({"w": torch.ones(2)}, file)
    >>> ConvertedTensor(read_head(file)["w"], torch.float16)[...].dtype
    torch.float16
    """

    place: TensorPlace
    dtype: torch.dtype

    def __getitem__(self, index):
        """The tensor; transformers asks for it with ``[...]``."""
        return self.place.read(self.dtype)[index]


def read_head(path):
    """Names and places of a safetensors file's tensors; reads no tensor.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    dict
        Name to `TensorPlace`.

    Raises
    ------
    ValueError
        If it is no whole safetensors file: names it and says what to do.

    Example
    -------
    >>> from safetensors.torch import save_file
    >>> file = str(getfixture("tmpdir").join("a.safetensors"))
    >>> save_file({"w": torch.ones(2, 3)}, file)
    >>> tuple(read_head(file)["w"].shape)
    (2, 3)
    """
    try:
        return _read_head(path, os.path.getsize(path))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path}: not a whole safetensors file ({error}): fetch or write "
            "it again"
        ) from error


def _read_head(path, size):
    with open(path, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(LONGEST_HEAD, size - 8):
            raise ValueError("it is cut short")
        head = json.loads(stream.read(length))
    if not isinstance(head, dict):
        raise ValueError("its head is no table")
    head.pop("__metadata__", None)
    return {
        name: _place(path, name, entry, 8 + length, size)
        for name, entry in head.items()
    }


def _place(path, name, entry, data, size):
    """A tensor's place, checked against the size of the file."""
    if entry["dtype"] not in TYPES:
        raise ValueError(f"{name} is of the unknown type {entry['dtype']!r}")
    dtype, shape = TYPES[entry["dtype"]], tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    for number in (*shape, begin, end):
        if type(number) is not int or number < 0:
            raise ValueError(f"{name} has {number!r} for a size")
    if end - begin != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name}: {end - begin} bytes for shape {shape}")
    if data + end > size:
        raise ValueError(f"it is cut short within {name}")
    return TensorPlace(str(path), dtype, shape, data + begin)


def _fill(stream, part, path):
    """Read until the buffer is full."""
    done = 0
    while done < len(part):
        count = stream.readinto(part[done:])
        if not count:
            raise ValueError(f"{path}: is cut short: fetch it again")
        done += count
