"""The whole redundancy table beside the bare forward pass, and other ways.

- bare: the decoder without its LM head, nothing recorded;
- a run for each block size, hidden states of all positions handed out and
  full logits, two of the states compared: PruneMe's way;
- one such run with every state copied out: short-transformers' way.

The last two read what stands behind the last layer after the final norm, so
blocks that end there are left out of the comparison of results.
"""

from benchmarks.common import paired, peak_of, peaks, row_of, script

import numpy as np  # isort: skip
import torch

from benchmarks.models import random_lm
from speechbrain_ext.layers.distances import measure

SIZES = {
    "full": dict(
        layers=28,
        width=256,
        vocabulary=151_936,
        rows=4,
        length=160,
        batches=1,
        repeats=21,
        peer_repeats=2,
    ),
    "tiny": dict(
        layers=4,
        width=32,
        vocabulary=300,
        rows=2,
        length=12,
        batches=2,
        repeats=1,
        peer_repeats=1,
    ),
}
STATED = "{layers} layers, {width} wide, vocabulary {vocabulary:,}, "
STATED += "{batches} batch(es) of {rows} x {length} tokens"


def model_of(sizes):
    """The random decoder of some sizes."""
    return random_lm(sizes["layers"], sizes["width"], sizes["vocabulary"])


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


def angle(one_BD, other_BD):
    """Angular distances of rows, in double precision."""
    cosine = torch.cosine_similarity(one_BD.double(), other_BD.double(), dim=1)
    return torch.arccos(cosine.clamp(-1, 1)) / torch.pi


@torch.no_grad()
def run_of_size(lm, batches, size):
    """Distances of the blocks of a size, by start: PruneMe's script."""
    found = []
    for batch in batches:
        states = lm(**batch, output_hidden_states=True).hidden_states
        last = batch["attention_mask"].sum(1) - 1
        rows = torch.arange(len(last))
        found.append(
            [
                angle(states[i][rows, last], states[i + size][rows, last])
                for i in range(len(states) - size)
            ]
        )
    return [torch.cat(angles).mean().item() for angles in zip(*found)]


def run_per_size(lm, batches):
    """Distances [n - 1, start], with a pass over the data for each size n."""
    layers = lm.config.num_hidden_layers
    sums = np.full((layers, layers), np.nan)
    for size in range(1, layers):
        sums[size - 1, : layers - size + 1] = run_of_size(lm, batches, size)
    return sums


@torch.no_grad()
def states_copied_out(lm, batches):
    """The same from one pass, all states of all positions kept first."""
    layers = lm.config.num_hidden_layers
    kept = []
    for batch in batches:
        states = lm(**batch, output_hidden_states=True).hidden_states
        kept.append([state.clone() for state in states])
    table = np.full((layers, layers), np.nan)
    for size in range(1, layers + 1):
        for start in range(layers - size + 1):
            angles = []
            for batch, states in zip(batches, kept):
                last = batch["attention_mask"].sum(1) - 1
                rows = torch.arange(len(last))
                pair = states[start], states[start + size]
                angles.append(angle(*(s[rows, last] for s in pair)))
            table[size - 1, start] = torch.cat(angles).mean()
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
    lm, batches = model_of(small), batches_of(small)
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
        return model_of(sizes), batches_of(sizes)

    return peak_of(prepare, lambda made: WAYS[side](*made))


def rows(sizes, tier):
    """Time and memory against the bare pass, then the other ways."""
    lm, batches = model_of(sizes), batches_of(sizes)
    told = dict(sizes=STATED.format(**sizes))

    def against(way, repeats):
        return paired(
            lambda: measure(lm, batches),
            lambda: WAYS[way](lm, batches),
            repeats,
            warm_up=way != "runs",
        )

    def memory(way, repeats=1):
        sides = ("ours", way)
        return peaks("redundancy_table", sides, tier, repeats)

    name = "redundancy table, all starts and sizes"
    yield row_of(
        f"{name}; peer: the bare forward pass",
        *against("bare", sizes["repeats"]),
        "at most 1.03",
        **told,
    )
    yield row_of(
        f"{name}, peak memory; peer: the bare forward pass",
        *memory("bare", 3 if tier == "full" else 1),
        "at most 1.02",
        unit="MB",
        **told,
    )
    yield row_of(
        f"{name}; peer: a run per block size, full logits (PruneMe's way)",
        *against("runs", sizes["peer_repeats"]),
        "at least 20",
        **told,
    )
    yield row_of(
        f"{name}; peer: one run, every state copied out "
        "(short-transformers' way)",
        *against("copied", sizes["peer_repeats"]),
        "at least 1",
        **told,
    )
    yield row_of(
        f"{name}, peak memory; peer: one run, every state copied out",
        *memory("copied"),
        "at most 0.5",
        unit="MB",
        **told,
    )


if __name__ == "__main__":
    script("redundancy_table", SIZES, check, rows)
