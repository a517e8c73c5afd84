"""The whole redundancy table beside the bare forward pass, and other ways.

- bare: the decoder without its LM head, nothing recorded;
- a run for each block size, hidden states of all positions handed out and
  full logits, two of the states compared: PruneMe's way;
- one such run with every state copied out: short-transformers' way.

The last two read what stands behind the last layer after the final norm, so
blocks that end there are left out of the comparison of results.
"""

from benchmarks.common import (
    calls,
    peak_of,
    peaks,
    row_of,
    script,
    tiers,
    timed,
)

import numpy as np  # isort: skip
import torch

from benchmarks.models import DECODER, random_lm
from speechbrain_ext.layers.distances import measure

SIZES = tiers(
    layers=(28, 4),
    width=(256, 32),
    vocabulary=(151_936, 300),
    rows=(4, 2),
    length=(160, 12),
    batches=(1, 2),
    repeats=(21, 1),
    peer_repeats=(2, 1),
)
STATED = DECODER + ", {batches} batch(es) of {rows} x {length} tokens"


def batches_of(sizes):
    """Batches of token ids, padded on the right."""
    torch.manual_seed(4)
    batches = []
    for _ in range(sizes["batches"]):
        shape = sizes["rows"], sizes["length"]
        mask = torch.ones(shape, dtype=torch.long)
        for row in range(sizes["rows"]):
            mask[row, sizes["length"] - row :] = 0
        ids = torch.randint(sizes["vocabulary"], shape)
        batches.append({"input_ids": ids, "attention_mask": mask})
    return batches


@torch.no_grad()
def bare(lm, batches):
    """The decoder without its head, on the same inputs."""
    for batch in batches:
        positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
        lm.model(**batch, position_ids=positions, use_cache=False)


def at_last(states, batch):
    """States of the last real positions alone, in double precision."""
    last_B = batch["attention_mask"].sum(1) - 1
    return [s[torch.arange(len(last_B)), last_B].double() for s in states]


def distances(states, size):
    """Angular distances of the blocks of a size, by start (list of [B])."""
    angles = []
    for one_BD, other_BD in zip(states, states[size:]):
        cosine_B = torch.cosine_similarity(one_BD, other_BD, dim=1)
        angles.append(torch.arccos(cosine_B.clamp(-1, 1)) / torch.pi)
    return angles


def means(states_of_batches, size):
    """Mean distances of the blocks of a size, by start (list of float)."""
    found = [distances(states, size) for states in states_of_batches]
    return [torch.cat(angles).mean().item() for angles in zip(*found)]


def all_states(lm, batch):
    """States behind each layer, of all positions, with full logits made too."""
    return lm(**batch, output_hidden_states=True).hidden_states


@torch.no_grad()
def run_of_size(lm, batches, size):
    """Distances of the blocks of a size, by start: PruneMe's script."""
    return means((at_last(all_states(lm, b), b) for b in batches), size)


def run_per_size(lm, batches):
    """Distances [n - 1, start], with a pass over the data for each size n."""
    layers = lm.config.num_hidden_layers
    table = np.full((layers, layers), np.nan)
    for size in range(1, layers):
        table[size - 1, : layers - size + 1] = run_of_size(lm, batches, size)
    return table


@torch.no_grad()
def states_copied_out(lm, batches):
    """The same from one pass, all states of all positions kept first."""
    layers = lm.config.num_hidden_layers
    kept = [[s.clone() for s in all_states(lm, batch)] for batch in batches]
    last = [at_last(*pair) for pair in zip(kept, batches)]
    table = np.full((layers, layers), np.nan)
    for size in range(1, layers + 1):
        table[size - 1, : layers - size + 1] = means(last, size)
    return table


WAYS = {
    "ours": measure,
    "bare": bare,
    "copied": states_copied_out,
    "runs": run_per_size,
}


def check(sizes):
    """All three tables agree where they measure the same streams."""
    small = {**sizes, "layers": min(sizes["layers"], 6), "batches": 2}
    lm, batches = random_lm(small), batches_of(small)
    layers = small["layers"]
    ours = measure(lm, batches).distances
    for way in (run_per_size, states_copied_out):
        theirs = way(lm, batches)
        for size in range(1, layers):
            starts = slice(0, layers - size)
            np.testing.assert_allclose(
                ours[size - 1, starts], theirs[size - 1, starts], atol=1e-5
            )


def peak(side, sizes):
    """Peak memory of one way in MB."""

    def prepare():
        return random_lm(sizes), batches_of(sizes)

    return peak_of(prepare, lambda made: WAYS[side](*made))


def rows(sizes, tier):
    """Time and memory against the bare pass, then the other ways."""
    given = random_lm(sizes), batches_of(sizes)
    told = dict(sizes=STATED.format(**sizes))
    ours, *ways = calls(WAYS, given)
    bare, copied, runs = ([ours, way] for way in ways)

    def memory(name, target, *sides_and_repeats):
        both = peaks("redundancy_table", tier, *sides_and_repeats)
        return row_of(name, *both, target, unit="MB", **told)

    name = "redundancy table, all starts and sizes"
    peer_repeats = sizes["peer_repeats"]
    yield timed(
        f"{name}; peer: the bare forward pass",
        bare,
        sizes["repeats"],
        "at most 1.03",
        **told,
    )
    yield memory(
        f"{name}, peak memory; peer: the bare forward pass",
        "at most 1.02",
        ("ours", "bare"),
        3 if tier == "full" else 1,
    )
    yield timed(
        f"{name}; peer: a run per block size, full logits (PruneMe's way)",
        runs,
        peer_repeats,
        "at least 20",
        warm_up=False,
        **told,
    )
    yield timed(
        f"{name}; peer: one run, every state copied out "
        "(short-transformers' way)",
        copied,
        peer_repeats,
        "at least 1",
        **told,
    )
    yield memory(
        f"{name}, peak memory; peer: one run, every state copied out",
        "at most 0.5",
        ("ours", "copied"),
    )


if __name__ == "__main__":
    script("redundancy_table", SIZES, check, rows)
