"""The residual stream of a decoder: seen, changed, run again, and judged.

The one place that hooks into a decoder, and the one loss. Nothing here knows
of rotary embeddings or masks: a real pass of the model hands each layer what
it needs, and that is kept for running it again.
"""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import torch

from speechbrain_ext.layers.lm_calls import decoder_layers


def entering(layer: torch.nn.Module, change: Callable):
    """Call ``change(layer, h_BQD, options)`` before each run of a layer.

    Whatever it gives, unless None, enters in place of the stream `h_BQD`, with
    `options`, the layer's other arguments, as it left them. Gives torch's handle; a copy
    of the layer does the same, as long as `change` can be copied.
    """
    return layer.register_forward_pre_hook(
        functools.partial(_enter, change), with_kwargs=True
    )


def _enter(change, layer, args, options):
    options = dict(options)
    named = "hidden_states" in options
    h_BQD = options.pop("hidden_states") if named else args[0]
    changed = change(layer, h_BQD, options)
    if changed is not None:
        return (changed, *args[1:]), options
    return None


def leaving(module: torch.nn.Module, see: Callable):
    """Call ``see(h_BQD)`` with what each run of a module gives."""

    def left(module, args, output):
        """Hand on what the module gave."""
        see(output if torch.is_tensor(output) else output[0])

    return module.register_forward_hook(left)


@contextlib.contextmanager
def on_stream(model: torch.nn.Module, see: Callable) -> Iterator[None]:
    """Look at the residual stream of every pass, and change it.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder.
    see : callable
        Called as ``see(index, h_BQD, options)`` before each layer, in their
        order; what it gives, unless None, goes on in place of `h_BQD`. Last
        of all it is called with the number of layers, the stream behind the
        last one (not normed) and None.
    """
    layers = decoder_layers(model)

    def before(index):
        """Hand on the stream before a layer."""
        return lambda layer, h_BQD, options: see(index, h_BQD, options)

    handles = [
        entering(layer, before(index)) for index, layer in enumerate(layers)
    ]
    handles.append(
        leaving(layers[-1], lambda h_BQD: see(len(layers), h_BQD, None))
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def target_loss(
    logits_NV: torch.Tensor, labels_N: torch.Tensor, reduction: str = "sum"
) -> torch.Tensor:
    """Negative log-likelihood of target tokens, in nats, in float32.

    Arguments
    ---------
    logits_NV : torch.Tensor
        Logits at the target positions.
    labels_N : torch.Tensor
        The ids to predict.
    reduction : str
        "sum", "mean" or "none".

    Returns
    -------
    torch.Tensor
        A number, or shape ``[N]`` without a reduction.
    """
    return torch.nn.functional.cross_entropy(
        logits_NV.float(), labels_N, reduction=reduction
    )


def in_double(values: torch.Tensor) -> torch.Tensor:
    """In float64; from an Apple GPU, which has none, on the CPU."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def refuse_overflow(values: Iterable[float], what: str) -> None:
    """Refuse measurements of which one is NaN or infinite.

    NumPy and torch both take a NaN for the smallest value: a layer that could
    not be measured would be the first to go.
    """
    flat = values.flatten().tolist() if hasattr(values, "flatten") else values
    flat = list(flat)
    bad = sum(not math.isfinite(value) for value in flat)
    if bad:
        raise ValueError(
            f"{what}: {bad} of {len(flat)} are not a number. {OVERFLOW}"
        )


OVERFLOW = (
    "Numbers over 65504 overflow float16: use bfloat16 or float32 (--dtype, or "
    "dtype of the backbone or the encoder). Where that is in use, the weights "
    "hold what is no number: get the model again."
)
# Names that a message has room for.
NAMED = 10


def no_numbers(names: Sequence[str], what: str) -> str:
    """What to tell of utterances of which something is NaN or infinite."""
    more = len(names) - NAMED
    told = ", ".join(map(str, names[:NAMED]))
    told += f" and {more} more" if more > 0 else ""
    return f"{told}: {what} is not a number. {OVERFLOW}"
