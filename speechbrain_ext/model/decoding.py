"""Greedy decoding with a key-value cache, a batch at a time.

Each row stops at its own end token or its own limit; rows that ended leave
the batch, and the batch ends with its last row.

In float32 a row's text is the same in any batch. In half precision the states
themselves come out a rounding apart in batches of different size, and where
two tokens are that near, now one and now the other is said: in bfloat16 3 or
4 of 64 rows differ. Logits in float32 from those states do not settle it (on
the mini decoders, 2 rows of 768 differ without them and 1 with them).
"""

import torch
from transformers import DynamicCache

from speechbrain_ext.later import later
from speechbrain_ext.layers.lm_calls import last_states, logits_of

# ----------------------------------------------------------------------------
# The best entry of each row of a wide tensor, in one pass over it.

# A vocabulary is looked through in stretches of this size.
STRETCH = 128
# In the place of a token, where the scores of a row are no numbers.
NO_NUMBER = -1


def first_best(logits_BV):
    """The best id of each row; among equals, the smallest.

    Equal logits come out a rounding apart in batches of different size, so
    that plain ``argmax`` would take one of them here and another there:
    whatever is within a few roundings of float32 of the best counts as equal.
    Half precision is coarser than that; see `speechbrain_ext.model.decoding`.

    Only the best of each stretch of the vocabulary is computed over the whole
    width; the search for the smallest id looks at those and at one stretch.

    Arguments
    ---------
    logits_BV : torch.Tensor
        Scores.

    Returns
    -------
    torch.Tensor
        Shape ``[B]``, int64; `NO_NUMBER` where the best is none.
    """
    logits_BV = logits_BV.float()
    missing = -logits_BV.shape[-1] % STRETCH
    if missing:
        logits_BV = torch.nn.functional.pad(
            logits_BV, (0, missing), value=-torch.inf
        )
    # P stretches of W entries each.
    logits_BPW = logits_BV.unflatten(-1, (-1, STRETCH))
    best_BP = logits_BPW.amax(dim=-1)
    best_B = best_BP.amax(dim=-1, keepdim=True)
    least_B = best_B - 4 * torch.finfo(torch.float32).eps * best_B.abs()
    # argmax of 0 and 1: the first 1.
    stretch_B = (best_BP >= least_B).int().argmax(dim=-1)
    index_B1W = stretch_B[:, None, None].expand(-1, 1, STRETCH)
    inside_BW = logits_BPW.gather(1, index_B1W)[:, 0]
    place_B = (inside_BW >= least_B).int().argmax(dim=-1)
    token_B = stretch_B * STRETCH + place_B
    # A NaN is what amax gives wherever there is one.
    return token_B.where(best_B[:, 0].isfinite(), NO_NUMBER)


# How often decoding asks a GPU whether every row has ended: asking waits for
# the card, and a few tokens too many cost less.
CHECK_EVERY = {"cpu": 1}
CHECK_ELSEWHERE = 8

# Rows that ended leave the batch once they are this share of it.
COMPACT_FROM = 0.25


@torch.no_grad()
def greedy(lm, sequence, limits_B, stop_ids, on_rows=None, static=None):
    """The most likely next token, again and again, for each row.

    Arguments
    ---------
    lm : transformers.PreTrainedModel
        A causal LM of the Llama or Qwen2 kind.
    sequence : speechbrain_ext.model.prompt.Sequence
        Rows up to the end of the prompt, padded on the left.
    limits_B : torch.Tensor
        Most tokens each row may say (int64).
    stop_ids : list of int
        Tokens that end an answer.
    on_rows : callable or None
        Told, whenever rows leave the batch, which are left (list of int), in
        the batch's order.
    static : speechbrain_ext.model.static_decoding.StaticDecoding or None
        Decode in buffers of a fixed size, on a GPU by replaying one recorded
        graph; rows that ended then stay in the batch.

    Returns
    -------
    list of list of int
        A row's tokens, the end token (if it came) left out. The last is
        `NO_NUMBER` where the row's scores were none from there on.
    """
    limits_B = limits_B.to(sequence.embeds_BQD.device)
    longest = int(limits_B.max()) if len(limits_B) else 0
    said_BT = limits_B.new_zeros((len(limits_B), longest))
    steps = greedy_steps(lm, sequence, limits_B, stop_ids, on_rows, static)
    for step, (rows, token_B) in enumerate(steps):
        said_BT[rows, step] = token_B
    return _cut(said_BT, limits_B, stop_ids)


@torch.no_grad()
def greedy_steps(lm, sequence, limits_B, stop_ids, on_rows=None, static=None):
    """`greedy`, a step at a time: rows still there, and the token of each."""
    device = sequence.embeds_BQD.device
    stops = torch.tensor(stop_ids, device=device)
    limits_B = limits_B.to(device)
    longest = int(limits_B.max()) if len(limits_B) else 0
    rows = torch.arange(len(limits_B), device=device)
    ended = limits_B <= 0
    every = CHECK_EVERY.get(device.type, CHECK_ELSEWHERE)
    if static is None or longest == 0:
        steps = Steps(lm, sequence)
    else:
        steps = static.begin(lm, sequence, longest)
    for step in range(longest):
        token_B = steps.next_token()
        yield rows, token_B
        ended = ended | torch.isin(token_B, stops) | (token_B == NO_NUMBER)
        ended = ended | (limits_B[rows] <= step + 1)
        if (step + 1) % every == 0:
            share = ended.float().mean().item()
            if share == 1.0:
                break
            if share >= COMPACT_FROM and steps.may_shrink:
                stay = (~ended).nonzero()[:, 0]
                steps.keep_rows(stay)
                rows, token_B, ended = rows[stay], token_B[stay], ended[stay]
                if on_rows is not None:
                    on_rows(rows.tolist())
        steps.feed(token_B)


# Faster ones for a few rows are of a later slice.
_few = later("model.few_rows")
head = _few.head if _few else lambda lm_head, h_BD: lm_head(h_BD)


class Steps:
    """A decoder's state between two tokens: cache, mask and positions."""

    may_shrink = True

    def __init__(self, lm, sequence):
        self.lm = lm
        self.cache = DynamicCache(config=lm.config)
        # Rows of one length need no mask, now or later.
        unpadded = sequence.padding == "none"
        self.mask_BQ = None if unpadded else sequence.mask_BQ
        self.positions = sequence.positions_BQ
        self.inputs = {"inputs_embeds": sequence.embeds_BQD}

    def next_token(self):
        """The next token of each row, shape ``[B]``."""
        h_BQD = last_states(
            self.lm,
            self.cache,
            **self.inputs,
            attention_mask=self.mask_BQ,
            position_ids=self.positions,
        )
        self.positions = self.positions[:, -1:] + 1
        return first_best(logits_of(self.lm, h_BQD[:, -1], head))

    def keep_rows(self, stay):
        """Go on with some rows only (indices into the present batch)."""
        self.cache.batch_select_indices(stay)
        if self.mask_BQ is not None:
            self.mask_BQ = self.mask_BQ[stay]
        self.positions = self.positions[stay]

    def feed(self, token_B):
        """Read one more token in each row."""
        if self.mask_BQ is not None:
            more = self.mask_BQ.new_ones(len(token_B), 1)
            self.mask_BQ = torch.cat([self.mask_BQ, more], dim=1)
        self.inputs = {"input_ids": token_B[:, None].clamp(min=0)}


def _cut(said_BT, limits_B, stop_ids):
    """Each row's tokens up to its first stop token or its limit."""
    stops = {*stop_ids, NO_NUMBER}
    texts = []
    for row, limit in zip(said_BT.tolist(), limits_B.tolist()):
        row = row[:limit]
        ends = (place for place, token in enumerate(row) if token in stops)
        end = next(ends, len(row))
        # What is no number is kept, for whoever has to tell of it.
        texts.append(row[: end + (row[end : end + 1] == [NO_NUMBER])])
    return texts
