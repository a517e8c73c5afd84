"""Norms, rotations and activations as single kernels, for a while.

One token's step of a decoder is hundreds of kernels that do next to nothing:
a norm alone is eight. torch.compile makes one or two of each such chain. It
compiles the pieces that all layers have in common, each once and with the
roundings of the unfused one, rather than whole layers, each of which it would
take for a new program.
"""

import contextlib
import functools
import importlib.util
import sys
import types

import torch

from speechbrain_ext.pruning import base_model

BACKEND = "inductor"
# In a low precision, round wherever the unfused kernels do.
OPTIONS = {"emulate_precision_casts": True}
ROTATION = "apply_rotary_pos_emb"


@contextlib.contextmanager
def fused(lm):
    """Within, the decoder's forward runs on fused kernels where it can.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        A causal LM; outside it is as it was.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> lm = tiny_speech_llm().decoder.lm
    >>> with fused(lm):
    ...     norm = lm.model.norm.forward
    >>> norm == lm.model.norm.forward
    False
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
    """The function compiled, once for all layers."""
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
    """An attribute that is another for a while."""
    before = vars(owner).get(name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is None:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
