"""Greedy decoding beside SpeechBrain's S2SHuggingFaceLLMGreedySearcher.

The searcher keeps no key-value cache: each token runs the whole sequence
again, with logits at all its positions.
"""

from benchmarks.common import script, tiers, timed

import torch  # isort: skip
from speechbrain.decoders.seq2seq import S2SHuggingFaceLLMGreedySearcher

from benchmarks.models import DECODER, prompts, random_lm
from speechbrain_ext.model.decoding import greedy

# cases: layers, width, rows, tokens, target, pairs. The batch of 8 is narrow so
# that the peer ends within minutes.
SIZES = tiers(
    vocabulary=(151_936, 300),
    prefix=(150, 12),
    cases=(
        [
            (6, 384, 1, 40, "at least 8", 2),
            (6, 384, 1, 100, "at least 15", 2),
            (8, 128, 1, 100, "at least 15", 2),
            (8, 128, 8, 40, "at least 8", 2),
            (8, 128, 8, 100, "at least 15", 1),
        ],
        [(2, 32, 1, 4, "", 1), (2, 32, 3, 9, "", 1)],
    ),
)
NOTE = (
    "The peer computes some 200 positions for a token and is bound by "
    "arithmetic; ours reads the weights once and is bound by memory. At batch "
    "1 the ratio is that of the machine's arithmetic to its memory, and grows "
    "with the batch."
)
BEGIN, NEVER = 0, -1


def two_ways(lm, rows, tokens, prefix):
    """Ours and the searcher, as functions that give the rows' tokens."""
    seq = prompts(lm, [prefix] * rows)
    first_B1D = lm.get_input_embeddings()(torch.full((rows, 1), BEGIN))
    with_first = prompts(lm, [prefix + 1] * rows)
    with_first.embeds_BQD = torch.cat([seq.embeds_BQD, first_B1D], dim=1)
    limits_B = torch.full((rows,), tokens)
    searcher = S2SHuggingFaceLLMGreedySearcher(
        llm_model=lm,
        temperature=0,
        bos_index=BEGIN,
        eos_index=NEVER,
        min_decode_ratio=0,
        # A hair more: the product is cut to an integer.
        max_decode_ratio=(tokens + 0.5) / prefix,
    )

    def ours():
        return greedy(lm, with_first, limits_B, [NEVER])

    def peer():
        ones = torch.ones(rows, dtype=torch.float)
        return searcher(seq.embeds_BQD, ones, seq.mask_BQ.bool())[0]

    return ours, peer


def check(sizes):
    """Both say the same tokens."""
    layers, width, rows, tokens, *_ = sizes["cases"][-1]
    lm = random_lm({**sizes, "layers": layers, "width": width})
    ours, peer = two_ways(lm, min(rows, 2), min(tokens, 12), sizes["prefix"])
    said = ours()
    assert said == peer(), "not the same tokens"
    assert len(said[0]) == min(tokens, 12)


def rows(sizes, tier):
    """A row for each batch size and length."""
    for layers, width, batch, tokens, target, repeats in sizes["cases"]:
        own = {**sizes, "layers": layers, "width": width}
        sides = two_ways(random_lm(own), batch, tokens, sizes["prefix"])
        sides[0]()
        yield timed(
            f"greedy decoding, batch {batch}, {tokens} tokens, {width} wide; "
            "peer: S2SHuggingFaceLLMGreedySearcher",
            sides,
            repeats,
            target,
            warm_up=False,
            sizes=f"{DECODER.format(**own)}, prefix {sizes['prefix']}",
            note=NOTE,
        )


if __name__ == "__main__":
    script("decoding_speechbrain", SIZES, check, rows)
