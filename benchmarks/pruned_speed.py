"""A pruned decoder beside the ideal: the time of what is kept.

The ideal runs the kept layers by hand, one after the other, between the
embeddings and the head, with everything prepared beforehand that does not
belong to them (masks, rotary angles, loop).
"""

from benchmarks.common import paired, row_of, script

import torch  # isort: skip
from transformers import DynamicCache

from benchmarks.models import prompts, random_lm
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers
from speechbrain_ext.model.decoding import greedy

SIZES = {
    "full": dict(
        layers=28,
        width=256,
        vocabulary=151_936,
        block=Block(14, 11),
        prefix=160,
        tokens=40,
        repeats=11,
    ),
    "tiny": dict(
        layers=5,
        width=32,
        vocabulary=300,
        block=Block(2, 2),
        prefix=9,
        tokens=6,
        repeats=1,
    ),
}


def ideal(whole, block, sequence, tokens):
    """The kept layers of the whole model by hand."""
    model = whole.model
    kept = [
        layer
        for index, layer in enumerate(model.layers)
        if index not in block.removed
    ]
    width = sequence.embeds_BQD.shape[1]
    angles = []
    for places in [torch.arange(width)] + [
        torch.tensor([width + step]) for step in range(tokens)
    ]:
        angles.append(model.rotary_emb(sequence.embeds_BQD, places[None]))

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
    """Pruned and ideal: prefill alone, and the whole answer."""
    whole = random_lm(sizes["layers"], sizes["width"], sizes["vocabulary"])
    pruned = drop_layers(whole, sizes["block"])
    sequence = prompts(whole, [sizes["prefix"]])

    def answer(lm, tokens):
        return greedy(lm, sequence, torch.tensor([tokens]), [-1])

    prefill, whole_way = ideal(whole, sizes["block"], sequence, sizes["tokens"])
    return {
        "prefill": (lambda: answer(pruned, 1), prefill),
        "prefill and decode": (
            lambda: answer(pruned, sizes["tokens"]),
            whole_way,
        ),
        "whole": lambda: answer(whole, sizes["tokens"]),
    }


def check(sizes):
    """The same tokens by hand."""
    ours, peer = two_ways(sizes)["prefill and decode"]
    assert ours() == peer(), "not the same tokens"


def rows(sizes, tier):
    """Prefill, the whole answer, and what the whole decoder takes."""
    ways = two_ways(sizes)
    block = sizes["block"]
    told = dict(
        sizes=f"{sizes['layers'] - block.size} of {sizes['layers']} layers "
        f"kept, {sizes['width']} wide, vocabulary {sizes['vocabulary']:,}, "
        f"batch 1, prefix {sizes['prefix']}, {sizes['tokens']} tokens"
    )
    for name in ("prefill", "prefill and decode"):
        yield row_of(
            f"pruned decoder, {name}; peer: its layers, embeddings and head "
            "run by hand",
            *paired(*ways[name], sizes["repeats"]),
            "at most 1.03",
            **told,
        )
    yield row_of(
        "pruned decoder, prefill and decode; peer: the whole decoder",
        *paired(ways["prefill and decode"][0], ways["whole"], sizes["repeats"]),
        "",
        **told,
    )


if __name__ == "__main__":
    script("pruned_speed", SIZES, check, rows)
