"""A smaller causal LM, written by copying tensors from file to file.

No weight goes through a model: bytes are copied as they lie, under their
layer's new number. Memory holds no more than one tensor, and that only where
one has to be converted or exchanged.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import random
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

import torch
from transformers import (
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
)

from speechbrain_ext.layers.converting import TYPES, TensorPlace, read_head
from speechbrain_ext.layers.lm_calls import CausalLM
from speechbrain_ext.layers.removal import Removal, layer_and_rest
from speechbrain_ext.layers.saved_lm import describe_causal_lm
from speechbrain_ext.layers.surgery import load_pruned, source_place
from speechbrain_ext.layers.weights import (
    SAFETENSORS,
    SAFETENSORS_INDEX,
    fetch_file,
    open_weights,
    weight_files,
)
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import write_json

# Most bytes of a file of weights, as transformers has it.
SHARD = 5_000_000_000
# Bytes copied at once. What fits a processor's own cache takes half the time,
# less than copies inside the kernel (copy_file_range, sendfile), too.
CHUNK = 1 << 18
# Seconds between two looks at what is to be brought to the disk.
PAUSE = 0.2
NAMES = {dtype: name for name, dtype in TYPES.items()}
# Bytes of each tensor's ends that are compared; how many tensors are further.
END, SAMPLE, MOST = 4096, 8, 1 << 22
Exchanged = dict[int, dict[str, torch.Tensor]]
WriteLayer = Callable[[int | None], None]


@dataclass(frozen=True)
class Piece:
    """A tensor to be written: its new name, and where its values are."""

    name: str
    dtype: torch.dtype
    value: TensorPlace | torch.Tensor

    @property
    def size(self) -> int:
        """Bytes once written."""
        return torch.Size(self.value.shape).numel() * self.dtype.itemsize

    def chunks(self, first: int = 0, last: int | None = None) -> Iterator:
        """Its bytes from the first to the last, a part at a time."""
        last = self.size if last is None else last
        value = self.value
        if isinstance(value, TensorPlace) and value.dtype == self.dtype:
            yield from _bytes(value.path, value.offset + first, last - first)
            return
        if isinstance(value, TensorPlace):
            value = value.read(self.dtype)
        flat = value.to(self.dtype).contiguous().reshape(-1)
        yield flat.view(torch.uint8).numpy().data[first:last]

    def same(self, other: Piece, first: int = 0, last: int | None = None):
        """Whether both have the same bytes there."""

        def digest(piece):
            """The hash of these bytes."""
            found = hashlib.sha256()
            for part in piece.chunks(first, last):
                found.update(part)
            return found.digest()

        return digest(self) == digest(other)


def _bytes(path, offset, count):
    """Bytes of a file, in a buffer that is used again for the next part."""
    buffer = memoryview(bytearray(min(CHUNK, count)))
    with open(path, "rb", buffering=0) as stream:
        stream.seek(offset)
        while count:
            read = stream.readinto(buffer[:count])
            if not read:
                raise ValueError(f"{path}: is cut short: fetch it again")
            count -= read
            yield buffer[:read]


def write_pruned(
    source: str,
    removed: Iterable[int],
    folder: str,
    processor: PreTrainedTokenizerBase | ProcessorMixin,
    dtype: torch.dtype | None = None,
    exchanged: Exchanged | None = None,
    revision: str | None = None,
    shard: int = SHARD,
    check: Callable[[WriteLayer], None] | None = None,
) -> PreTrainedModel:
    """Write a model's kept layers as a plain Hugging Face folder.

    Arguments
    ---------
    source : str
        Hub id or local folder of the whole model.
    removed : Block, Plan or iterable of int
        The layers that go.
    folder : str
        An empty folder.
    processor : transformers.PreTrainedTokenizerBase or ProcessorMixin
        A causal LM's tokenizer, or a speech LLM's processor.
    dtype : torch.dtype or None
        Type of the weights; None: as they are stored, byte for byte.
    exchanged : dict or None
        Weights to write in place of the source's: by layer of the source, by
        name in the layer.
    revision : str or None
        Branch, tag or commit on the hub.
    shard : int
        Most bytes of one file.
    check : callable or None
        Given what writes a layer by its new number (None: what stands around
        the layers), it may look at each while it is in memory still.

    Returns
    -------
    transformers.PreTrainedModel
        What was written, without memory.

    Raises
    ------
    ValueError
        If weights are missing or too many, or the copy is not what it should
        be.
    TypeError
        If it is neither a causal LM nor a speech LLM that is known, or of a
        family that cannot be pruned.
    """
    removed = set(removed)
    with quiet_loading():
        lm: CausalLM = load_pruned(
            source, removed, revision, device_map={"": "meta"}
        )
        if dtype:
            lm = lm.to(dtype)
    pieces = list(pieces_of(source, removed, dtype, exchanged, revision))
    if isinstance(processor, ProcessorMixin):
        describe_speech_llm(lm, processor, folder)
    else:
        describe_causal_lm(lm, processor, folder)
    with syncing(folder):
        writer = Writer(pieces, folder, shard)
        if check:
            check(writer.layer)
        writer.rest()
        check_copy(pieces, folder)
    return lm


def describe_speech_llm(
    model: PreTrainedModel, processor: ProcessorMixin, folder: str
) -> None:
    """Write what stands beside a speech LLM's weights."""
    model.config.architectures = [type(model).__name__]
    model.config.dtype = str(model.dtype).removeprefix("torch.")
    model.config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    processor.save_pretrained(folder)


def pieces_of(
    source: str,
    removed: Iterable[int],
    dtype: torch.dtype | None = None,
    exchanged: Exchanged | None = None,
    revision: str | None = None,
) -> Iterator[Piece]:
    """All tensors to be written, in the order of the source's files."""
    place, config = source_place(source, revision)
    whole = place.decoder_config(config).num_hidden_layers
    kept, exchanged = Removal.of(removed, whole).kept, exchanged or {}
    new_index = {old: new for new, old in enumerate(kept)}
    left = {(i, name) for i, named in exchanged.items() for name in named}
    for file in weight_files(source, revision):
        path = fetch_file(source, file, revision)
        for name, value in _values(path):
            new = place.renumber(name, new_index)
            if new is None:
                continue
            stored = value.dtype
            where = place.layer_and_rest(name)
            if where in left:
                left.remove(where)
                value = exchanged[where[0]][where[1]]
            if dtype and stored.is_floating_point:
                stored = dtype
            yield Piece(new, stored, value)
    if left:
        raise ValueError(
            f"{source}: holds no tensor of the name "
            f"{', '.join(f'{name} in layer {i}' for i, name in sorted(left))}"
        )


def _values(path):
    """A file's tensors by name, in the order in which they lie there."""
    if not path.endswith(".safetensors"):
        return open_weights(path)
    return sorted(read_head(path).items(), key=lambda item: item[1].offset)


def write_files(pieces: list[Piece], folder: str, shard: int = SHARD) -> None:
    """Write all tensors, in as many files as it takes."""
    Writer(pieces, folder, shard).rest()


class Writer:
    """Tensors on their way into files, each layer when it is asked for.

    Where each lies in its file is settled before: heads and sizes are there
    from the beginning.
    """

    def __init__(self, pieces: list[Piece], folder: str, shard: int = SHARD):
        self.left: dict[int | None, list[tuple[Piece, str, int]]] = {}
        files: list[list[Piece]] = [[]]
        sizes = [0]
        for piece in pieces:
            if files[-1] and sizes[-1] + piece.size > shard:
                files.append([])
                sizes.append(0)
            files[-1].append(piece)
            sizes[-1] += piece.size
        if len(files) == 1:
            self._lay_out(os.path.join(folder, SAFETENSORS), files[0])
            return
        index = {}
        for number, some in enumerate(files, start=1):
            name = f"model-{number:05d}-of-{len(files):05d}.safetensors"
            self._lay_out(os.path.join(folder, name), some)
            index.update({piece.name: name for piece in some})
        path = os.path.join(folder, SAFETENSORS_INDEX)
        total = {"total_size": sum(sizes)}
        write_json(path, {"metadata": total, "weight_map": index})

    def _lay_out(self, path, pieces):
        """Write a file's head, and settle where its tensors lie."""
        # Wide types first: each then lies where its size divides the offset.
        pieces = sorted(pieces, key=lambda piece: -piece.dtype.itemsize)
        head: dict[str, dict] = {"__metadata__": {"format": "pt"}}
        end = 0
        for piece in pieces:
            head[piece.name] = {
                "dtype": NAMES[piece.dtype],
                "shape": list(piece.value.shape),
                "data_offsets": [end, end + piece.size],
            }
            end += piece.size
        text = json.dumps(head, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        with open(path, "wb", buffering=0) as stream:
            _write(stream, len(text).to_bytes(8, "little") + text)
            start = stream.tell()
            stream.truncate(start + end)
        for piece in pieces:
            layer, _ = layer_and_rest(piece.name)
            offset = start + head[piece.name]["data_offsets"][0]
            self.left.setdefault(layer, []).append((piece, path, offset))

    def layer(self, index: int | None) -> None:
        """Write a layer, or (None) what stands around the layers."""
        for piece, path, offset in self.left.pop(index, ()):
            with open(path, "r+b", buffering=0) as stream:
                stream.seek(offset)
                for part in piece.chunks():
                    _write(stream, part)

    def rest(self) -> None:
        """Write all that is not written yet."""
        for index in list(self.left):
            self.layer(index)


def _write(stream: BinaryIO, part) -> None:
    """Write all of some bytes; the system may take a part only."""
    part = memoryview(part)
    while part:
        part = part[stream.write(part) :]


@contextlib.contextmanager
def syncing(folder: str) -> Iterator[None]:
    """Bring weights in a folder to the disk while they are being written.

    All of them at the end would be waited for with nothing else to do.
    """
    ended = threading.Event()

    def sync():
        """Until the block has ended."""
        while not ended.wait(PAUSE):
            for path in glob.glob(
                os.path.join(glob.escape(folder), "*.safetensors")
            ):
                with open(path, "rb") as stream:
                    os.fsync(stream.fileno())

    with ThreadPoolExecutor(1) as pool:
        synced = pool.submit(sync)
        try:
            yield
        finally:
            ended.set()
        # A disk tells of a fault once only, and maybe here.
        synced.result()


def check_copy(pieces: list[Piece], folder: str) -> None:
    """Refuse a folder that does not hold just these tensors.

    Names, types and shapes of all, both ends of each, and more of a few.
    """
    found = {}
    for file in weight_files(folder):
        for name, place in read_head(os.path.join(folder, file)).items():
            found[name] = Piece(name, place.dtype, place)
    names = sorted(piece.name for piece in pieces)
    few = set(random.Random(0).sample(names, min(SAMPLE, len(names))))
    wrong = sorted(found.keys() ^ {piece.name for piece in pieces})
    for piece in pieces:
        copy = found.get(piece.name)
        if copy is None:
            continue
        start = min(MOST if piece.name in few else END, piece.size)
        ends = ((0, start), (max(piece.size - END, 0), piece.size))
        alike = (copy.dtype, copy.size) == (piece.dtype, piece.size)
        alike = alike and tuple(copy.value.shape) == tuple(piece.value.shape)
        if not alike or not all(piece.same(copy, *end) for end in ends):
            wrong.append(piece.name)
    if wrong:
        raise ValueError(
            f"{folder}: {wrong[0]} is not what was to be copied: nothing was "
            "kept. Is the disk sound?"
        )
    with quiet_loading():
        load_pruned(folder, device_map={"": "meta"})
