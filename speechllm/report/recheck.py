"""Recompute every committed figure of the studies, and say what differs.

``python -m speechllm.report.recheck`` takes each study's packed results in
``docs``, scores all answers again, makes its report again, and compares both
with what is committed; so it does with the figures in the pages between
``<!-- figures: NAME -->`` and ``<!-- end -->``. ``--write`` brings files and
pages up to date with the packed results.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import re
import runpy
import shutil
import sys
import tempfile
import traceback
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from fnmatch import fnmatch
from multiprocessing import get_context
from pathlib import Path

from speechbrain_ext.runs.files import LOSSES_FILE, write_text
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.scores.score import score_recognition, score_translation
from speechllm.pipes import module_parser
from speechllm.report import blocks
from speechllm.report.committed import KEPT, STUDIES, Committed, Evidence

ROOT = Path(__file__).resolve().parents[2]
# The last bits of a sum depend on the libraries of a machine.
CLOSE = 1e-9
# Differences of one file that are told.
TOLD = 5
VERSION = re.compile(r"\|version:[^|]*")
# What says the figures that stand in pages, and of which results.
MEASURED = {
    "benchmarks/short.py": "benchmarks/results",
    "benchmarks/quantised.py": "docs/int8.json",
    "tests/soak/page.py": "docs/reliability.json",
}
PICTURE = b"\x89PNG"


@dataclass
class Outcome:
    """What came of a study: what was looked at, and what differed."""

    name: str
    looked_at: str = ""
    differs: list[str] = field(default_factory=list)
    # Figures of pages, made again.
    blocks: dict[str, str] = field(default_factory=dict)

    def __str__(self):
        if not self.differs:
            return f"{self.name}: {self.looked_at}: as committed"
        lines = "".join(f"\n  {line}" for line in self.differs)
        return f"{self.name}: {len(self.differs)} differ{lines}"


def recheck(
    study: Committed, root: Path, wanted: list[str], write: bool = False
) -> Outcome:
    """Recompute a study, and its figures in pages that are wanted.

    Compared with what is committed, or written in its place.
    """
    told = Outcome(study.name)
    packed = study.packed(root)
    if not packed.is_file():
        # What is not there at all asks for no check.
        if study.files(root) or wanted:
            told.differs = ["no packed runs: not rechecked"]
        told.looked_at = "not here"
        return told
    with tempfile.TemporaryDirectory() as folder:
        try:
            evidence = Evidence(study, root, Path(folder))
            again = list(rescored(evidence))
            made, fault = evidence.made()
            figures = {name: blocks.made(name, evidence) for name in wanted}
        except Exception as error:
            # Whatever it is, the other studies are still looked at.
            traceback.print_exc()
            told.differs = [f"{packed.name}: {type(error).__name__}: {error}"]
            return told
        if write:
            _put(study, root, made)
        files = study.files(root)
        told.differs = _first(again, "answers") + [fault] * bool(fault)
        told.differs += compared(study, files, made)
        told.blocks = figures
        sets = sum(len(run.scores) for run in evidence.found.done)
        told.looked_at = (
            f"{len(evidence.found.all)} runs, {sets} sets scored again, "
            f"{len(files)} files"
        )
    return told


# ----------------------------------------------------------------------------
# Answers


def rescored(evidence: Evidence) -> Iterator[str]:
    """Scores and losses that do not follow from the answers."""
    for run in evidence.found.done:
        folder = evidence.found.folders[run.name]
        for name, score in run.scores.items():
            file = folder / f"hypotheses-{name}.jsonl"
            if score.value is None:
                continue
            if not file.is_file():
                yield f"{run.name}: no hypotheses of {name}"
                continue
            yield from _rescored(f"{run.name}, {name}", file, score)
        if (loss := run.validation.get("final_loss")) is not None:
            yield from _losses(run.name, folder / LOSSES_FILE, loss)


def _rescored(where, file, score):
    rows = read_utterances(file)
    again = score_recognition if score.metric == "WER" else score_translation
    found, scored = again(rows, score.language)
    yield from differing(_plain(score), _plain(found), where)
    for row, other in zip(rows, scored):
        if row != other:
            yield from differing(row, other, f"{where}, {row.get('id')}")


def _plain(score):
    """A score without the version of the package that counted."""
    told = json.loads(json.dumps(dataclasses.asdict(score)))
    for one in (told, *told["others"].values()):
        if one.get("signature"):
            one["signature"] = VERSION.sub("", one["signature"])
    return told


def _losses(run, file, loss):
    if not file.is_file():
        yield f"{run}: no losses"
        return
    rows = read_utterances(file)
    again = sum(r["loss"] for r in rows) / sum(r["tokens"] for r in rows)
    yield from differing(loss, again, f"{run}, loss")


# ----------------------------------------------------------------------------
# Files


def differing(old, new, where: str) -> Iterator[str]:
    """Where two JSON values differ, the committed one and the other."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in old | new:
            pair = old.get(key, "nothing"), new.get(key, "nothing")
            yield from differing(*pair, f"{where}, {key}")
    elif isinstance(old, list) and isinstance(new, list):
        for place, pair in enumerate(
            itertools.zip_longest(old, new, fillvalue="nothing")
        ):
            names = {
                p["name"] for p in pair if isinstance(p, dict) and "name" in p
            }
            name = " or ".join(sorted(map(str, names))) or place
            yield from differing(*pair, f"{where}, {name}")
    elif not _equal(old, new):
        yield f"{where}: {_said(old)} is committed, {_said(new)} is right"


def _equal(old, new):
    numbers = [type(one) in (int, float) for one in (old, new)]
    if all(numbers):
        return math.isclose(old, new, rel_tol=CLOSE, abs_tol=CLOSE**2)
    return type(old) is type(new) and old == new


def _said(value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def compared(study: Committed, files: dict, made: dict) -> list[str]:
    """How a study's committed files differ from the ones made again."""
    found = []
    for name, path in files.items():
        if name not in made:
            found.append(f"{path.name}: the report no longer makes it")
        elif path.suffix == ".png":
            if not made[name].read_bytes().startswith(PICTURE):
                found.append(f"{path.name}: is not drawn")
        else:
            read = _read_json if path.suffix == ".json" else _read_lines
            pair = read(path), read(made[name])
            found += _first(differing(*pair, path.name), path.name)
    kept = KEPT[study.report].split()
    return found + [
        f"{name}: is not committed"
        for name in sorted(made)
        if name not in files and any(fnmatch(name, one) for one in kept)
    ]


def _read_json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def _read_lines(path):
    return _lines(path.read_text(encoding="utf-8"))


def _lines(text):
    return {f"line {at}": line for at, line in enumerate(text.split("\n"), 1)}


def _first(lines, what):
    """The first of many differences, and how many more there are."""
    lines = list(lines)
    more = len(lines) - TOLD
    return lines[:TOLD] + [f"{what}: and {more} more"] * (more > 0)


def _put(study, root, made):
    """Put a report's files where they are committed."""
    for name, path in made.items():
        if any(fnmatch(name, one) for one in KEPT[study.report].split()):
            shutil.copyfile(path, root / study.folder / name)


# ----------------------------------------------------------------------------
# Pages


def check_page(path: Path, root: Path, figures: dict, write: bool) -> Outcome:
    """Compare the figures in a page with those made again, or write them."""
    told = Outcome(str(path.relative_to(root)))
    text = path.read_text(encoding="utf-8")
    if write:
        text = blocks.filled(text, figures)
        write_text(path, text)
    own = path.parent in [root / study.folder for study in STUDIES]
    found, faults = blocks.read(text, own)
    told.differs += faults
    for name, committed in found:
        if name not in figures:
            why = blocks.unknown(name) or "its study has no packed runs"
            told.differs.append(f"{name}: not rechecked: {why}")
            continue
        pair = _lines(committed), _lines(figures[name])
        told.differs += _first(differing(*pair, name), name)
    told.looked_at = f"{len(found)} places with figures"
    return told


def pages(root: Path) -> list[Path]:
    """The pages that may have figures of studies in them."""
    found = [root / "README.md", *(root / "docs").rglob("README.md")]
    found += (root / "docs").glob("*.md")
    return sorted({path for path in found if path.is_file()})


def measured_figures(root: Path) -> dict[str, str]:
    """Figures in pages that no study made, by name: the scripts that say them."""
    found: dict[str, str] = {}
    for script, results in MEASURED.items():
        if (root / script).is_file() and (root / results).exists():
            made = runpy.run_path(str(root / script))["figures"]
            found |= made(root / results)
    return {k: blocks.plain_columns(v.strip()) for k, v in found.items()}


def check_benchmarks(root: Path) -> Outcome:
    """Make the benchmarks' page again from their results."""
    write_readme = runpy.run_path(str(root / "benchmarks/readme.py"))[
        "write_readme"
    ]
    told = Outcome("benchmarks/README.md", "its page")
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "README.md"
        write_readme(root / "benchmarks/results", made)
        pair = _read_lines(root / told.name), _read_lines(made)
    told.differs = _first(differing(*pair, "README.md"), "README.md")
    return told


def main(argv: list[str] | None = None) -> int:
    """Recheck all; 1 if something differs."""
    parser = module_parser("speechllm.report.recheck", __doc__)
    parser.add_argument(
        "--write", action="store_true", help="bring files and pages up to date"
    )
    parser.add_argument(
        "--root", type=Path, default=ROOT, help="the folder with docs in it"
    )
    options = parser.parse_args(argv)
    root = options.root
    outcomes = check_all(root, options.write)
    for one in outcomes:
        print(one)
    differ = [one.name for one in outcomes if one.differs]
    print(f"Differ: {', '.join(differ)}" if differ else "Nothing differs.")
    return 1 if differ else 0


def check_all(root: Path, write: bool = False) -> list[Outcome]:
    """Studies, pages and benchmarks, in this order."""
    texts = [path.read_text(encoding="utf-8") for path in pages(root)]
    asked = {name for text in texts for name, _ in blocks.read(text)[0]}
    wanted = {
        study.name: sorted(n for n in asked if blocks.study_of(n) == study.name)
        for study in STUDIES
    }
    work = [(study, root, wanted[study.name], write) for study in STUDIES]
    many = sum(study.packed(root).is_file() for study in STUDIES)
    if many > 1:
        # Forking a process with torch's threads in it may hang.
        workers = min(many, os.cpu_count() or 1)
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            outcomes = list(pool.map(recheck, *zip(*work)))
    else:
        outcomes = [recheck(*one) for one in work]
    figures = {k: v for one in outcomes for k, v in one.blocks.items()}
    figures |= measured_figures(root)
    outcomes += [check_page(path, root, figures, write) for path in pages(root)]
    if (root / "benchmarks/results").is_dir():
        outcomes.append(check_benchmarks(root))
    return outcomes


if __name__ == "__main__":
    sys.exit(main())
