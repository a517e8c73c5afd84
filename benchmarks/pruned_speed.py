"""A pruned decoder beside the ideal: the time of what is kept.

The ideal runs the kept layers by hand, one after the other, between the
embeddings and the head, with everything prepared beforehand that does not
belong to them (masks, rotary angles, loop).
"""

from benchmarks.common import script, tiers, timed

import torch  # isort: skip
from transformers import DynamicCache

from benchmarks.models import prompts, random_lm
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoding import greedy

SIZES = tiers(
    layers=(28, 5),
    width=(256, 32),
    vocabulary=(151_936, 300),
    block=(Block(14, 11), Block(2, 2)),
    prefix=(160, 9),
    tokens=(40, 6),
    repeats=(11, 1),
)


def ideal(whole, block, sequence, tokens):
    """The kept layers of the whole model by hand."""
    model = whole.model
    kept = [*model.layers[: block.start], *model.layers[block.receiving :]]
    width = sequence.embeds_BQD.shape[1]
    steps = [torch.tensor([width + step]) for step in range(tokens)]
    angles = [
        model.rotary_emb(sequence.embeds_BQD, places[None])
        for places in [torch.arange(width), *steps]
    ]

    def run(h_BQD, turn, cache):
        for layer in kept:
            h_BQD = layer(
                h_BQD,
                attention_mask=None,
                position_embeddings=angles[turn],
                past_key_values=cache,
                use_cache=True,
            )
        return whole.lm_head(model.norm(h_BQD[:, -1])).argmax(dim=-1)

    @torch.no_grad()
    def prefill():
        cache = DynamicCache()
        return run(sequence.embeds_BQD, 0, cache), cache

    @torch.no_grad()
    def whole_way():
        token, cache = prefill()
        said = [token]
        for turn in range(1, tokens):
            token = run(model.embed_tokens(token[:, None]), turn, cache)
            said.append(token)
        return torch.stack(said, dim=1).tolist()

    return prefill, whole_way


def two_ways(sizes):
    """Pruned and ideal, prefill alone and the whole answer; and pruned, whole."""
    whole = random_lm(sizes)
    pruned = drop_layers(whole, sizes["block"])
    sequence = prompts(whole, [sizes["prefix"]])

    def answer(lm, tokens=sizes["tokens"]):
        return lambda: greedy(lm, sequence, torch.tensor([tokens]), [-1])

    prefill, whole_way = ideal(whole, sizes["block"], sequence, sizes["tokens"])
    return {
        "prefill": (answer(pruned, 1), prefill),
        "prefill and decode": (answer(pruned), whole_way),
        "whole": (answer(pruned), answer(whole)),
    }


def check(sizes):
    """The same tokens by hand."""
    ours, peer = two_ways(sizes)["prefill and decode"]
    assert ours() == peer(), "not the same tokens"


def rows(sizes, tier):
    """Prefill, the whole answer, and what the whole decoder takes."""
    by_hand = "its layers, embeddings and head run by hand"
    ways = two_ways(sizes)
    for way, name, peer, target in (
        ("prefill", "prefill", by_hand, "at most 1.03"),
        ("prefill and decode", "prefill and decode", by_hand, "at most 1.03"),
        ("whole", "prefill and decode", "the whole decoder", ""),
    ):
        yield timed(
            f"pruned decoder, {name}; peer: {peer}",
            ways[way],
            sizes["repeats"],
            target,
            sizes=f"{sizes['layers'] - sizes['block'].size} of "
            f"{sizes['layers']} layers kept, {sizes['width']} wide, vocabulary "
            f"{sizes['vocabulary']:,}, batch 1, prefix {sizes['prefix']}, "
            f"{sizes['tokens']} tokens",
        )


if __name__ == "__main__":
    script("pruned_speed", SIZES, check, rows)
