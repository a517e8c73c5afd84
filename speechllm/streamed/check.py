"""A copy says what the layers that were kept say: both are run, side by side."""

from __future__ import annotations

import torch

from speechbrain_ext.layers.lm_calls import CausalLM, final_norm, logits_of
from speechbrain_ext.layers.removal import Removal
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoder import DTYPES, Decoder
from speechbrain_ext.quiet import quiet_loading
from speechllm.saved import check_saved
from speechllm.streamed.copy import Exchanged, WriteLayer
from speechllm.streamed.walk import Row, StreamedLM
from speechllm.text_lm import stored_dtype

# Tokens of a row that a copy is tried on.
TRIED = 12


def check_runs(
    decoder: Decoder | StreamedLM,
    removed: Removal,
    folder: str,
    exchanged: Exchanged | None = None,
    write: WriteLayer = lambda layer: None,
) -> None:
    """Refuse a written folder that does not say what the kept layers say.

    `write` is called with each layer's new number (at first with None, for
    what stands around them) before its weights are looked at: just copied,
    they are not read from the disk again.
    """
    dtype = stored_dtype(folder)
    kept = Removal.of(removed, decoder.num_layers).kept
    try:
        alike = _alike(decoder.source, folder, dtype, kept, exchanged, write)
    except TypeError:
        if not isinstance(decoder, Decoder):
            raise
        # Of a family that has to be in memory as a whole.
        for layer in (None, *range(len(kept))):
            write(layer)
        lm: CausalLM = drop_layers(decoder.lm, removed)
        lm = lm.to(DTYPES[dtype])
        check_saved(lm, folder)
        return
    if not alike:
        raise ValueError(
            f"{folder}: what was written differs from the layers that were "
            "kept: nothing was kept"
        )


@torch.no_grad()
def _alike(source, folder, dtype, kept, exchanged, write):
    """Whether both say the same of a few tokens."""
    with quiet_loading():
        model = StreamedLM(source, dtype)
        write(None)
        # Later: what is not written yet may not be looked at. A full disk has
        # no place for the holes of a file in memory, and the process is ended.
        copy = StreamedLM(folder, dtype, check=False)
    model.exchanged = exchanged or {}
    row, copied = _row(model), _row(copy)
    for new, old in enumerate(kept):
        write(new)
        with model.layer(old) as layer, copy.layer(new) as other:
            if not _share(layer, other):
                return False
            row.step(old, layer)
            copied.step(new, other)
        # Or they would be there while the next ones are read.
        del layer, other
    copy.parts.check()
    return all(map(torch.equal, _said(model, row), _said(copy, copied)))


def _row(model: StreamedLM) -> Row:
    """A few tokens before the first layer."""
    ids = torch.arange(TRIED) % model.parts.config.vocab_size
    return model.enter([{"input_ids": ids[None]}])[0]


def _share(layer: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Give a layer the other's weights, if they are the same to the bit.

    Equal results come of equal bytes only if these lie alike in memory, too.
    """
    weights = dict(other.named_parameters())
    for name, value in layer.named_parameters():
        its = weights.pop(name, None)
        if its is None or not _same_bits(value, its):
            return False
        value.data = its.data
    return not weights


def _same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether two tensors are the same, NaN and signs of zero included."""
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    flat = [x.data.contiguous().view(-1).view(torch.uint8) for x in (a, b)]
    if not any(x.numel() % 8 or x.storage_offset() % 8 for x in flat):
        # Eight bytes at once take a sixth of the time.
        flat = [x.view(torch.int64) for x in flat]
    return torch.equal(*flat)


def _said(model: StreamedLM, row: Row) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes of a row behind the last layer: states, and a few logits."""
    h_QD = final_norm(model.lm)(row.here()[0])

    def head(lm_head, h_QD):
        """The first rows of the head: its bytes are compared elsewhere."""
        weight = lm_head.weight[:TRIED].clone()
        return torch.nn.functional.linear(h_QD, weight)

    return h_QD, logits_of(model.lm, h_QD, head)
