"""Rows that go through a causal LM a layer at a time, each layer read once.

The model's own forward says what each layer is called with: it is run with
layers that do nothing, and what reaches them is kept. Whatever a family does
between its layers would be lost that way, so it is looked for and refused.
"""

from __future__ import annotations

import contextlib
import copy
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from speechbrain_ext.layers.families import check_calls
from speechbrain_ext.layers.lm_calls import decoder_layers, last_states
from speechbrain_ext.layers.residual import on_stream
from speechbrain_ext.layers.streams import recorded
from speechbrain_ext.model.decoder import DTYPES
from speechllm.streamed.memory import free_memory
from speechllm.streamed.parts import MEND, Parts

# Tokens of the row that a family is tried on, and rows of its head.
TRIED, HEAD = 7, 64
# What a layer may be called with: nothing that another layer could change.
PLAIN = (torch.Tensor, bool, int, float, str, type(None))


class StreamedLM(torch.nn.Module):
    """A causal LM whose layers are read from its files, one at a time."""

    def __init__(
        self,
        source: str,
        dtype: str = "float32",
        device: str = "cpu",
        tokenizer=None,
        check: bool = True,
    ):
        super().__init__()
        self.source, self.tokenizer = str(source), tokenizer
        self.parts = Parts(self.source, DTYPES[dtype], device)
        if check:
            self.parts.check()
        self.lm, layers = self.parts.around()
        self.lm.name_or_path = self.source  # for messages
        decoder_layers(self.lm).extend(layers)
        self.progress = False
        # Weights that stand in place of the files': by layer, by name there.
        self.exchanged: dict[int, dict[str, torch.Tensor]] = {}
        self.room = Room(free_memory() // 2)
        # What a layer gives behind its stream; None: it gives no tuple.
        self.more: tuple | None = None
        _check_walk(self)

    @property
    def num_layers(self) -> int:
        """Layers of the model."""
        return len(decoder_layers(self.lm))

    @property
    def device(self) -> torch.device:
        """Where a layer runs."""
        return torch.device(self.parts.device)

    @contextlib.contextmanager
    def passing(
        self, change: Callable = lambda index, h_BQD: h_BQD
    ) -> Iterator[None]:
        """Let layers give what `change` makes of what they are given.

        At all other times a pass through the model fails, as its layers have
        no weights.
        """
        layers = decoder_layers(self.lm)
        for index, layer in enumerate(layers):
            layer.forward = _instead(index, change, self.more)
        try:
            yield
        finally:
            for layer in layers:
                del layer.forward

    @contextlib.contextmanager
    def layer(self, index: int) -> Iterator[torch.nn.Module]:
        """A layer with its weights, for as long as the block lasts."""
        layer = self.parts.layer(index)
        for name, value in self.exchanged.get(index, {}).items():
            weight = layer.get_parameter(name)
            weight.data = value.to(weight.device, weight.dtype)
        yield layer

    def enter(self, batches: Iterable[dict]) -> list[Row]:
        """Batches on their way: before the first layer."""
        rows = []
        for batch in batches:
            with self.passing():
                streams = recorded(self.lm, batch)
            h_BQD = self.room.keep(streams.before[0])
            mask_BQ = streams.mask_BQ.bool()
            rows.append(Row(h_BQD, streams.options, mask_BQ, batch, self))
        return rows

    @torch.no_grad()
    def walk(
        self,
        ways: list[Way],
        before: Callable[[int], None] = lambda index: None,
        start: int = 0,
        what: str = "Layers",
    ) -> None:
        """Let rows go through the layers of their ways.

        `before` is called with each layer's number, and at last with how many
        there are; it may add to the ways.
        """
        indices = range(start, self.num_layers)
        for index in tqdm(
            indices, what, disable=not self.progress, leave=False
        ):
            before(index)
            here = [way for way in ways if index in way.layers]
            if not here:
                continue
            with self.layer(index) as layer:
                for way in here:
                    for row in way.rows:
                        row.step(index, layer)
            # Or it would be there while the next one is read.
            del layer
        before(self.num_layers)


@dataclass
class Row:
    """A batch of rows of text on its way through the layers."""

    h_BQD: torch.Tensor
    options: list[dict]
    mask_BQ: torch.Tensor
    batch: dict
    model: StreamedLM

    def here(self) -> torch.Tensor:
        """The stream, on the device."""
        return self.h_BQD.to(self.model.device)

    def step(self, index: int, layer: torch.nn.Module) -> None:
        """Go through a layer."""
        output = layer(self.here(), **self.options[index])
        if isinstance(output, tuple):
            output, *more = output
            if any(value is not None for value in more):
                raise TypeError(
                    f"{self.model.source}: layer {index} gives more than its "
                    f"stream, and cannot be run by itself. {MEND}"
                )
        self.h_BQD.copy_(output)

    def fork(self) -> Row:
        """The same row, which can go another way from here."""
        return replace(self, h_BQD=self.model.room.keep(self.h_BQD))


@dataclass
class Way:
    """Rows, and the layers that they go through."""

    rows: list[Row]
    layers: set[int]


class Room:
    """Memory for streams; what is too much lies in files, mapped."""

    def __init__(self, limit: int):
        self.left = limit
        self.folder: tempfile.TemporaryDirectory | None = None

    def keep(self, h_BQD: torch.Tensor) -> torch.Tensor:
        """A copy of a stream that stays, on the CPU."""
        self.left -= h_BQD.numel() * h_BQD.element_size()
        if self.left > 0:
            return h_BQD.to("cpu", copy=True)
        self.folder = self.folder or tempfile.TemporaryDirectory()
        handle, path = tempfile.mkstemp(dir=self.folder.name)
        os.close(handle)
        kept = torch.from_file(
            path, shared=True, size=h_BQD.numel(), dtype=h_BQD.dtype
        ).view(h_BQD.shape)
        # Mapped, it lasts for as long as the tensor does.
        os.unlink(path)
        return kept.copy_(h_BQD)


def _instead(index, change, more):
    """A forward that stands in place of a layer's."""

    def forward(*args, **options):
        """What `change` makes of the stream."""
        h_BQD = args[0] if args else options["hidden_states"]
        h_BQD = change(index, h_BQD)
        return h_BQD if more is None else (h_BQD, *more)

    return forward


def _check_walk(model: StreamedLM) -> None:
    """Refuse a family whose layers are not one after the other and no more."""
    tried = []
    # Some families' layers give their stream in a tuple, some with a place
    # for weights of attention.
    for more in (None, (), (None,)):
        tried.append(_difference(model, more))
        if tried[-1] is None:
            break
    else:
        wrong = tried[0]
        raise TypeError(
            f"{model.source}: the layers of a {model.parts.config.model_type} "
            f"model cannot be run one at a time: {wrong}. {MEND}"
        )
    head = model.lm.lm_head
    try:
        # A part of it: the whole would be read for nothing.
        few = copy.copy(head)
        few._parameters = {
            name: value
            if value is None
            else torch.nn.Parameter(value[:HEAD], requires_grad=False)
            for name, value in head._parameters.items()
        }
        model.lm.lm_head = few
        with model.passing():
            check_calls(model.lm, cached=False)
    finally:
        model.lm.lm_head = head


@torch.no_grad()
def _difference(model, more) -> str | None:
    """What a family does besides running its layers one after the other."""
    given, entered, options = [], [], []

    def change(index, h_BQD):
        """Another stream, known by heart."""
        given.append(torch.full_like(h_BQD, (index + 1) / model.num_layers))
        return given[-1]

    def see(index, h_BQD, called_with):
        """Keep what reaches a layer."""
        entered.append(h_BQD)
        options.append(called_with or {})

    model.more = more
    ids = torch.arange(min(TRIED, model.parts.config.vocab_size))
    ids = ids[None].to(model.device)
    positions = torch.arange(ids.shape[1], device=model.device)[None]
    try:
        with model.passing(change), on_stream(model.lm, see):
            last_states(
                model.lm,
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                position_ids=positions,
            )
    except Exception as error:
        return f"without its layers it fails with {error!r:.200}"
    if len(given) != model.num_layers or len(entered) != len(given) + 1:
        return "it does not run its layers once each, one after the other"
    for left, came in zip(given, entered[1:]):
        if came.shape != left.shape or not torch.equal(came, left):
            return "it changes what goes from one layer to the next"
    for called_with in options:
        for name, value in called_with.items():
            values = value if isinstance(value, tuple) else (value,)
            if not all(isinstance(one, PLAIN) for one in values):
                kind = type(value).__name__
                return f"its layers share a {kind} ({name})"
    return None
