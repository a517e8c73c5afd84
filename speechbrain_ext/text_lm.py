"""Measure a causal LM with nothing but a text file.

The paper's cheap text-only pass, for any causal LM of the Llama or Qwen2
kind: no speech model is needed. A line of the file is a sequence; a line over
the context is cut.

Authors
 * The speechbrain_ext authors, 2026
"""

import math
import os

import torch
from torch.nn.utils.rnn import pad_sequence
from tqdm import tqdm

from speechbrain_ext.decoder import DTYPES, Decoder, decoder_config
from speechbrain_ext.finite import refuse_overflow
from speechbrain_ext.lm_calls import last_states, logits_of
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.redundancy import measure

# Positions whose logits are held at once.
POSITIONS = 256


def load_text_model(source, dtype=None, device="cpu", revision=None):
    """A causal LM with its tokenizer, of any origin.

    Arguments
    ---------
    source : str
        Hub id or folder.
    dtype : str or None
        "float32", "bfloat16", "float16"; None: as it is stored.
    device : str
        Where to.
    revision : str or None
        Branch, tag or commit on the hub.

    Returns
    -------
    speechbrain_ext.decoder.Decoder

    Raises
    ------
    OSError, ValueError, TypeError
        If it cannot be loaded, or is of another kind.
    """
    with quiet_loading():
        if dtype is None:
            stored = getattr(decoder_config(source, revision), "dtype", None)
            stored = str(stored).removeprefix("torch.")
            dtype = stored if stored in DTYPES else "float32"
        decoder = Decoder.from_source(
            source, dtype=dtype, device=device, revision=revision
        )
    return decoder


def read_rows(path, tokenizer, context=512):
    """The rows of a text file, as token ids.

    Arguments
    ---------
    path : str
        UTF-8 text.
    tokenizer : transformers.PreTrainedTokenizerBase
        The model's; begins each line as it begins texts.
    context : int
        Most tokens of a row.

    Returns
    -------
    list of torch.Tensor
        ``[T]`` each, at least 2 tokens.

    Raises
    ------
    ValueError, OSError
        If the file cannot be read or has no text.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"{path}: no such text file")
    try:
        # Rows end at line feeds alone.
        with open(path, encoding="utf-8-sig", newline="\n") as stream:
            lines = [line.strip() for line in stream if line.strip()]
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: is not UTF-8 text ({error.reason} at byte "
            f"{error.start}): convert it (iconv -t utf-8)"
        ) from error
    rows = []
    for line in lines:
        ids = torch.tensor(tokenizer(line, verbose=False)["input_ids"])
        rows += [row for row in ids.split(context) if len(row) > 1]
    if not rows:
        raise ValueError(
            f"{path}: has no line of two tokens or more: give a text file "
            "with a sentence or a paragraph on each line"
        )
    return rows


def split_rows(rows, every=5):
    """Rows to measure on, and every fifth to judge by.

    Arguments
    ---------
    rows : list
        All.
    every : int
        Every how many-th is held out.

    Returns
    -------
    measured, held_out : list

    Raises
    ------
    ValueError
        If there are fewer than two rows.

    Example
    -------
    >>> split_rows([1, 2, 3, 4, 5, 6])
    ([1, 2, 3, 4, 6], [5])
    """
    if len(rows) < 2:
        raise ValueError(
            "text: has one row only, and nothing to judge by: give a file "
            "with more lines"
        )
    every = min(every, len(rows))
    held_out = rows[every - 1 :: every]
    measured = [row for i, row in enumerate(rows) if (i + 1) % every]
    return measured, held_out


def batches_of(rows, batch_size, name="", progress=False):
    """Rows as padded batches, longest first.

    Arguments
    ---------
    rows : list of torch.Tensor
        Token ids.
    batch_size : int
        Rows of a batch.
    name : str
        Shown at the bar.
    progress : bool
        Show one.

    Yields
    ------
    dict
        input_ids and attention_mask, ``[B, Q]``.
    """
    rows = sorted(rows, key=len, reverse=True)
    starts = range(0, len(rows), batch_size)
    for first in tqdm(starts, name, disable=not progress, leave=False):
        part = rows[first : first + batch_size]
        mask = [torch.ones(len(row), dtype=torch.long) for row in part]
        yield {
            "input_ids": pad_sequence(part, batch_first=True),
            "attention_mask": pad_sequence(mask, batch_first=True),
        }


@torch.no_grad()
def perplexity(lm, rows, batch_size=8, progress=False):
    """Perplexity of a causal LM on rows of text.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        The causal LM.
    rows : list of torch.Tensor
        Token ids; the first of each is read and not predicted.
    batch_size : int
        Rows of a batch. Changes the result by rounding only.
    progress : bool
        Show a bar.

    Returns
    -------
    float
        exp of the mean negative log-likelihood of a token.

    Raises
    ------
    ValueError
        If the loss is no number.
    """
    lm.eval()
    device = lm.lm_head.weight.device
    loss, count = 0.0, 0
    for batch in batches_of(rows, batch_size, "Perplexity", progress):
        ids_BQ, mask_BQ = (value.to(device) for value in batch.values())
        h_BQD = last_states(lm, input_ids=ids_BQ, attention_mask=mask_BQ)
        wanted = mask_BQ[:, 1:].bool()
        h_ND, labels_N = h_BQD[:, :-1][wanted], ids_BQ[:, 1:][wanted]
        for h, labels in zip(h_ND.split(POSITIONS), labels_N.split(POSITIONS)):
            loss += torch.nn.functional.cross_entropy(
                logits_of(lm, h).float(), labels, reduction="sum"
            ).item()
        count += len(labels_N)
    refuse_overflow([loss], "loss on the text")
    # A mean loss over 700 has no float for its exp; it is no language either.
    return math.exp(min(loss / count, 700.0))


def measure_rows(decoder, rows, batch_size=8, progress=False):
    """Redundancy table of a causal LM on rows of text.

    Arguments
    ---------
    decoder : speechbrain_ext.decoder.Decoder
        The causal LM.
    rows : list of torch.Tensor
        Token ids.
    batch_size : int
        Rows of a batch.
    progress : bool
        Show a bar.

    Returns
    -------
    speechbrain_ext.distance_table.RedundancyTable
    """
    return measure(
        decoder,
        batches_of(rows, batch_size, "Measuring", progress),
        provenance={
            "model": os.path.basename(os.path.normpath(decoder.source)),
            "input": "text",
            "prompted": False,
        },
    )
