"""Speech, prompt and target as one sequence: the only place that knows the order.

A row is ``[before] speech [after] target``, packed without holes; padding
stands at one end of the row only and positions count real tokens, so that a
row means the same alone and in any batch (up to rounding). Training (padded
on the right) and decoding (padded on the left) use the same assembly.

Authors
 * The speechbrain_ext authors, 2026
"""

from dataclasses import dataclass
from typing import Optional

import torch
from torch.nn.utils.rnn import pad_sequence

# Label of a position that predicts nothing (torch's own default).
IGNORE = -100


@dataclass
class Sequence:
    """Assembled rows, ready for the decoder.

    Arguments
    ---------
    embeds_BQD : torch.Tensor
        Input embeddings; zeros at padding.
    mask_BQ : torch.Tensor
        1 at real positions, 0 at padding (int64).
    positions_BQ : torch.Tensor
        Place among the row's real positions, from 0.
    prompt_lengths_B : torch.Tensor
        Real positions up to the end of the prompt.
    labels_BQ : torch.Tensor or None
        The id each position has to predict, `IGNORE` where it predicts none.
    padding : str
        Where padding may stand: "none", "right", or "any" (not known).

    Example
    -------
    >>> mask_BQ = torch.ones(1, 2).long()
    >>> rows = Sequence(torch.zeros(1, 2, 3), mask_BQ,
    ...     positions_from_mask(mask_BQ), torch.tensor([2]))
    >>> sorted(rows.as_inputs())
    ['attention_mask', 'inputs_embeds', 'position_ids']
    """

    embeds_BQD: torch.Tensor
    mask_BQ: torch.Tensor
    positions_BQ: torch.Tensor
    prompt_lengths_B: torch.Tensor
    labels_BQ: Optional[torch.Tensor] = None
    padding: str = "any"

    def as_inputs(self):
        """The rows as keyword arguments of a Hugging Face model (dict)."""
        return {
            "inputs_embeds": self.embeds_BQD,
            "attention_mask": self.mask_BQ,
            "position_ids": self.positions_BQ,
        }

    def causal_inputs(self):
        """`as_inputs`, without mask and positions where none are needed.

        No real position of a causal LM sees padding that stands behind it,
        and its positions count from 0 by themselves. Without a mask, torch
        attends with its fastest kernels and copies no grouped heads. What
        comes out at padding differs, and means nothing either way.
        """
        if self.padding == "any":
            return self.as_inputs()
        return {"inputs_embeds": self.embeds_BQD}


def assemble(prompts, speech, embed, targets=None, side="right"):
    """Put speech, prompt and target of each row together.

    The last target token (the end token) is predicted, never read, so it is
    not part of the input: a row is as long as the positions it needs.

    Arguments
    ---------
    prompts : Prompt or list of Prompt
        One for all rows, or one for each (rows of different tasks).
    speech : list of torch.Tensor
        A row's projected speech each, shape ``[S, D]``, without padding.
    embed : callable
        Ids of shape ``[*]`` to embeddings of shape ``[*, D]``.
    targets : list of torch.Tensor or None
        A row's target ids each, shape ``[T]``; None to decode.
    side : str
        Where padding goes: "right" (training) or "left" (decoding).

    Returns
    -------
    Sequence

    Example
    -------
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> speech = [torch.zeros(2, 32), torch.zeros(3, 32)]
    >>> rows = assemble(model.prompt, speech, model.decoder.embed)
    >>> rows.mask_BQ.sum(1)
    tensor([7, 8])
    """
    if not isinstance(prompts, (list, tuple)):
        prompts = [prompts] * len(speech)
    device = speech[0].device
    rows, labels, prompt_lengths = [], [], []
    embedded = {}
    for index, (prompt, spoken) in enumerate(zip(prompts, speech)):
        if id(prompt) not in embedded:
            embedded[id(prompt)] = (
                embed(prompt.before.to(device)),
                embed(prompt.after.to(device)),
            )
        before, after = embedded[id(prompt)]
        row = [before, spoken.to(before.dtype), after]
        length = len(before) + len(spoken) + len(after)
        prompt_lengths.append(length)
        if targets is not None:
            target = targets[index].to(device)
            row.append(embed(target[:-1]))
            # Text alone, without a first token, has nothing before it that
            # could predict its beginning.
            nothing = target.new_full((max(length - 1, 0),), IGNORE)
            said = target if length else target[1:]
            labels.append(torch.cat([nothing, said]))
        rows.append(torch.cat(row))
    sizes = [len(row) for row in rows]
    lengths = torch.tensor(sizes, device=device)
    padding = "any" if side == "left" else "right"
    mask_BQ = _mask(lengths, side)
    return Sequence(
        embeds_BQD=pad_sequence(rows, batch_first=True, padding_side=side),
        mask_BQ=mask_BQ,
        positions_BQ=positions_from_mask(mask_BQ),
        prompt_lengths_B=torch.tensor(prompt_lengths, device=device),
        labels_BQ=pad_sequence(
            labels, batch_first=True, padding_value=IGNORE, padding_side=side
        )
        if targets is not None
        else None,
        padding="none" if min(sizes) == max(sizes) else padding,
    )


def positions_from_mask(mask_BQ):
    """Positions that count real tokens from 0, whatever the padding's side.

    Arguments
    ---------
    mask_BQ : torch.Tensor
        1 at real positions, 0 at padding.

    Returns
    -------
    torch.Tensor
        Same shape, int64; 0 at padding before a row's start.

    Example
    -------
    >>> positions_from_mask(torch.tensor([[0, 1, 1]]))
    tensor([[0, 0, 1]])
    """
    return (mask_BQ.long().cumsum(dim=1) - 1).clamp(min=0)


def _mask(lengths_B, side):
    """1 at the real positions of rows of the given lengths."""
    width = int(lengths_B.max())
    places = torch.arange(width, device=lengths_B.device)
    if side == "left":
        places = width - 1 - places
    return (places[None, :] < lengths_B[:, None]).long()
