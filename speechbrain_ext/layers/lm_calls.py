"""How a causal LM is called in parts: embeddings, states, cache and head.

Training, perplexity, rules and decoding run the base model and ask for logits
at a few positions only. What a family does to its logits there (Granite and
Cohere scale them, Gemma 2 caps them) is done by the model's own forward, which
is handed the states in place of computing them.
"""

import copy
import inspect

import torch
from transformers import DynamicCache
from transformers.modeling_outputs import MoeModelOutputWithPast

from speechbrain_ext.layers.surgery import base_model, causal_lm

# What the argument for the key-value cache has been called.
CACHE_NAMES = ("cache", "past_key_values")

# Largest difference of two logits that is rounding, as a share of the largest.
ROUNDING = {torch.float32: 1e-3, torch.float64: 1e-6}
HALF_ROUNDING = 0.05


def embed(lm, ids):
    """Token ids of shape ``[*]`` to embeddings of shape ``[*, D]``."""
    return base_model(lm).embed_tokens(ids)


def cache_argument(model):
    """The name under which a forward takes a key-value cache."""
    parameters = inspect.signature(model.forward).parameters.values()
    named = {p.name for p in parameters if p.kind != p.VAR_KEYWORD}
    kept = [name for name in CACHE_NAMES if name in named]
    # The name changes between releases; the type says what it is for.
    kept += [p.name for p in parameters if "Cache" in str(p.annotation)]
    if not kept:
        raise TypeError(
            f"{type(model).__name__} takes no key-value cache under any name "
            "known here, so it cannot be decoded token by token: use a "
            "causal LM of the Llama or Qwen2 kind."
        )
    return kept[0]


def last_states(lm, cache=None, **inputs):
    """Last hidden states, after the final norm, of what is read now.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The causal LM.
    cache : object or None
        What was read before, and what is read now is added to; None: nothing
        is kept.
    **inputs : torch.Tensor
        `input_ids` or `inputs_embeds`, `attention_mask`, `position_ids`.

    Returns
    -------
    torch.Tensor
        Shape ``[B, Q, D]``.
    """
    model = base_model(lm)
    if cache is not None:
        inputs[cache_argument(model)] = cache
    return model(**inputs, use_cache=cache is not None).last_hidden_state


def logits_of(lm, h_ND, head=lambda lm_head, h_ND: lm_head(h_ND)):
    """Logits of last hidden states, as this model's own forward makes them.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The causal LM.
    h_ND : torch.Tensor
        Last hidden states, of any positions.
    head : callable
        How the LM head is applied to rows; is given both.

    Returns
    -------
    torch.Tensor
        Shape ``[N, V]``.
    """
    lm = causal_lm(lm)
    view = copy.copy(lm)
    output = MoeModelOutputWithPast(last_hidden_state=h_ND[None])
    view._modules = {
        **lm._modules,
        "model": _Given(lambda *_: output),
        "lm_head": _Given(lambda h_1ND: head(lm.lm_head, h_1ND[0])[None]),
    }
    # The class's forward: what was hooked onto the model is for whole calls.
    return type(lm).forward(view, inputs_embeds=h_ND[None]).logits[0]


class _Given(torch.nn.Module):
    """Stands where a part of a model stands, and does what it is given."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *args, **kwargs):
        return self.function(*args)


def final_norm(lm):
    """What stands between the last layer and the LM head."""
    model = base_model(lm)
    parts = dict(model.named_children())
    named = [name for name in parts if "norm" in name]
    # Gemma 3n has another one for what it hands to each layer.
    named = ["norm"] if "norm" in named else named
    if len(named) != 1:
        raise TypeError(
            f"{type(model).__name__} has {len(named)} norms outside its "
            "layers: use a causal LM of the Llama or Qwen2 kind."
        )
    return parts[named[0]]


@torch.no_grad()
def check_calls(lm):
    """Refuse a causal LM that does something else when called in parts."""
    in_training = [part for part in lm.modules() if part.training]
    lm.eval()
    try:
        wrong = _difference(lm)
    except (torch.OutOfMemoryError, TypeError):
        raise
    except Exception as error:
        # Families with a cache or masks of their own say so in many ways.
        wrong = f"called in parts, it fails with {error!r:.200}"
    finally:
        for part in in_training:
            part.training = True
    if wrong:
        raise TypeError(
            f"{type(causal_lm(lm)).__name__} is not of the kind that can be "
            f"pruned here: {wrong}. docs/families.md lists the families that "
            "can."
        )


def _difference(lm):
    """In what a model called in parts differs from itself (str or None)."""
    model, head = base_model(lm), getattr(causal_lm(lm), "lm_head", None)
    if getattr(head, "weight", None) is None:
        return "its LM head is no matrix called lm_head"
    device = head.weight.device
    size = min(7, causal_lm(lm).config.vocab_size)
    ids = torch.arange(size, device=device)[None]
    positions = torch.arange(size, device=device)[None]
    inputs = {
        "position_ids": positions,
        "attention_mask": ids.new_ones(1, size),
    }
    with _watched(model) as whole:
        output = causal_lm(lm)(input_ids=ids, **inputs, use_cache=False)
    with _watched(model) as parts:
        h_BQD = last_states(lm, inputs_embeds=embed(lm, ids), **inputs)
    logits_QV, limit = output.logits[0].float(), ROUNDING.get(h_BQD.dtype)
    exact = limit is not None
    limit = limit or HALF_ROUNDING

    def differs(a, b):
        # Not "greater than": NaN must not pass.
        return not (a - b).abs().max() <= limit * b.abs().max()

    if len(whole["entered"]) != len(model.layers):
        return "it does not run its layers once each, one after the other"
    if differs(parts["entered"][0].float(), whole["entered"][0].float()):
        return "it treats token ids and their embeddings differently"
    if differs(final_norm(lm)(whole["left"]), whole["normed"]):
        return "it does more than a norm between its last layer and its head"
    if differs(logits_of(lm, whole["normed"][0]).float(), logits_QV):
        return "its logits depend on more than its last hidden states"
    cache = DynamicCache(config=causal_lm(lm).config)
    steps = []
    for start, end in ((0, size - 2), (size - 2, size - 1), (size - 1, size)):
        h_BQD = last_states(
            lm,
            cache,
            input_ids=ids[:, start:end],
            position_ids=positions[:, start:end],
            attention_mask=inputs["attention_mask"][:, :end],
        )
        if cache.get_seq_length() != end:
            return "it does not put what it reads into the key-value cache"
        steps.append(h_BQD)
    # In half precision a rounding may send a token to another expert.
    if exact and differs(torch.cat(steps, 1), whole["normed"]):
        return "token by token, from its cache, it reads something else"
    return None


class _watched:
    """Keep what enters and leaves the layers and the base model."""

    def __init__(self, model):
        self.model, self.handles = model, []

    def __enter__(self):
        seen = {"entered": []}

        def before(layer, args, kwargs):
            seen["entered"].append(args[0] if args else kwargs["hidden_states"])

        def behind(layer, args, output):
            seen["left"] = output[0] if isinstance(output, tuple) else output

        def at_end(model, args, output):
            seen["normed"] = output[0]

        for layer in self.model.layers:
            self.handles.append(
                layer.register_forward_pre_hook(before, with_kwargs=True)
            )
        last = self.model.layers[-1]
        self.handles.append(last.register_forward_hook(behind))
        self.handles.append(self.model.register_forward_hook(at_end))
        return seen

    def __exit__(self, *error):
        for handle in self.handles:
            handle.remove()
