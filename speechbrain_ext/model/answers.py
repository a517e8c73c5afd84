"""Projected speech to text: what a decoder says to it, greedily."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.decoding import NO_NUMBER
from speechbrain_ext.model.prompt import Prompt, assemble


class Answer(NamedTuple):
    """What is said to one utterance, and whether it ran into its limit.

    Not finite where it breaks off since its scores are no numbers.
    """

    text: str
    ids: list[int]
    hit_limit: bool
    finite: bool = True


@torch.no_grad()
def answer(
    decoder: Decoder,
    prompts: Prompt | list[Prompt],
    speech: list[torch.Tensor],
    limits_B: torch.Tensor,
    on_rows: Callable[[list[int]], None] | None = None,
) -> list[Answer]:
    """Projected speech to text, greedily: the one way to an answer.

    Arguments
    ---------
    decoder : Decoder
        The LLM.
    prompts : Prompt or list of Prompt
        One for all rows, or one for each.
    speech : list of torch.Tensor
        Projected speech of each row, shape ``[S, D]``.
    limits_B : torch.Tensor
        Most tokens each answer may have (see `answer_limits`).
    on_rows : callable or None
        Told which rows are left, whenever some leave the batch.

    Returns
    -------
    list of Answer
        Ids without the end token.
    """
    sequence = assemble(prompts, speech, decoder.embed, side="left")
    said = decoder.greedy(sequence, limits_B, on_rows)
    return answers_of(prompts, said, limits_B)


def answers_of(prompts, said, limits_B) -> list[Answer]:
    """What `Decoder.greedy` gives, in words."""
    if not isinstance(prompts, (list, tuple)):
        prompts = [prompts] * len(said)
    answers = []
    for prompt, ids, limit in zip(prompts, said, limits_B.tolist()):
        finite = ids[-1:] != [NO_NUMBER]
        ids = ids if finite else ids[:-1]
        # An end token is left out: an answer that had one is shorter.
        hit_limit = len(ids) >= limit
        answers.append(Answer(prompt.decode(ids), ids, hit_limit, finite))
    return answers


def answer_limits(
    seconds: Sequence[float], tokens_per_second: float, most: int
) -> torch.Tensor:
    """Most tokens (int64, ``[B]``) that answers to so much speech may have.

    At least 8, since a second of speech may be one word of many tokens.
    """
    limits_B = torch.as_tensor(seconds, dtype=torch.float64)
    limits_B = (limits_B * tokens_per_second).ceil().long()
    return limits_B.clamp(min=8).clamp(max=most)
