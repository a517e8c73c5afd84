"""Greedy decoding in buffers of a fixed size, which a GPU can record.

At batch 1 a GPU reads the weights for one token in a few milliseconds, and
the hundreds of small kernels of that token take longer to launch than to run.
Here a token's step touches the same memory each time, so that it can be
recorded once as a CUDA graph and replayed as a whole, with the chains of tiny
kernels in norms, rotations and activations fused by torch.compile. Elsewhere
(on the CPU) the same steps run unrecorded: that is no faster, but it is how
their text is compared with the plain way's.
"""

import contextlib
import functools
import importlib.util
import sys
import types
from typing import Any

import torch
from transformers import DynamicCache

from speechbrain_ext.layers.lm_calls import base_model, last_states, logits_of
from speechbrain_ext.model.decoding import first_best

# ----------------------------------------------------------------------------
# Norms, rotations and activations as single kernels, for a while.
#
# One token's step of a decoder is hundreds of kernels that do next to nothing:
# a norm alone is eight. torch.compile makes one or two of each such chain. It
# compiles the pieces that all layers have in common, each once and with the
# roundings of the unfused one, rather than whole layers, each of which it would
# take for a new program.

BACKEND = "inductor"
# In a low precision, round wherever the unfused kernels do.
OPTIONS = {"emulate_precision_casts": True}
ROTATION = "apply_rotary_pos_emb"


@contextlib.contextmanager
def fused(lm):
    """Within, the decoder's forward runs on fused kernels where it can.

    Parameters
    ----------
    lm : transformers.PreTrainedModel
        A causal LM; outside it is as it was.
    """
    with contextlib.ExitStack() as stack:
        # On a GPU, what is compiled is written in Triton.
        if BACKEND != "inductor" or importlib.util.find_spec("triton"):
            for owner, name, value in _replacements(base_model(lm)):
                stack.enter_context(_replaced(owner, name, value))
        yield


def _replacements(model):
    """What to put where: owner, attribute, compiled function."""
    for module in model.modules():
        if _is_plain(module):
            forward = _compiled(type(module).forward, BACKEND)
            yield module, "forward", types.MethodType(forward, module)
    homes = {type(layer.self_attn).__module__ for layer in model.layers}
    for home in map(sys.modules.get, sorted(homes)):
        if hasattr(home, ROTATION):
            yield home, ROTATION, _compiled(getattr(home, ROTATION), BACKEND)


@functools.cache
def _compiled(function, backend):
    options = OPTIONS if backend == "inductor" else None
    return torch.compile(function, backend=backend, options=options)


def _is_plain(module):
    """Whether it is a norm or an MLP that nobody has wrapped or hooked."""
    name = type(module).__name__
    if not name.endswith(("RMSNorm", "MLP")):
        return False
    parts = list(module.modules())
    hooked = any(p._forward_hooks or p._forward_pre_hooks for p in parts)
    wrapped = any("forward" in vars(p) for p in parts)
    # An adapter on a linear layer is a layer of another type.
    plain = all(
        type(p) is torch.nn.Linear or not list(p.children()) for p in parts[1:]
    )
    return plain and not hooked and not wrapped


@contextlib.contextmanager
def _replaced(owner, name, value):
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)


# Buffers are this many positions long, or a multiple of it: batches of like
# length share one recording.
LENGTH_STEP = 256

# Runs before recording, in which libraries set themselves up.
WARM_UP = 3


class StaticDecoding:
    """Keeps the latest buffers, with their recording, for the next batch."""

    def __init__(self):
        self._key = None
        self._steps = None

    def begin(self, lm, sequence, longest):
        """Read a batch's prompts."""
        check_static(lm)
        rows, width = sequence.mask_BQ.shape
        length = -(-(width + longest) // LENGTH_STEP) * LENGTH_STEP
        key = (rows, length, _state_of(lm))
        if key != self._key:
            # The old buffers go first: both need not fit.
            self._key = self._steps = None
            self._steps = StaticSteps(lm, rows, length)
            self._key = key
        self._steps.read(sequence)
        return self._steps


class StaticSteps:
    """Buffers for one token's step of a batch, and how to take it."""

    may_shrink = False

    def __init__(self, lm, rows, length):
        self.lm = lm
        device = lm.lm_head.weight.device

        def integers(*shape):
            """Zeros for indices."""
            return torch.zeros(*shape, dtype=torch.long, device=device)

        self.token_B1 = integers(rows, 1)
        self.positions_B1 = integers(rows, 1)
        # Added to the scores; made once, not from a boolean in each layer.
        self.mask_B11Q = integers(rows, 1, 1, length).to(lm.dtype)
        self._masked = torch.finfo(lm.dtype).min
        self.cache = FixedCache(integers(1), length)
        self.graph = None
        self._first = None

    def read(self, sequence):
        """Run the prompts and put their keys and values into the buffers."""
        cache = DynamicCache()
        unpadded = sequence.padding == "none"
        inputs = sequence.causal_inputs() if unpadded else sequence.as_inputs()
        h_BQD = last_states(self.lm, cache, **inputs)
        self._first = first_best(logits_of(self.lm, h_BQD[:, -1]))
        if not self.cache.keys:
            self.cache.make_room(cache)
            if self.token_B1.device.type == "cuda":
                self.graph = self._record()
        width = self.cache.fill(cache)
        padding_B11Q = ~sequence.mask_BQ[:, None, None].bool()
        self.mask_B11Q.fill_(self._masked)
        self.mask_B11Q[..., :width] = self._masked * padding_B11Q
        self.positions_B1.copy_(sequence.positions_BQ[:, -1:] + 1)

    def next_token(self):
        """The next token of each row, shape ``[B]``."""
        if self._first is not None:
            token_B, self._first = self._first, None
            return token_B
        if self.graph is None:
            self._step()
        else:
            self.graph.replay()
        # A copy: the next step writes over the buffer.
        return self.token_B1[:, 0].clone()

    def feed(self, token_B):
        """Read one more token in each row."""
        self.token_B1.copy_(token_B[:, None])

    def _step(self):
        """Read the buffered token, write the next one in its stead."""
        self.mask_B11Q.index_fill_(3, self.cache.place, 0)
        h_B1D = last_states(
            self.lm,
            self.cache,
            input_ids=self.token_B1.clamp(min=0),
            attention_mask=self.mask_B11Q,
            position_ids=self.positions_B1,
        )
        token_B = first_best(logits_of(self.lm, h_B1D[:, -1]))
        self.token_B1.copy_(token_B[:, None])
        self.positions_B1.add_(1)
        self.cache.place.add_(1)

    def _record(self):
        """Record a step as a CUDA graph; what the buffers hold is lost."""
        # Weights that autocast has cast may not be kept: they would lie in
        # memory that the graph does not know of.
        autocast = torch.autocast(
            "cuda",
            enabled=torch.is_autocast_enabled("cuda"),
            dtype=torch.get_autocast_dtype("cuda"),
            cache_enabled=False,
        )
        with autocast, fused(self.lm):
            aside = torch.cuda.Stream()
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                for _ in range(WARM_UP):
                    self._step()
            torch.cuda.current_stream().wait_stream(aside)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step()
        return graph


class FixedCache:
    """Keys and values of all layers, in buffers that models write into.

    transformers' own StaticCache keeps its place in each layer and finds it
    anew at each step; here one tensor tells all layers where to write.
    """

    def __init__(self, place: torch.Tensor, length: int):
        self.place = place
        self.length = length
        # Of each layer: shape ``[B, heads, length, width]``.
        self.keys: list[torch.Tensor] = []
        self.values: list[torch.Tensor] = []

    def make_room(self, cache: Any) -> None:
        """Buffers for what a filled cache holds."""
        self.keys = [self._buffer(layer.keys) for layer in cache.layers]
        self.values = [self._buffer(layer.values) for layer in cache.layers]

    def _buffer(self, like):
        rows, heads, _, width = like.shape
        return like.new_zeros(rows, heads, self.length, width)

    def fill(self, cache: Any) -> int:
        """Take over a cache's contents; gives their width."""
        width = cache.get_seq_length()
        for index, layer in enumerate(cache.layers):
            for buffers, own in (
                (self.keys, layer.keys),
                (self.values, layer.values),
            ):
                buffers[index][:, :, :width] = own
                # No mask hides a NaN that an earlier batch has left there.
                buffers[index][:, :, width:] = 0
        self.place.fill_(width)
        return width

    def update(self, keys, values, layer_idx, *args, **kwargs):
        """Write one position; gives all, as attention asks for."""
        self.keys[layer_idx].index_copy_(2, self.place, keys)
        self.values[layer_idx].index_copy_(2, self.place, values)
        return self.keys[layer_idx], self.values[layer_idx]


def check_static(lm):
    """Refuse a decoder that fixed buffers do not serve."""
    attention = lm.config._attn_implementation
    if attention not in ("sdpa", "eager"):
        raise ValueError(
            "decode_static: True needs attention: sdpa (or eager), not "
            f"{attention}: set that, or decode_static: False."
        )
    kinds = getattr(lm.config, "layer_types", None) or ()
    if any(kind != "full_attention" for kind in kinds):
        raise ValueError(
            "decode_static: True, but this decoder has layers of the kinds "
            f"{sorted(set(kinds))}, and only full attention can be decoded "
            "in fixed buffers: set decode_static: False."
        )


def _state_of(lm):
    """What a recording depends on: weights' places, what is on, autocast."""
    weights = hash(tuple(p.data_ptr() for p in lm.parameters()))
    adapters = tuple(
        (str(module.active_adapters), module.disable_adapters)
        for module in lm.modules()
        if hasattr(module, "active_adapters")
        and hasattr(module, "disable_adapters")
    )
    bridges = tuple(
        module.active_bridge
        for module in lm.modules()
        if hasattr(module, "active_bridge")
    )
    device = lm.lm_head.weight.device.type
    autocast = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if autocast else None
    return id(lm), lm.training, weights, adapters, bridges, dtype
