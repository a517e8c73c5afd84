"""Which layers are redundant: angular distances and the pruning path.

Paper, Section 3.1, after Gromov et al. (arXiv 2403.17887): the distance of a
block of n layers that starts at l is

    d(l, n) = arccos(cos(h_l, h_(l+n))) / pi,

h_l being the residual stream before layer l at a sequence's last token,
averaged over sequences. h_L, behind the last layer, is the stream *before*
the final norm: hidden states as models hand them out are normed there, and
would compare unlike things.

One pass over the data gives the whole table. Only last tokens are kept, on
the device; neither the LM head nor other positions' states are computed or
stored.

Authors
 * The speechbrain_ext authors, 2026
"""

import contextlib

import torch

from speechbrain_ext.distance_table import RedundancyTable
from speechbrain_ext.finite import refuse_overflow
from speechbrain_ext.pruning import base_model

POSITIONS = ("target", "prompt")


@contextlib.contextmanager
def last_token_states(model, last_B):
    """Record the residual stream at one position of each row.

    Arguments
    ---------
    model : torch.nn.Module
        The decoder without its LM head.
    last_B : torch.Tensor
        The position to read in each row.

    Yields
    ------
    list of torch.Tensor
        Filled by the next forward pass: L + 1 tensors of shape ``[B, D]``,
        before each layer and behind the last.
    """
    states, room = [], []
    rows_B = torch.arange(len(last_B), device=last_B.device)

    def record(h_BQD):
        if not room:
            # All at once: small pieces that stay, between large ones that
            # go, would keep the memory of the large ones from being reused.
            shape = len(model.layers) + 1, len(last_B), h_BQD.shape[-1]
            room.extend(h_BQD.new_empty(shape))
        states.append(room[len(states)].copy_(h_BQD[rows_B, last_B]))

    def before(module, args, kwargs):
        record(args[0] if args else kwargs["hidden_states"])

    def behind(module, args, output):
        record(output[0] if isinstance(output, tuple) else output)

    handles = [
        layer.register_forward_pre_hook(before, with_kwargs=True)
        for layer in model.layers
    ]
    handles.append(model.layers[-1].register_forward_hook(behind))
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


def angular_distances(states):
    """Angular distance between the states of all pairs of depths.

    In float64: arccos in half precision cannot tell small distances apart
    (the smallest above zero is 0.028 in bfloat16, 1e-4 in float32).

    Arguments
    ---------
    states : list of torch.Tensor
        L + 1 tensors of shape ``[B, D]``.

    Returns
    -------
    torch.Tensor
        Shape ``[B, L + 1, L + 1]``, float64, in 0 .. 1.

    Example
    -------
    >>> states = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
    >>> angular_distances(states)[0, 0, 1].item()
    0.5
    """
    h_BLD = torch.stack(states, dim=1).double()
    h_BLD = torch.nn.functional.normalize(h_BLD, dim=-1)
    cosine_BLL = torch.bmm(h_BLD, h_BLD.transpose(1, 2))
    return torch.arccos(cosine_BLL.clamp(-1.0, 1.0)) / torch.pi


def last_positions(batch, position):
    """The column of the token that is measured, in each row.

    Arguments
    ---------
    batch : dict
        With `attention_mask` of shape ``[B, Q]`` and, for "prompt",
        `prompt_lengths` of shape ``[B]``.
    position : str
        "target": the sequence's last token; "prompt": the prompt's.

    Returns
    -------
    torch.Tensor
        Shape ``[B]``, int64.

    Raises
    ------
    ValueError
        If the position is unknown, a row is empty or prompt lengths lack.
    """
    if position not in POSITIONS:
        raise ValueError(
            f"position: {position!r} is neither of {', '.join(POSITIONS)}."
        )
    mask_BQ = batch["attention_mask"].long()
    counts_B = mask_BQ.sum(dim=1)
    if (counts_B == 0).any():
        raise ValueError("A row without a single token cannot be measured.")
    if position == "target":
        places_Q = torch.arange(mask_BQ.shape[1], device=mask_BQ.device)
        return (mask_BQ * places_Q).argmax(dim=1)
    if batch.get("prompt_lengths") is None:
        raise ValueError(
            "position: 'prompt' needs prompt_lengths in each batch: how many "
            "tokens of each row belong to the prompt."
        )
    lengths_B = batch["prompt_lengths"].to(mask_BQ.device)
    if (lengths_B < 1).any() or (lengths_B > counts_B).any():
        raise ValueError(
            "prompt_lengths must be between 1 and the row's own length."
        )
    return mask_BQ.argmax(dim=1) + lengths_B - 1


@torch.no_grad()
def measure(
    decoder, batches, position="target", provenance=None, across_ranks=False
):
    """Angular distances of all blocks, in one pass over the data.

    Arguments
    ---------
    decoder : torch.nn.Module
        Ours, or any Hugging Face causal LM of the Llama kind.
    batches : iterable of dict
        `input_ids` or `inputs_embeds`, `attention_mask` (padding on either
        side; taken as all ones if absent) and, for ``position="prompt"``,
        `prompt_lengths`.
    position : str
        "target": the last token of each row; "prompt": the prompt's last.
    provenance : dict or None
        Where the table comes from (model, encoder, task, input); stored.
    across_ranks : bool
        Each process has its own share of the data: add them up.

    Returns
    -------
    RedundancyTable
        ``[L, L]`` distances with standard errors over the sequences.

    Raises
    ------
    ValueError
        If there are no sequences, or the states overflow.

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> lm = tiny_speech_llm().decoder.lm
    >>> table = measure(lm, [{"input_ids": torch.tensor([[5, 6, 7]])}])
    >>> table.best(2).size, table.count
    (2, 1)
    """
    model = base_model(decoder)
    # Setting a mode touches every module: about 1 % of a small batch.
    in_training = [part for part in model.modules() if part.training]
    if in_training:
        model.eval()
    device = next(model.parameters()).device
    depth = len(model.layers) + 1
    total = torch.zeros(depth, depth, dtype=torch.float64, device=device)
    squares = torch.zeros_like(total)
    count = torch.zeros((), dtype=torch.float64, device=device)
    for place, batch in enumerate(batches):
        distances_BLL = _batch_distances(model, batch, position)
        if place == 0:
            # A model overflows on its first words; the table, made at the
            # end, looks at all. Asking each time would wait for the card.
            refuse_overflow(distances_BLL, "distances of the first batch")
        total += distances_BLL.sum(dim=0)
        squares += distances_BLL.square().sum(dim=0)
        count += len(distances_BLL)
    for part in in_training:
        part.training = True
    if across_ranks and torch.distributed.is_initialized():
        for sums in (total, squares, count):
            torch.distributed.all_reduce(sums)
    count = int(count)
    if not count:
        raise ValueError("No sequence to measure: the data are empty.")
    mean = total / count
    variance = (squares / count - mean.square()).clamp(min=0)
    error = (variance / max(count - 1, 1)).sqrt()
    return RedundancyTable.from_pairs(
        mean.cpu().numpy(),
        error.cpu().numpy(),
        count,
        dict(provenance or {}, position=position),
    )


def _batch_distances(model, batch, position):
    """Distances of one batch, shape ``[B, L + 1, L + 1]``."""
    device = next(model.parameters()).device
    inputs = {
        name: value.to(device)
        for name, value in batch.items()
        if torch.is_tensor(value)
    }
    text = inputs.get("inputs_embeds", inputs.get("input_ids"))
    if inputs.get("attention_mask") is None:
        inputs["attention_mask"] = torch.ones(
            text.shape[:2], dtype=torch.long, device=device
        )
    lengths = batch.get("prompt_lengths")
    if lengths is not None:
        inputs["prompt_lengths"] = torch.as_tensor(lengths, device=device)
    last_B = last_positions(inputs, position)
    for not_the_models in ("prompt_lengths", "labels"):
        inputs.pop(not_the_models, None)
    if "position_ids" not in inputs:
        mask_BQ = inputs["attention_mask"].long()
        inputs["position_ids"] = (mask_BQ.cumsum(dim=1) - 1).clamp(min=0)
    with last_token_states(model, last_B) as states:
        model(**inputs, use_cache=False)
    return angular_distances(states)
