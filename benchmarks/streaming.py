"""Measuring and pruning a causal LM a layer at a time, beside the usual ways.

    python -m benchmarks.streaming                a small model
    python -m benchmarks.streaming --tier 1.5b    Qwen2.5-1.5B's sizes
    python -m benchmarks.streaming --tier 7b      7B's: 27 GB of disk

Files are random, in bfloat16, and deleted afterwards. Each side runs in a
process of its own, which tells peak memory and seconds; a peer that needs the
weights in memory gives nothing where they do not fit. mergekit wants packages
of its own: install it into another environment, and name its Python with
`--mergekit`. It is beside our whole command, start and imports included.
"""

import functools
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import (
    in_fresh_process,
    paired,
    peak_of,
    row_alone,
    row_of,
    script,
)

import torch  # isort: skip
import transformers
from transformers import AutoModelForCausalLM

from benchmarks.model_files import folder_of, handed_on, megabytes
from benchmarks.models import published_config, qwen2_config, words_tokenizer
from benchmarks.redundancy_table import run_of_size
from speechbrain_ext.layers.converting import read_head
from speechbrain_ext.layers.distances import measure
from speechbrain_ext.layers.removal import Block, layer_and_rest
from speechbrain_ext.layers.surgery import drop_layers, load_pruned
from speechbrain_ext.quiet import quiet_loading
from speechbrain_ext.runs.files import write_json
from speechllm.streamed.copy import Piece, pieces_of, write_files, write_pruned
from speechllm.streamed.memory import fits
from speechllm.streamed.score import first_look
from speechllm.streamed.walk import StreamedLM
from speechllm.text_lm import batches_of

SIZES = {
    "tiny": dict(
        model=qwen2_config(4, 64, 300), rows=4, drop=Block(1, 2), repeats=1
    ),
    "full": dict(
        model=qwen2_config(24, 640, 32_000),
        rows=8,
        drop=Block(8, 8),
        repeats=3,
    ),
    "1.5b": dict(
        model=published_config("Qwen2.5-1.5B"),
        rows=64,
        drop=Block(18, 8),
        repeats=1,
    ),
    "7b": dict(
        model=published_config("Qwen2.5-7B"),
        rows=64,
        drop=Block(18, 8),
        repeats=1,
        most=3 * 1024,
    ),
}
TOKENS = 32
CHECKED = (
    "Ours holds the copy's layers against those that were kept, bit for bit, "
    "runs a few tokens through both, and ends when all is on the disk; mergekit "
    "checks nothing, and does not wait for the disk."
)
# MB of weights that a whole command is held to its targets from.
LEAST = 2000


def whole_of(sizes):
    """The model in memory."""
    with quiet_loading():
        return AutoModelForCausalLM.from_pretrained(
            folder_of(sizes["model"]), dtype="bfloat16", trust_remote_code=False
        )


def batches(sizes):
    """Rows of random tokens, in batches."""
    generator = torch.Generator().manual_seed(0)
    shape = (sizes["rows"], TOKENS)
    most = sizes["model"].vocab_size
    ids = torch.randint(3, most, shape, generator=generator)
    return batches_of(list(ids), 8)


def measure_streamed(sizes):
    """A layer at a time."""
    model = StreamedLM(folder_of(sizes["model"]), "bfloat16")
    return first_look(model, batches(sizes))[0]


def measure_loaded(sizes):
    """The whole model in memory."""
    return measure(whole_of(sizes), batches(sizes))


def measure_pruneme(sizes):
    """The same, one block size, all states and logits: PruneMe's way."""
    return run_of_size(whole_of(sizes), batches(sizes), sizes["drop"].size)


def prune_streamed(sizes, out):
    """From file to file, and the checks of the files."""
    tokenizer = words_tokenizer(8)
    write_pruned(folder_of(sizes["model"]), sizes["drop"], out, tokenizer)


def prune_loaded(sizes, out):
    """Load with transformers, drop, save."""
    with quiet_loading():
        drop_layers(whole_of(sizes), sizes["drop"]).save_pretrained(out)


def prune_command(sizes, out):
    """All of ours, as a person calls it."""
    removed = sizes["drop"].removed
    _run(
        [sys.executable, "-m", "speechllm.cli", "prune"]
        + [folder_of(sizes["model"]), "--plan", f"{removed[0]}-{removed[-1]}"]
        + ["--output", out, "--overwrite"]
    )


def prune_mergekit(sizes, out):
    """mergekit's passthrough, which PruneMe ends with, too."""
    block, layers = sizes["drop"], sizes["model"].num_hidden_layers
    source = {"model": folder_of(sizes["model"])}
    slices = [
        {"sources": [{**source, "layer_range": list(span)}]}
        for span in ((0, block.start), (block.receiving, layers))
    ]
    recipe = {"merge_method": "passthrough", "dtype": "bfloat16"}
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "recipe.yaml")
        # JSON is YAML, too.
        write_json(file, {**recipe, "slices": slices})
        python = os.environ["MERGEKIT"]
        _run([python, "-m", "mergekit.scripts.run_yaml", file, out])


def _run(command):
    """Run a command, and say its last word where it fails."""
    # As a person's shell has it: see `in_fresh_process`.
    own = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    done = subprocess.run(command, capture_output=True, text=True, env=own)
    if done.returncode:
        raise RuntimeError(done.stderr)


MEASURING = (measure_streamed, measure_loaded, measure_pruneme)
PRUNING = (prune_streamed, prune_loaded, prune_command, prune_mergekit)
WAYS = {way.__name__: way for way in (*MEASURING, *PRUNING)}
COMMANDS = ("prune_command", "prune_mergekit")
# Ours and a peer; targets of memory and of time.
PAIRS = (
    ("measure_streamed", "measure_loaded", "at most 1", ""),
    ("measure_streamed", "measure_pruneme", "at most 1", ""),
    ("prune_streamed", "prune_loaded", "at most 1", ""),
    ("prune_command", "prune_mergekit", "at most 0.333", "at least 1"),
)


def did(side, sizes):
    """Go one way, whose files are deleted."""
    if WAYS[side] in MEASURING:
        return WAYS[side](sizes)
    with tempfile.TemporaryDirectory() as out:
        return WAYS[side](sizes, out)


def cost(side, sizes):
    """Peak memory in MB and seconds; a command's with Python and libraries."""
    began = time.perf_counter()
    if side in COMMANDS:
        did(side, sizes)
        kilobytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        return kilobytes / 1024, time.perf_counter() - began
    most = peak_of(lambda: sizes, lambda sizes: did(side, sizes))
    return most, time.perf_counter() - began


@functools.cache
def costs(sides, tier):
    """MB and seconds of each side, in turns: two lists of lists."""
    repeats = 3 if sides[0] in COMMANDS else SIZES[tier]["repeats"]
    found = []
    for _ in range(repeats):
        found.append([])
        for side in sides:
            # What the last one left to be written is not to slow this one.
            os.sync()
            call = f"cost({side!r}, m.SIZES[{tier!r}])"
            found[-1].append(in_fresh_process("streaming", call))
    return [
        [[run[side][unit] for run in found] for side in range(len(sides))]
        for unit in (0, 1)
    ]


def check_written(way, sizes):
    """Refuse a way's folder without the kept tensors, bit for bit.

    Gives why transformers does not load the folder, or nothing.
    """
    with tempfile.TemporaryDirectory() as out:
        way(sizes, out)
        found = {}
        for file in Path(out).glob("*.safetensors"):
            for name, place in read_head(str(file)).items():
                found[name] = Piece(name, place.dtype, place)
        wanted = {piece.name: piece for piece in kept(sizes)}
        assert found.keys() == wanted.keys(), found.keys() ^ wanted.keys()
        for name, piece in wanted.items():
            copy = found[name]
            assert copy.value.shape == piece.value.shape, name
            assert copy.dtype == piece.dtype and piece.same(copy), name
        try:
            load_pruned(out, device_map={"": "meta"})
        except Exception as error:
            return last_line(error)
    return ""


def last_line(error):
    """An error's last line, which says what was wrong (str)."""
    return str(error).strip().splitlines()[-1].strip()[-300:]


def kept(sizes):
    """The tensors of the kept layers (list of Piece)."""
    return list(pieces_of(folder_of(sizes["model"]), sizes["drop"]))


def loadable(sizes):
    """Whether the weights fit into memory."""
    return fits(megabytes(folder_of(sizes["model"])) * 2**20)


def check(sizes):
    """One table, and the kept layers' very weights."""
    ways = [prune_streamed]
    if loadable(sizes):
        ways.append(prune_loaded)
        ours = torch.tensor(measure_streamed(sizes).distances)
        # Of bfloat16; in float32 the tests want 1e-6.
        near = dict(rtol=0, atol=1e-3, equal_nan=True)
        whole = torch.tensor(measure_loaded(sizes).distances)
        torch.testing.assert_close(ours, whole, **near)
        size = sizes["drop"].size
        # What ends behind the last layer is read after the norm there.
        theirs = torch.tensor(measure_pruneme(sizes)[:-1]).double()
        same = ours[size - 1, : len(theirs)]
        torch.testing.assert_close(same, theirs, **near)
    for way in ways:
        assert not check_written(way, sizes)


def fault(peer, sizes):
    """Why a peer gives nothing, and what is to be said of it."""
    if peer != "prune_mergekit":
        why = "the weights do not fit into the memory that is free"
        return "" if loadable(sizes) else why, ""
    packages = ("mergekit", "transformers")
    code = "import importlib.metadata as m; print(*map(m.version, {}))"
    command = [os.environ["MERGEKIT"], "-c", code.format(packages)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    own = "{} beside transformers {}".format(*found.stdout.split())
    try:
        wrong = check_written(prune_mergekit, sizes)
    except (RuntimeError, AssertionError) as error:
        return f"mergekit {own} fails: {last_line(error)}", ""
    own += f"; transformers {transformers.__version__} "
    own += f"refuses what it wrote: {wrong}" if wrong else "loads what it wrote"
    return "", f"; mergekit {own}"


def pair_rows(pair, sizes, tier, told):
    """Memory and time of ours and a peer, or of ours and why."""
    ours, peer, *targets = pair
    if peer == "prune_mergekit" and told["at"]["weights"] < LEAST:
        # What Python and its libraries take is most of either side.
        targets = ["", ""]
    why, more = fault(peer, sizes)
    found = costs((ours,) if why else (ours, peer), tier)
    told = {**told, "sizes": told["sizes"] + more}
    note = CHECKED if ours in COMMANDS else ""
    units = ("MB", ", peak memory"), ("s", "")
    for sides, target, (unit, what) in zip(found, targets, units):
        name = f"{ours}{what}; peer: {peer}"
        if why:
            yield row_alone(name, *sides, target, why, unit=unit, **told)
        else:
            yield row_of(name, *sides, target, unit=unit, note=note, **told)
    if "most" in sizes and peer != "measure_pruneme":
        yield row_of(
            f"{ours}, peak memory; peer: {sizes['most']:,} MB",
            found[0][0],
            [sizes["most"]],
            "at most 1",
            unit="MB",
            **told,
        )


def copy_row(sizes, told):
    """Writing weights beside `cp` of the very same files' bytes."""
    pieces = kept(sizes)
    files = {piece.value.path for piece in pieces}

    def write():
        with tempfile.TemporaryDirectory() as out:
            write_files(pieces, out)

    def copied():
        with tempfile.TemporaryDirectory() as out:
            subprocess.run(["cp", *files, out], check=True)

    return row_of(
        "writing the kept layers' files; peer: cp of them",
        # What one side left to be written is not to slow the other.
        *paired(write, copied, 2 * sizes["repeats"] - 1, between=os.sync),
        f"at least {1 / 1.5:.2f}",
        **told,
    )


def rows(sizes, tier):
    """Peak memory, and seconds, of measuring and of pruning."""
    model, folder = sizes["model"], folder_of(sizes["model"])
    layer = [p.size for p in kept(sizes) if layer_and_rest(p.name)[0] == 0]
    told = dict(
        at={"weights": megabytes(folder), "layer": sum(layer) / 2**20},
        sizes=f"{model.num_hidden_layers} layers, {model.hidden_size} wide, "
        f"vocabulary {model.vocab_size:,}: {megabytes(folder):,.0f} MB, "
        f"{sizes['drop'].size} layers removed; {sizes['rows']} rows of "
        f"{TOKENS} tokens measured",
        dtype="bfloat16",
    )
    with handed_on(folder):
        for pair in PAIRS:
            if pair[1] != "prune_mergekit" or "MERGEKIT" in os.environ:
                yield from pair_rows(pair, sizes, tier, told)
        yield copy_row(sizes, told)


if __name__ == "__main__":
    script("streaming", SIZES, check, rows)
