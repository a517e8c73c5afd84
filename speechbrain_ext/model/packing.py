"""A batch as one row without padding: attention over rows of any length.

Positions that begin anew tell transformers where a row begins: flash attention
then runs its kernels for rows of many lengths, `sdpa` masks other rows. With
`length_pool`, there is next to no padding to save.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from transformers.utils import is_flash_attn_2_available

from speechbrain_ext.layers.lm_calls import CausalLM, base_model, last_states
from speechbrain_ext.model.prompt import Sequence

# Layers that see other positions through a mask alone.
KINDS = {"full_attention", "sliding_attention", "chunked_attention"}
# How far off rows may be, of what they are off where each sees all before it.
MOST_OFF = {torch.float32: 1e-4}
MOST_OFF_LOW = 0.05


class OneRow(Sequence):
    """Rows that stand in one, which positions alone tell apart."""

    def causal_inputs(self) -> dict[str, torch.Tensor]:
        """No mask: it would hide where rows begin."""
        inputs = self.as_inputs()
        del inputs["attention_mask"]
        return inputs


def in_one_row(sequence: Sequence) -> OneRow:
    """The real positions of all rows as one row.

    Arguments
    ---------
    sequence : Sequence
        Rows ``[B, Q]``.

    Returns
    -------
    OneRow
        One row ``[1, N]`` of N real positions, whose labels are in the same
        order; its positions begin anew with each row.

    Example
    -------
    >>> from speechbrain_ext.model.prompt import assemble
    >>> from speechbrain_ext.tiny_models import tiny_speech_llm
    >>> model = tiny_speech_llm()
    >>> speech = [torch.zeros(2, 32), torch.zeros(3, 32)]
    >>> rows = assemble(model.prompt, speech, model.decoder.embed)
    >>> in_one_row(rows).positions_BQ
    tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4, 5, 6, 7]])
    """
    # Once, not by a mask each time: on a GPU each look at one is a wait.
    places_N = sequence.mask_BQ.flatten().nonzero()[:, 0]

    def row(x_BQ):
        """The real ones of all rows in a row."""
        return x_BQ.flatten(0, 1)[places_N][None]

    labels_BQ = sequence.labels_BQ
    return OneRow(
        embeds_BQD=row(sequence.embeds_BQD),
        mask_BQ=row(sequence.mask_BQ),
        positions_BQ=row(sequence.positions_BQ),
        prompt_lengths_B=sequence.prompt_lengths_B,
        labels_BQ=None if labels_BQ is None else row(labels_BQ),
        padding="none",
        names=sequence.names,
    )


def packing_of(lm: CausalLM) -> Callable[[Sequence], Sequence]:
    """`in_one_row`, for a decoder that is made ready for it; see below."""
    weight = base_model(lm).embed_tokens.weight
    # Which has kernels for 16 bit alone.
    fits = weight.device.type == "cuda" and weight.dtype.itemsize == 2
    plain = lm.config._attn_implementation == "sdpa"
    if fits and plain and is_flash_attn_2_available():
        lm.set_attn_implementation("flash_attention_2")
    check_packing(lm)
    return in_one_row


@torch.no_grad()
def check_packing(lm: CausalLM) -> None:
    """Refuse a decoder in which a row behind another sees that one.

    Raises
    ------
    ValueError
        Its layers carry something on from position to position (Mamba's, a
        convolution), or its attention takes no notice of where a row begins.
    """
    model = base_model(lm)
    weight, lengths = model.embed_tokens.weight, (3, 5)
    ids = torch.arange(1, 1 + sum(lengths), device=weight.device)
    x_ND = model.embed_tokens(ids % len(weight))
    alone = [
        last_states(lm, inputs_embeds=x[None])[0] for x in x_ND.split(lengths)
    ]

    def off(**inputs):
        """How far from rows alone they are as one."""
        h_ND = last_states(lm, inputs_embeds=x_ND[None], **inputs)[0]
        return (h_ND - torch.cat(alone)).abs().max()

    places = [torch.arange(n, device=weight.device) for n in lengths]
    seen = off(position_ids=torch.cat(places)[None])
    most = MOST_OFF.get(weight.dtype, MOST_OFF_LOW) * off()
    kinds = set(getattr(lm.config, "layer_types", None) or KINDS)
    if not (seen <= most and kinds <= KINDS):
        raise ValueError(
            f"padding_free: True, but in a {type(lm).__name__} with attention "
            f"{lm.config._attn_implementation} a row sees what stands before "
            "it: set padding_free: False."
        )
