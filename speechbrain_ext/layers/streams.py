"""The residual stream run again: from one layer, through some, to the loss."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from speechbrain_ext.layers.lm_calls import (
    decoder_layers,
    last_states,
    logits_of,
    model_inputs,
)
from speechbrain_ext.layers.residual import (
    in_double,
    leaving,
    on_stream,
    target_loss,
)

# Positions whose logits are held at once.
POSITIONS = 256


class _Reached(Exception):
    """The wanted layer is reached: the layers behind it need not run."""


@torch.no_grad()
def states_at(decoder, index: int, sequence, mlp: bool = False):
    """The stream that enters a layer, and the last MLP's share of it."""
    found = {}

    def see(place, h_BQD, options):
        """Keep the stream."""
        if place == index:
            found["h"] = h_BQD
            raise _Reached

    handles = []
    if mlp:
        before = decoder_layers(decoder)[index - 1]
        keep = functools.partial(found.__setitem__, "m")
        handles.append(leaving(before.mlp, keep))
    try:
        with on_stream(decoder, see):
            last_states(decoder, **sequence.causal_inputs())
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found["h"], found.get("m")


@dataclass
class Streams:
    """What each layer of a decoder was called with, for one batch."""

    layers: torch.nn.ModuleList
    mask_BQ: torch.Tensor
    before: list = field(default_factory=list)
    options: list = field(default_factory=list)

    def run(
        self,
        h_BQD: torch.Tensor,
        indices: Iterable[int],
        change: dict | None = None,
    ) -> torch.Tensor:
        """The stream behind some layers, which another one goes through."""
        for index in indices:
            if change and index in change:
                h_BQD = change[index](h_BQD)
            output = self.layers[index](h_BQD, **self.options[index])
            h_BQD = output[0] if isinstance(output, tuple) else output
        return h_BQD


@torch.no_grad()
def recorded(
    model: torch.nn.Module, batch: dict, change: dict | None = None
) -> Streams:
    """Run a batch, and keep what each layer was called with.

    `change` is what is done, before some layers, to the stream that enters
    them; streams are kept as they were before it.
    """
    inputs, change = model_inputs(model, batch), change or {}
    streams = Streams(decoder_layers(model), inputs["attention_mask"])

    def see(index, h_BQD, options):
        """Keep the stream."""
        if options is None:
            return None
        streams.before.append(h_BQD)
        streams.options.append(options)
        return change[index](h_BQD) if index in change else None

    with on_stream(model, see):
        last_states(model, **inputs)
    return streams


def states_loss(
    lm: torch.nn.Module, h_ND: torch.Tensor, labels_N: torch.Tensor
) -> torch.Tensor:
    """Summed `target_loss` of normed last hidden states (float64).

    Logits are held for a few positions at a time.
    """
    total = in_double(h_ND.new_zeros(()))
    for h, labels in zip(h_ND.split(POSITIONS), labels_N.split(POSITIONS)):
        total += in_double(target_loss(logits_of(lm, h), labels))
    return total
