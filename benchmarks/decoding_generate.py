"""Greedy decoding beside transformers' generate, a padded batch.

generate carries a row that has ended to the end of the batch; ours lets it
leave.
"""

from benchmarks.common import script, tiers, timed

import torch  # isort: skip

from benchmarks.models import DECODER, prompts, random_lm
from speechbrain_ext.model.decoding import greedy

SIZES = tiers(
    layers=(12, 2),
    width=(256, 32),
    vocabulary=(151_936, 300),
    prefixes=([150, 143, 131, 120, 117, 104, 98, 90], [9, 7, 4]),
    tokens=(60, 12),
    repeats=(7, 1),
)
NEVER = -1


def two_ways(lm, sizes, stops):
    """Ours and generate, as functions that give the rows' tokens."""
    lengths, tokens = sizes["prefixes"], sizes["tokens"]
    seq = prompts(lm, lengths)
    limits_B = torch.full((len(lengths),), tokens)

    def ours():
        return greedy(lm, seq, limits_B, stops)

    @torch.no_grad()
    def peer():
        return lm.generate(
            inputs_embeds=seq.embeds_BQD,
            attention_mask=seq.mask_BQ,
            max_new_tokens=tokens,
            do_sample=False,
            eos_token_id=stops if stops != [NEVER] else None,
        )

    return ours, peer


def cut(rows_BT, stops):
    """generate's rows up to their first stop token."""
    texts = []
    for row in rows_BT.tolist():
        end = next((i for i, t in enumerate(row) if t in stops), len(row))
        texts.append(row[:end])
    return texts


def staggered_stops(texts):
    """Stop tokens with which the rows end one after another."""
    stops = []
    for row, text in enumerate(texts[:-1]):
        wanted = len(text) * (row + 1) // len(texts)
        for place in range(wanted, len(text)):
            token = text[place]
            early = any(
                token in other[: len(other) * (r + 1) // len(texts)]
                for r, other in enumerate(texts)
            )
            if not early:
                stops.append(token)
                break
    return stops or [NEVER]


def cases(sizes):
    """The model, and name to stop tokens of the two cases."""
    lm = random_lm(sizes)
    lm.generation_config.eos_token_id = None
    free, _ = two_ways(lm, sizes, [NEVER])
    return lm, {
        "all rows to the limit": [NEVER],
        "rows end one after another": staggered_stops(free()),
    }


def check(sizes):
    """Both say the same, in both cases; and the second one is what it says."""
    lm, stops_of = cases(sizes)
    for stops in stops_of.values():
        ours, peer = two_ways(lm, sizes, stops)
        texts = ours()
        assert texts == cut(peer(), stops), "not the same tokens"
    assert len(set(map(len, texts))) >= len(texts) // 2, "no mixed lengths"


def rows(sizes, tier):
    """A row for each case."""
    lm, stops_of = cases(sizes)
    lengths, targets = sizes["prefixes"], ("at least 1", "at least 1.2")
    for (name, stops), target in zip(stops_of.items(), targets):
        yield timed(
            f"greedy decoding, batch {len(lengths)}, {name}; peer: "
            "transformers' generate",
            two_ways(lm, sizes, stops),
            sizes["repeats"],
            target,
            sizes=f"{DECODER.format(**sizes)}, prefixes {min(lengths)} to "
            f"{max(lengths)}, up to {sizes['tokens']} tokens",
        )


if __name__ == "__main__":
    script("decoding_generate", SIZES, check, rows)
