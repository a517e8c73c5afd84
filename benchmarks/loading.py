"""Loading a pruned decoder beside loading the whole one, then dropping.

The file is in bfloat16 and the model in float32, as on a CPU: every layer that
is loaded is converted. (Where both are of one type a CPU maps the file, and
neither side reads what nobody looks at.)
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

import torch  # isort: skip
from transformers import AutoModelForCausalLM

from benchmarks import model_files
from benchmarks.models import config_of
from speechbrain_ext.layers.removal import Block
from speechbrain_ext.layers.surgery import drop_layers, load_pruned

SIZES = tiers(
    layers=(28, 6),
    width=(512, 32),
    vocabulary=(32_000, 300),
    block=(Block(10, 14), Block(2, 3)),
    repeats=(7, 1),
)


def folder_of(sizes):
    """Where the whole model lies (str)."""
    return model_files.folder_of(config_of(sizes))


def ours(folder, block):
    """Kept layers only."""
    return load_pruned(folder, block, dtype=torch.float32)


def peer(folder, block):
    """All layers, then the block is dropped."""
    whole = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, trust_remote_code=False
    )
    return drop_layers(whole, block)


WAYS = {"ours": ours, "peer": peer}


def check(sizes):
    """The same weights under the same names."""
    folder, block = folder_of(sizes), sizes["block"]
    one, other = ours(folder, block), peer(folder, block)
    assert one.config.num_hidden_layers == sizes["layers"] - block.size
    torch.testing.assert_close(
        one.state_dict(), other.state_dict(), rtol=0, atol=0
    )


def peak(side, sizes):
    """Peak memory of loading and of touching every weight once, in MB."""

    def load_and_read(folder):
        model = WAYS[side](folder, sizes["block"])
        return sum(p.sum().item() for p in model.parameters())

    return peak_of(lambda: folder_of(sizes), load_and_read)


def megabytes(sizes):
    """MB of the kept weights (float)."""
    model = ours(folder_of(sizes), sizes["block"])
    return sum(p.numel() * p.element_size() for p in model.parameters()) / 2**20


def rows(sizes, tier):
    """Time, memory, and memory against the weights themselves."""
    folder, block = folder_of(sizes), sizes["block"]
    told = dict(
        sizes=f"{sizes['layers'] - block.size} of {sizes['layers']} layers "
        f"kept, {sizes['width']} wide, vocabulary {sizes['vocabulary']:,}, "
        "safetensors in bfloat16, a file for each layer"
    )
    yield timed(
        "loading a pruned decoder; peer: load whole, then drop",
        calls(WAYS, (folder, block)),
        sizes["repeats"],
        "at least 1",
        **told,
    )
    with model_files.handed_on(folder):
        our_peaks, peer_peaks = peaks("loading", tier)
    kept = megabytes(sizes)
    # The files are in bfloat16.
    share = kept / 2 / model_files.megabytes(folder)
    yield row_of(
        "loading a pruned decoder, peak memory; peer: load whole, then drop",
        our_peaks,
        peer_peaks,
        f"at most {share + 0.05:.2f}",
        unit="MB",
        note="The target is the share of the weights that is kept, and 0.05.",
        **told,
    )
    yield row_of(
        "loading a pruned decoder, peak memory; peer: the kept weights' bytes",
        our_peaks,
        [kept],
        "at most 1.1",
        unit="MB",
        **told,
    )


if __name__ == "__main__":
    script("loading", SIZES, check, rows)
