"""States of the residual stream, read while a decoder runs.

Authors
 * The speechbrain_ext authors, 2026
"""

import torch

from speechbrain_ext.prompt import IGNORE
from speechbrain_ext.pruning import base_model

POSITIONS = ("all", "target")


class _Reached(Exception):
    """The wanted layer is reached: the layers behind it need not run."""


@torch.no_grad()
def states_at(decoder, index, sequence, mlp=False):
    """The stream that enters a layer, and the last MLP's share of it.

    Arguments
    ---------
    decoder : torch.nn.Module
        Ours, or a causal LM of the Llama kind.
    index : int
        The layer, as it is numbered in this decoder.
    sequence : speechbrain_ext.prompt.Sequence
        Assembled rows.
    mlp : bool
        Give the output of the MLP before that layer too.

    Returns
    -------
    h_BQD : torch.Tensor
        The stream.
    m_BQD : torch.Tensor or None
        What the MLP of layer ``index - 1`` added to it last.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> rows = model.sequence(torch.rand(1, 2, 48), torch.tensor([2]))
    >>> states_at(model.decoder, 2, rows)[0].shape == rows.embeds_BQD.shape
    True
    """
    model, found = base_model(decoder), {}

    def enter(layer, args, kwargs):
        found["h"] = args[0] if args else kwargs["hidden_states"]
        raise _Reached

    def leave(module, args, output):
        found["m"] = output

    layers = model.layers
    handles = [layers[index].register_forward_pre_hook(enter, with_kwargs=True)]
    if mlp:
        handles.append(layers[index - 1].mlp.register_forward_hook(leave))
    try:
        model(**sequence.causal_inputs(), use_cache=False)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    return found["h"], found.get("m")


def position_weights(sequence, positions="all"):
    """How much each position counts in a fit.

    Arguments
    ---------
    sequence : speechbrain_ext.prompt.Sequence
        Assembled rows.
    positions : str
        "all": all but padding; "target": where a target is predicted.

    Returns
    -------
    torch.Tensor
        Shape ``[B, Q]``: 1 or 0.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> x_BSF, tokens_B = torch.rand(1, 2, 48), torch.tensor([2])
    >>> rows = model.sequence(x_BSF, tokens_B, [torch.tensor([5, 6, 7])])
    >>> position_weights(rows, "target").sum()
    tensor(3.)
    """
    if positions not in POSITIONS:
        raise ValueError(
            f"positions: {positions!r} is none of {', '.join(POSITIONS)}."
        )
    if positions == "target":
        return (sequence.labels_BQ != IGNORE).float()
    return sequence.mask_BQ.float()


@torch.no_grad()
def cross_entropy(decoder, sequences):
    """Mean negative log-likelihood per target token, in nats.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        In eval mode.
    sequences : iterable of speechbrain_ext.prompt.Sequence
        With labels; each process its share.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        If there is no target token.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> x_BSF, tokens_B = torch.rand(1, 2, 48), torch.tensor([2])
    >>> rows = model.sequence(x_BSF, tokens_B, [torch.tensor([5, 6, 7])])
    >>> 0 < cross_entropy(model.decoder, [rows]) < 20
    True
    """
    sums = torch.zeros(2, dtype=torch.float64, device=decoder.device)
    for sequence in sequences:
        logits_NV, labels_N = decoder.target_logits(
            on_device(sequence, decoder.device)
        )
        sums[0] += torch.nn.functional.cross_entropy(
            logits_NV.float(), labels_N, reduction="sum"
        )
        sums[1] += len(labels_N)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(sums)
    if not sums[1]:
        raise ValueError("healing: no held-out target to judge a map by.")
    return (sums[0] / sums[1]).item()


def on_device(sequence, device):
    """A sequence with its tensors on a device.

    Arguments
    ---------
    sequence : speechbrain_ext.prompt.Sequence
        Assembled rows.
    device : str or torch.device
        Where to.

    Returns
    -------
    speechbrain_ext.prompt.Sequence

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> rows = model.sequence(torch.rand(1, 2, 48), torch.tensor([2]))
    >>> on_device(rows, "cpu").mask_BQ is rows.mask_BQ
    True
    """
    parts = {
        name: value.to(device) if torch.is_tensor(value) else value
        for name, value in vars(sequence).items()
    }
    return type(sequence)(**parts)
