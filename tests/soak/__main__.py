"""``python tests/soak [--full] [--seed N] [--only FAMILY ...]``; see `make soak`.

Writes ``soak.json`` with the counts, the seed and the versions; 1 where a
fault did harm.
"""

import argparse
import os
import platform
import shutil
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# This folder has a module numbers, as Python has.
sys.path[:] = [one for one in sys.path if Path(one).resolve() != TESTS / "soak"]
sys.path[:0] = [str(TESTS), str(TESTS / "core")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

from soak.campaign import FAMILIES, Setting, run_family  # noqa: E402
from speechbrain_ext.runs.files import versions, write_json  # noqa: E402

# The longest first, so that two processes end together.
ORDER = "kills inputs recordings processes disks long_runs numbers power supply"


def main() -> int:
    """Run the families, two at a time, and write what came of them."""
    parser = argparse.ArgumentParser(
        prog="python tests/soak", description=__doc__.split("\n")[0]
    )
    parser.add_argument("--full", action="store_true", help="some two hours")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=FAMILIES, metavar="FAMILY")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--output", type=Path, default=Path("results/soak"))
    told = parser.parse_args()
    names = [n for n in ORDER.split() if n in (told.only or FAMILIES)]
    top = Path(tempfile.mkdtemp(prefix="soak-"))
    work = [(n, Setting(not told.full, told.seed, top / n)) for n in names]
    # Each in a fresh process: what one breaks, another does not meet.
    pool = ProcessPoolExecutor(
        told.workers, get_context("spawn"), max_tasks_per_child=1
    )
    with pool:
        tallies = dict(zip(names, pool.map(run_family, *zip(*work))))
    shutil.rmtree(top, ignore_errors=True)
    told.output.mkdir(parents=True, exist_ok=True)
    write_json(
        told.output / "soak.json",
        {
            "size": "full" if told.full else "quick",
            "seed": told.seed,
            "machine": f"{os.cpu_count()} cores, {platform.system()}",
            "versions": versions(),
            "families": {n: tallies[n].as_json() for n in names},
        },
    )
    return report(tallies, told.output)


def report(tallies, output) -> int:
    """Print the counts of each kind; 1 where a fault did harm."""
    for name, tally in tallies.items():
        print(f"{FAMILIES[name]}: {tally.seconds:.0f} s")
        for kind, cases in tally.cases.items():
            print(f"  {kind}: {tally.survived[kind]} of {cases} survived")
    harm = [one for tally in tallies.values() for one in tally.wrong]
    print(f"Counts: {output / 'soak.json'}")
    return 1 if harm else 0


if __name__ == "__main__":
    sys.exit(main())
