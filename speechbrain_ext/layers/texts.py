"""Texts as batches of token ids, for `distances.measure`."""

from __future__ import annotations

import itertools

import torch
from torch.nn.utils.rnn import pad_sequence

# Texts that are measured together.
TOGETHER = 8


def tokenized(batches, tokenizer):
    """Batches as they are, texts as batches of token ids."""
    if isinstance(tokenizer, str):
        raise TypeError(
            f"tokenizer: {tokenizer!r} is a text: give the model's tokenizer, "
            "and the position by its name, position=..."
        )
    if isinstance(batches, str):
        raise TypeError("batches: a single text: give a list of texts")
    batches = iter(batches)
    first = list(itertools.islice(batches, 1))
    if not first or not isinstance(first[0], str):
        return itertools.chain(first, batches)
    if tokenizer is None:
        raise TypeError(
            "batches: texts need the model's tokenizer: "
            "measure(model, texts, AutoTokenizer.from_pretrained(source))"
        )
    return _text_batches(itertools.chain(first, batches), tokenizer)


def _text_batches(texts, tokenizer):
    """Padded batches of token ids; a text without a token is left out."""
    rows = (torch.tensor(tokenizer(text)["input_ids"]) for text in texts)
    rows = (row for row in rows if len(row))
    while part := list(itertools.islice(rows, TOGETHER)):
        masks = [torch.ones_like(row) for row in part]
        yield {
            "input_ids": pad_sequence(part, batch_first=True),
            "attention_mask": pad_sequence(masks, batch_first=True),
        }
