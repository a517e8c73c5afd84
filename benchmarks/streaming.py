"""Measuring and pruning a causal LM a layer at a time, beside the usual ways.

    python -m benchmarks.streaming                a small model
    python -m benchmarks.streaming --tier 1.5b    Qwen2.5-1.5B's proportions
    python -m benchmarks.streaming --tier 7b      7B's: 15 GB of disk, and 13 more

Files are random, in bfloat16, and deleted afterwards. A peer that needs the
weights in memory is left out where they do not fit. mergekit wants packages of
its own: install it into another environment, and name its command,
``MERGEKIT=other/bin/mergekit-yaml``.
"""

import atexit
import functools
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.common import paired, peak_of, peaks, row_of, script

import torch  # isort: skip
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Qwen2ForCausalLM

from benchmarks.models import qwen2_config, words_tokenizer
from speechbrain_ext.layers.distances import measure
from speechbrain_ext.layers.removal import Block, layer_and_rest
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechbrain_ext.quiet import quiet_loading
from speechllm.streamed.copy import pieces_of, write_files, write_pruned
from speechllm.streamed.memory import fits
from speechllm.streamed.score import first_look
from speechllm.streamed.walk import StreamedLM
from speechllm.text_lm import batches_of

SIZES = {
    "tiny": dict(layers=4, width=64, vocabulary=300, rows=4, drop=(1, 2)),
    "full": dict(layers=24, width=640, vocabulary=32_000, rows=8, drop=(8, 8)),
    "1.5b": dict(
        layers=28, width=1536, vocabulary=151_936, rows=64, drop=(18, 8)
    ),
    "7b": dict(
        layers=28,
        width=3584,
        vocabulary=151_936,
        rows=64,
        drop=(18, 8),
        tied=False,
    ),
}
TOKENS = 32
# A model folder that another process has written.
FOLDER = "BENCHMARK_MODEL_FOLDER"


@functools.cache
def _made(layers, width, vocabulary, tied):
    """Folder of a random model, written a layer at a time."""
    top = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, top, ignore_errors=True)
    folder = Path(top) / "whole"
    folder.mkdir()
    config = qwen2_config(layers, width, vocabulary, tied=tied)
    config.dtype, config.architectures = "bfloat16", ["Qwen2ForCausalLM"]
    config.save_pretrained(folder)
    words_tokenizer(min(vocabulary, 1000)).save_pretrained(folder)
    with torch.device("meta"):
        shapes = Qwen2ForCausalLM(config).state_dict()
    shards = {}
    for name, value in shapes.items():
        if name != "lm_head.weight" or not tied:
            shards.setdefault(layer_and_rest(name)[0], {})[name] = value
    index = {}
    for layer, some in shards.items():
        file = f"part-{layer}.safetensors"
        tensors = {
            name: (0.02 * torch.randn(value.shape)).bfloat16()
            for name, value in some.items()
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        index.update(dict.fromkeys(some, file))
    head = {"metadata": {}, "weight_map": index}
    file = folder / "model.safetensors.index.json"
    file.write_text(json.dumps(head))
    return str(folder)


def folder_of(sizes):
    """Where the whole model lies (str)."""
    if FOLDER in os.environ:
        return os.environ[FOLDER]
    names = ("layers", "width", "vocabulary")
    made = _made(*(sizes[n] for n in names), sizes.get("tied", True))
    return made


def megabytes(folder):
    """MB of a folder's weights (float)."""
    files = Path(folder).glob("*.safetensors")
    return sum(file.stat().st_size for file in files) / 2**20


def whole_of(folder):
    """The model in memory."""
    with quiet_loading():
        return AutoModelForCausalLM.from_pretrained(
            folder, dtype="bfloat16", trust_remote_code=False
        )


def batches(sizes):
    """Rows of random tokens, in batches."""
    generator = torch.Generator().manual_seed(0)
    shape = (sizes["rows"], TOKENS)
    ids = torch.randint(3, sizes["vocabulary"], shape, generator=generator)
    return batches_of(list(ids), 8)


def measure_streamed(sizes):
    """A layer at a time."""
    model = StreamedLM(folder_of(sizes), "bfloat16")
    return first_look(model, batches(sizes))[0]


def measure_loaded(sizes):
    """The whole model in memory."""
    return measure(whole_of(folder_of(sizes)), batches(sizes))


def prune_streamed(sizes):
    """From file to file, and the checks of the files."""
    tokenizer = words_tokenizer(8)
    with _output() as out:
        write_pruned(folder_of(sizes), Block(*sizes["drop"]), out, tokenizer)


def prune_loaded(sizes):
    """Load with transformers, drop, save."""
    with _output() as out, quiet_loading():
        lm = drop_layers(whole_of(folder_of(sizes)), Block(*sizes["drop"]))
        lm.save_pretrained(out)


def copied(sizes):
    """What cp takes for as many bytes, which are written by ours first."""
    with _output() as out:
        subprocess.run(["cp", "-r", _kept(sizes), out], check=True)


def merged(sizes):
    """mergekit's passthrough."""
    start, size = sizes["drop"]
    ranges = ((0, start), (start + size, sizes["layers"]))
    slices = [
        {"sources": [{"model": folder_of(sizes), "layer_range": list(span)}]}
        for span in ranges
    ]
    recipe = {"merge_method": "passthrough", "dtype": "bfloat16"}
    with _output() as out:
        file = Path(out) / "recipe.yaml"
        # JSON is YAML, too.
        file.write_text(json.dumps({**recipe, "slices": slices}))
        command = [os.environ["MERGEKIT"], str(file), f"{out}/merged"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"mergekit: {done.stderr[-1000:]}")


WAYS = dict(
    measure_streamed=measure_streamed,
    measure_loaded=measure_loaded,
    prune_streamed=prune_streamed,
    prune_loaded=prune_loaded,
    merged=merged,
)


def _output():
    """A folder beside the model, for as long as the block lasts."""
    return tempfile.TemporaryDirectory(
        dir=os.environ.get("BENCHMARK_OUTPUT_FOLDER")
    )


@functools.cache
def _kept_in(folder, drop):
    out = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, out, ignore_errors=True)
    write_pruned(folder, Block(*drop), out, words_tokenizer(8))
    return out


def _kept(sizes):
    """A folder of the kept layers, written once."""
    return _kept_in(folder_of(sizes), sizes["drop"])


def check(sizes):
    """One table, and the kept layers' very weights: both ways are the same."""
    if fits(megabytes(folder_of(sizes)) * 2**20):
        one, other = measure_streamed(sizes), measure_loaded(sizes)
        torch.testing.assert_close(
            torch.tensor(one.distances),
            torch.tensor(other.distances),
            rtol=0,
            # Of bfloat16; in float32 the tests want 1e-6.
            atol=1e-3,
            equal_nan=True,
        )
    source = load_pruned(folder_of(sizes), Block(*sizes["drop"]))
    again = whole_of(_kept(sizes)).state_dict()
    for name, value in source.state_dict().items():
        assert torch.equal(value, again[name]), name


def peak(side, sizes):
    """Peak memory of one way; mergekit's with its libraries, in MB."""
    if side != "merged":
        return peak_of(lambda: sizes, WAYS[side])
    merged(sizes)
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def rows(sizes, tier):
    """Peak memory, and seconds, of measuring and of pruning."""
    folder = os.environ[FOLDER] = folder_of(sizes)
    weights = megabytes(folder)
    told = dict(
        sizes=f"{sizes['layers']} layers, {sizes['width']} wide, vocabulary "
        f"{sizes['vocabulary']:,}: {weights:,.0f} MB, {sizes['drop'][1]} "
        f"layers removed; {sizes['rows']} rows of {TOKENS} tokens measured",
        dtype="bfloat16",
    )
    loaded = fits(weights * 2**20)
    peers = {"measure": ["measure_loaded"], "prune": ["prune_loaded"]}
    if "MERGEKIT" in os.environ:
        peers["prune"].append("merged")
    for what, some in peers.items():
        ours = f"{what}_streamed"
        for peer in some:
            if not loaded and peer != "merged":
                print(f"{peer}: {weights:,.0f} MB do not fit", file=sys.stderr)
                own, _ = peaks("streaming", (ours, ours), tier)
                yield row_of(
                    f"{ours}, peak memory; peer: the weights' bytes",
                    own,
                    [weights],
                    "",
                    unit="MB",
                    **told,
                )
                continue
            yield row_of(
                f"{ours}, peak memory; peer: {peer}",
                *peaks("streaming", (ours, peer), tier),
                "at most 1",
                unit="MB",
                **told,
            )
            yield row_of(
                f"{ours}; peer: {peer}",
                *paired(
                    functools.partial(WAYS[ours], sizes),
                    functools.partial(WAYS[peer], sizes),
                    3,
                ),
                "",
                **told,
            )
    pieces = list(pieces_of(folder, Block(*sizes["drop"])))

    def write():
        """The files of weights alone."""
        with _output() as out:
            write_files(pieces, out)

    yield row_of(
        "writing the kept layers' files; peer: cp of them",
        *paired(write, functools.partial(copied, sizes), 5),
        f"at least {1 / 1.5:.2f}",
        **told,
    )
    os.environ.pop(FOLDER)


if __name__ == "__main__":
    script("streaming", SIZES, check, rows)
