"""Greedy decoding beside SpeechBrain's S2SHuggingFaceLLMGreedySearcher.

The searcher keeps no key-value cache: each token runs the whole sequence
again, with logits at all its positions.

Authors
 * The speechbrain_ext authors, 2026
"""

from benchmarks.common import paired, row_of, script

import torch  # isort: skip
from speechbrain.decoders.seq2seq import S2SHuggingFaceLLMGreedySearcher

from benchmarks.models import prompts, random_lm
from speechbrain_ext.greedy import greedy

# cases: rows, tokens, target, pairs.
SIZES = {
    "full": dict(
        layers=8,
        width=128,
        vocabulary=151_936,
        prefix=150,
        cases=[
            (1, 40, "at least 8", 3),
            (1, 100, "at least 15", 3),
            (8, 40, "at least 8", 2),
            (8, 100, "at least 15", 2),
        ],
    ),
    "tiny": dict(
        layers=2,
        width=32,
        vocabulary=300,
        prefix=12,
        cases=[(1, 4, "", 1), (3, 9, "", 1)],
    ),
}
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
    lm = random_lm(sizes["layers"], sizes["width"], sizes["vocabulary"])
    rows, tokens, *_ = sizes["cases"][-1]
    ours, peer = two_ways(lm, min(rows, 2), min(tokens, 12), sizes["prefix"])
    said = ours()
    assert said == peer(), "not the same tokens"
    assert len(said[0]) == min(tokens, 12)


def rows(sizes, tier):
    """A row for each batch size and length."""
    lm = random_lm(sizes["layers"], sizes["width"], sizes["vocabulary"])
    for batch, tokens, target, repeats in sizes["cases"]:
        ours, peer = two_ways(lm, batch, tokens, sizes["prefix"])
        yield row_of(
            f"greedy decoding, batch {batch}, {tokens} tokens; peer: "
            "S2SHuggingFaceLLMGreedySearcher",
            *paired(ours, peer, repeats, warm_up=batch == 1),
            target,
            sizes=f"{sizes['layers']} layers, {sizes['width']} wide, "
            f"vocabulary {sizes['vocabulary']:,}, prefix {sizes['prefix']}",
        )


if __name__ == "__main__":
    script("decoding_speechbrain", SIZES, check, rows)
