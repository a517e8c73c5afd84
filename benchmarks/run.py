"""Run every benchmark that fits this machine, and write what came out.

    python -m benchmarks.run                 all, a few minutes each
    python -m benchmarks.run --only sweep    some; the other rows are kept
    python -m benchmarks.run --only streaming-7b    27 GB of disk, 15 minutes

Writes ``benchmarks/results/<machine>.json`` and makes the README anew. Each
script runs in a process of its own, one after the other.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.common import add_mergekit
from benchmarks.readme import PACKAGES, write_readme
from speechbrain_ext.runs.files import versions
from speechllm.study.machine import machine_name

SCRIPTS = (
    "decoding_speechbrain",
    "decoding_generate",
    "training_projector",
    "training_healing",
    "training_attention",
    "padding",
    "host",
    "redundancy_table",
    "pruned_speed",
    "loading",
    "streaming",
    "encoder_attention",
    "windows",
    "evaluation",
    "sweep",
)
# The same in larger sizes: script and tier.
LARGER = {
    "streaming-1.5b": ("streaming", "1.5b"),
    "streaming-7b": ("streaming", "7b"),
}
ORDER = (*SCRIPTS, *LARGER)
ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "results"


def file_of(machine):
    """A machine's file name (str)."""
    letters = [c.lower() if c.isalnum() else "-" for c in machine]
    return "-".join(part for part in "".join(letters).split("-") if part)


def run_script(name, tier):
    """Rows of one script (list of dict)."""
    name, tier = LARGER.get(name, (name, tier))
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "rows.json")
        command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{name}"]
        command += ["--tier", tier, "--json", file]
        code = subprocess.run(command, cwd=ROOT).returncode
        if code:
            raise RuntimeError(f"benchmarks.{name} failed with {code}")
        return json.loads(Path(file).read_text())


def made_with():
    """Versions and day, which each script's rows keep (dict)."""
    found = versions()
    kept = {name: found[name] for name in ("python", *PACKAGES)}
    return kept | {"date": time.strftime("%Y-%m-%d")}


def main(argv=None):
    """Run, write, and say what was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run")
    parser.add_argument("--only", nargs="+", choices=ORDER)
    parser.add_argument("--tier", choices=("full", "tiny"), default="full")
    parser.add_argument("--machine", default=machine_name())
    parser.add_argument("--output", default=str(RESULTS))
    add_mergekit(parser)
    args = parser.parse_args(argv)
    full = args.tier == "full"
    chosen = args.only or (*SCRIPTS, *["streaming-1.5b"] * full)
    file = Path(args.output) / f"{file_of(args.machine)}.json"
    whole = {"machine": args.machine, "rows": {}}
    if file.exists():
        whole = json.loads(file.read_text())
    rows = whole["rows"]
    failed = []
    for name in chosen:
        print(f"-- {name}", flush=True)
        began = time.monotonic()
        try:
            found = run_script(name, args.tier)
        except RuntimeError as error:
            print(error, file=sys.stderr)
            failed.append(name)
            continue
        minutes = round((time.monotonic() - began) / 60, 2)
        rows[name] = {"minutes": minutes, **made_with(), "rows": found}
        # In the scripts' own order, whichever ran last.
        whole["rows"] = rows = {n: rows[n] for n in ORDER if n in rows}
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(whole, indent=1) + "\n")
    write_readme(Path(args.output), Path(args.output).parent / "README.md")
    missed = [
        row["name"]
        for script in rows.values()
        for row in script["rows"]
        if row["met"] is False
    ]
    print(f"{file.name}: {len(missed)} targets missed", *missed, sep="\n  ")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
