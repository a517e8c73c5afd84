"""``python tests/soak [--full] [--seed N] [--only FAMILY ...]``; see `make soak`.

Writes ``soak.json`` with the counts, the seed and the versions as each family
ends; 1 where a fault did harm. ``--kinds`` tries some kinds of one family
alone, and writes nothing.
"""

import argparse
import json
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# In place of this folder, which Python puts there.
sys.path[:1] = [str(TESTS), str(TESTS / "core")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from soak.campaign import Setting, run_family  # noqa: E402
from soak.page import FAMILIES  # noqa: E402
from speechbrain_ext.runs.files import versions, write_json  # noqa: E402

# The longest first, so that two processes end together.
ORDER = "kills inputs recordings processes disks long_runs numbers_kept power supply"
# Tens of thousands of small files, of which only the content matters: not one
# of them needs to wait for a disk.
IN_MEMORY, MEMORY = ("inputs", "recordings"), Path("/dev/shm")


def main() -> int:
    """Run the families, two at a time, and write what came of them."""
    parser = argparse.ArgumentParser(
        prog="python tests/soak", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--full", action="store_true", help="under an hour")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, metavar="FAMILY")
    parser.add_argument("--kinds", nargs="+", default=(), metavar="KIND")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/soak"))
    told = parser.parse_args()
    names = [n for n in ORDER.split() if n in (told.only or FAMILIES)]
    tallies = {}
    for name, tally in families(told, names):
        tallies[name] = tally
        # At once: a start that is cut short keeps those that ended.
        if not told.kinds:
            save(told, name, tally)
    if told.kinds:
        met = {kind for tally in tallies.values() for kind in tally.cases}
        if lacking := {*told.kinds} - met:
            parser.error(f"--kinds: no fault of {', '.join(sorted(lacking))}")
    code = report(tallies)
    if not told.kinds:
        print(f"Counts: {told.output / 'soak.json'}")
    return code


def families(told, names):
    """Each family's name and counts as it ends, some of them side by side."""
    tops = {name: scratch(name) for name in names}
    # Each in a fresh process: what one breaks, another does not meet.
    pool = ProcessPoolExecutor(
        told.workers, get_context("spawn"), max_tasks_per_child=1
    )
    with pool:
        running = {}
        for name, top in tops.items():
            setting = Setting(not told.full, told.seed, top, tuple(told.kinds))
            running[pool.submit(run_family, name, setting)] = name
        for one in as_completed(running):
            shutil.rmtree(tops[running[one]], ignore_errors=True)
            yield running[one], one.result()


def scratch(name) -> Path:
    """A family's folder, in memory if that is as good and there is room."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2**30
    free = name in IN_MEMORY and "TMPDIR" not in os.environ
    there = MEMORY if roomy and free else None
    return Path(tempfile.mkdtemp(prefix=f"soak-{name}-", dir=there))


def save(told, name, tally) -> None:
    """Write a family's counts; those of others, of this seed, stay."""
    file = told.output / "soak.json"
    size = {"size": "full" if told.full else "quick"}
    counts = {
        "seed": told.seed,
        "machine": f"{os.cpu_count()} cores, {platform.system()}",
        "versions": versions(),
    }
    kept = {}
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        kept = before.pop("families")
        kept = kept if before == counts else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(
        file, {**counts, "families": {**kept, name: size | tally.as_json()}}
    )


def report(tallies) -> int:
    """Print the counts of each kind; 1 where a fault did harm."""
    for name, tally in tallies.items():
        print(f"{FAMILIES[name]}: {tally.seconds:.0f} s")
        for kind, cases in tally.cases.items():
            print(f"  {kind}: {tally.survived[kind]} of {cases} survived")
    harm = [one for tally in tallies.values() for one in tally.wrong]
    return 1 if harm else 0


if __name__ == "__main__":
    sys.exit(main())
