"""An answer as it is said, token by token."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from speechbrain_ext.layers.residual import no_numbers
from speechbrain_ext.model.decoder import Decoder
from speechbrain_ext.model.decoding import NO_NUMBER, greedy_steps
from speechbrain_ext.model.prompt import Prompt, assemble


@torch.no_grad()
def answer_ids(
    decoder: Decoder,
    prompt: Prompt,
    spoken_SD: torch.Tensor,
    limit: int,
    name: str = "an utterance",
) -> Iterator[int]:
    """The ids of one row's `answer`, each as soon as it is decoded."""
    sequence = assemble(prompt, [spoken_SD], decoder.embed, side="left")
    stops = set(decoder.stop_ids)
    limits_B = torch.tensor([limit])
    for _, token_B in greedy_steps(decoder.lm, sequence, limits_B, [*stops]):
        token = int(token_B)
        if token in stops:
            return
        if token == NO_NUMBER:
            raise ValueError(no_numbers([name], "what is computed of it"))
        yield token
