"""Tensors of a safetensors file that are converted piece by piece when read.

The library maps the whole file into memory, which costs nothing as long as a
tensor is used as it lies there. Where another type is wanted, the mapped
original and the converted copy are held side by side; here a tensor is read
in small pieces and only the converted one stays.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import torch
from safetensors import safe_open

from speechbrain_ext.layers.weights import whole_safetensors
from speechbrain_ext.runs.files import of_form

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

    def get_shape(self):
        """The same as of safetensors' own lazy tensors."""
        return self.place.shape

    def first(self, count):
        """The first values; reads no more."""
        shape = (min(count, math.prod(self.place.shape)),)
        return replace(self.place, shape=shape).read(self.dtype)


def read_head(path: str) -> dict[str, TensorPlace]:
    """Where a safetensors file's tensors lie; reads none, refuses a torn file."""
    fault, mend = ": not a whole safetensors file", "Fetch or write it again"
    with whole_safetensors(path), of_form(path, fault, mend):
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


def _type_of(name):
    """The type that a safetensors file calls so."""
    if name not in TYPES:
        raise ValueError(f"type {name!r} is unknown here")
    return TYPES[name]


def converted(path: str, dtype) -> dict[str, ConvertedTensor]:
    """Tensors of another type than the wanted one, by name."""
    return {
        name: ConvertedTensor(place, dtype)
        for name, place in read_head(path).items()
        if _differs(place.dtype, dtype)
    }


def _differs(stored, wanted):
    """Whether a tensor has to be converted."""
    wants = isinstance(wanted, torch.dtype) and wanted.is_floating_point
    return wants and stored.is_floating_point and stored != wanted
