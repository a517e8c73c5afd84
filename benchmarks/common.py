"""Rows of results, paired timing and peak memory, for every script here.

A script has ``SIZES`` (a dict for each tier: `tiers`), ``check`` (raises unless
both sides compute the same) and ``rows`` (measures). Its last line hands them
to `script`. Where memory is measured, too, ``peak`` gives that of one side.
"""

import argparse
import atexit
import dataclasses
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Before torch is imported: most scripts import this module first.
THREADS = int(os.environ.setdefault("OMP_NUM_THREADS", "1"))
# "cpu" counts this process's own time, which on one thread is the wall clock's
# on a quiet machine, and on a busy one leaves the others' work out.
CLOCK = os.environ.get("BENCHMARK_CLOCK", "wall")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
# Fewer pairs than a script would take, for a quick look.
MOST_PAIRS = int(os.environ.get("BENCHMARK_PAIRS", "1000"))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch  # noqa: E402

torch.set_num_threads(THREADS)


def tiers(small="tiny", **sizes):
    """The sizes of both tiers, each of them given as (full, small)."""
    return {
        tier: {name: pair[place] for name, pair in sizes.items()}
        for place, tier in enumerate(("full", small))
    }


@dataclasses.dataclass
class Row:
    """One claim, measured."""

    name: str
    ours: float
    # None: the peer gave nothing, for the reason in `note`.
    peer: float | None
    ratio: float | None
    spread: list
    target: str
    unit: str = "s"
    sizes: str = ""
    dtype: str = "float32"
    threads: int = THREADS
    clock: str = CLOCK
    repeats: int = 1
    note: str = ""
    command: str = ""
    # MB of the model: all of it, and one layer.
    at: dict = dataclasses.field(default_factory=dict)
    met: object = None

    def __post_init__(self):
        self.met = meets(self.ratio, self.target)

    def __str__(self):
        if self.ratio is None:
            ours = f"ours {self.ours:.4g} {self.unit}"
            return f"{self.name}: {ours}; no peer: {self.note}"
        low, high = self.spread
        verdict = {True: "met", False: "MISSED", None: ""}[self.met]
        return (
            f"{self.name}: {self.ratio:.3g}x ({low:.3g} to {high:.3g}; ours "
            f"{self.ours:.4g} {self.unit}, peer {self.peer:.4g} {self.unit}; "
            f"target {self.target or 'none'}) {verdict}"
        )


def meets(ratio, target):
    """Whether a ratio reaches a target (None where there is none)."""
    if not target or ratio is None:
        return None
    kind, limit = target.rsplit(" ", 1)
    if kind == "at least":
        return ratio >= float(limit)
    if kind == "at most":
        return ratio <= float(limit)
    raise ValueError(f"target: {target!r}: say at least N or at most N.")


def row_of(name, ours, peer, target, **more):
    """A row from paired measurements."""
    at_most = target.startswith("at most")
    ratios = [o / p if at_most else p / o for o, p in zip(ours, peer)]
    return Row(
        name,
        statistics.median(ours),
        statistics.median(peer),
        statistics.median(ratios),
        [min(ratios), max(ratios)],
        target,
        repeats=len(ratios),
        **more,
    )


def row_alone(name, ours, target, why, **more):
    """A row of ours where the peer gave nothing, and why."""
    middle = statistics.median(ours)
    count = len(ours)
    more |= {"repeats": count, "note": why}
    return Row(name, middle, None, None, [], target, **more)


def paired(ours, peer, repeats, warm_up=True, between=None):
    """Seconds of both sides, measured in turns; `between` is not counted."""
    times = {ours: [], peer: []}
    if warm_up:
        ours()
        peer()
    for repeat in range(min(repeats, MOST_PAIRS)):
        for side in (ours, peer) if repeat % 2 == 0 else (peer, ours):
            if between:
                between()
            times[side].append(seconds(side))
    return times[ours], times[peer]


def seconds(work):
    """Seconds of a call by the chosen clock (float)."""
    clock = CLOCKS[CLOCK]
    began = clock()
    work()
    return clock() - began


def memory_now(field):
    """A field of this process's memory, "VmRSS" or "VmHWM", in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def peak_of(prepare, work):
    """Peak memory of some work and of what it works on."""
    before = memory_now("VmRSS")
    prepared = prepare()
    # 5: begin anew with the highest value (proc(5)).
    Path("/proc/self/clear_refs").write_text("5")
    work(prepared)
    return memory_now("VmHWM") - before


def scratch_folder():
    """A folder that goes with this process (str)."""
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def in_fresh_process(module, call):
    """What a call in a script gives, in a process that does nothing else."""
    code = (
        f"import json; from benchmarks import {module} as m; "
        f"print('GIVES', json.dumps(m.{call}))"
    )
    # Freed memory goes back at once, so that the peak is the work's own.
    environment = {
        **os.environ,
        "MALLOC_MMAP_THRESHOLD_": "1048576",
        "MALLOC_TRIM_THRESHOLD_": "1048576",
    }
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    if result.returncode:
        raise RuntimeError(f"{module}, {call}: {result.stderr[-2000:]}")
    return json.loads(result.stdout.rsplit("GIVES", 1)[1])


def peaks(module, tier, sides=("ours", "peer"), repeats=1):
    """Peaks of two sides in fresh processes (two lists of MB)."""
    found = [
        [
            in_fresh_process(module, f"peak({side!r}, m.SIZES[{tier!r}])")
            for side in sides
        ]
        for _ in range(repeats)
    ]
    return [list(values) for values in zip(*found)]


def calls(ways, given):
    """Each of some ways (a dict), as a function of nothing (list)."""
    return [functools.partial(way, *given) for way in ways.values()]


def timed(name, sides, repeats, target, warm_up=True, **more):
    """A row of both sides' seconds."""
    return row_of(name, *paired(*sides, repeats, warm_up), target, **more)


def counted(name, ours, peer, target, sizes):
    """A row of what is counted and not measured."""
    return row_of(name, [ours], [peer], target, unit="", sizes=sizes)


def time_and_memory(module, tier, name, sides, repeats, targets, **more):
    """Two rows of the same sides; their names have a hole for the second's."""
    yield timed(name.format(""), sides, repeats, targets[0], **more)
    both = peaks(module, tier)
    name = name.format(", peak memory")
    yield row_of(name, *both, targets[1], unit="MB", **more)


def same_gradients(parameters, sides, **near):
    """Refuse sides with other losses or other gradients, or without any."""
    found = []
    for side in sides:
        for parameter in parameters:
            parameter.grad = None
        loss = torch.tensor(side())
        found.append([loss, *(p.grad.clone() for p in parameters)])
    torch.testing.assert_close(*found, **near)
    assert all(gradient.abs().max() > 0 for gradient in found[0][1:])


def add_mergekit(parser):
    """The option that names the environment of a peer."""

    def put(python):
        os.environ["MERGEKIT"] = python
        return python

    parser.add_argument(
        "--mergekit",
        type=put,
        metavar="PYTHON",
        help="a Python that mergekit is installed for, as a peer of "
        "`streaming`; also as MERGEKIT=PYTHON",
    )


def script(module, sizes, check, rows, argv=None):
    """The command line that all scripts have."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{module}")
    parser.add_argument("--tier", choices=sizes, default="full")
    parser.add_argument("--json", help="write the rows there")
    add_mergekit(parser)
    args = parser.parse_args(argv)
    torch.manual_seed(0)
    check(sizes[args.tier])
    found = []
    for row in rows(sizes[args.tier], args.tier):
        row.command = f"OMP_NUM_THREADS={THREADS} python -m benchmarks.{module}"
        if args.tier == "tiny":
            # Targets are for the sizes that they were set for.
            row.target, row.met = "", None
        elif args.tier != "full":
            row.command += f" --tier {args.tier}"
        print(row, flush=True)
        found.append(row)
    if args.json:
        values = [dataclasses.asdict(row) for row in found]
        Path(args.json).write_text(json.dumps(values, indent=1) + "\n")
    return found
