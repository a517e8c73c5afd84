"""The studies whose results are committed, and what is made from them."""

from __future__ import annotations

import contextlib
import importlib
import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from speechbrain_ext.runs.reading import LoadedRuns, load_runs
from speechllm.report.healing import HealingStudy, comparisons
from speechllm.report.maps import read_tables
from speechllm.report.pack import runs_folder, unpack
from speechllm.report.study import Study, standing
from speechllm.report.timings import read_timings
from speechllm.study.state import REPORTS

PACKED = "runs.json.bz2"
# Of what a kind of report makes, and of what was measured, that is committed.
KEPT = {
    "runs": "summary.json table.md curves.png heatmap.png",
    "tasks": "summary.json table.md curves.png heatmap.png tasks.md "
    "tables-*.json multitask.json",
    "paper": "summary.json report.md figure1.png figure2.png costs.png "
    "frontier.png",
    "healing": "summary.json table.md frontier-*.png",
    # Both at once; of two files of one name the one in `healing`.
    "real": "report.md table.md figure1.png figure2.png costs.png "
    "frontier.png frontier-*.png whisper.json",
}


@dataclass(frozen=True)
class Committed:
    """One study: its folder in ``docs``, and which report is made of it."""

    name: str
    folder: str
    report: str

    def packed(self, root: Path) -> Path:
        """The file with its runs."""
        return root / self.folder / PACKED

    def files(self, root: Path) -> dict[str, Path]:
        """Its committed files, by the names that the report gives them."""
        found = {}
        for pattern in KEPT[self.report].split():
            for path in (root / self.folder).glob(pattern):
                found[path.name] = path
        return found


STUDIES = [
    Committed("mini", "docs/mini", "runs"),
    Committed("mini-full", "docs/mini-full", "tasks"),
    Committed("paper-mini", "docs/paper-mini", "paper"),
    Committed("study-healing", "docs/study-healing", "healing"),
    Committed("real", "docs/real", "real"),
]


class Evidence:
    """A study's runs as they were unpacked, and what is made of them."""

    def __init__(self, study: Committed, root: Path, folder: Path):
        self.committed = study
        self.results, self.output = folder / "results", folder / "report"
        unpack(study.packed(root), self.results)
        self.runs = runs_folder(self.results)

    @cached_property
    def found(self) -> LoadedRuns:
        """Its runs."""
        return load_runs(self.runs)

    @cached_property
    def study(self) -> Study:
        """Its runs by their cells."""
        timings = read_timings(self.runs)
        runs = standing(self.found.all)
        return Study(runs, self.found.folders, timings=timings)

    @cached_property
    def tables(self) -> list[dict]:
        """Its tables of distances."""
        return read_tables(self.runs)

    @cached_property
    def comparisons(self) -> list[dict]:
        """Its methods of healing, each against the paper's."""
        return comparisons(HealingStudy(self.found.all, self.found.folders))

    def made(self) -> tuple[dict[str, Path], str]:
        """The files of its report by name, and what went wrong."""
        faults, folders = [], []
        for module, place in REPORTS[self.committed.report][0].items():
            told, output = io.StringIO(), self.output / place
            output.mkdir(parents=True, exist_ok=True)
            folders.append(output)
            main = importlib.import_module(module).main
            with contextlib.redirect_stdout(told):
                with contextlib.redirect_stderr(told):
                    # 1: a picture has nothing to show, here as there.
                    status = main([str(self.runs), "--output", str(output)])
            if status not in (0, 1):
                faults.append(f"{module}: {told.getvalue().strip()}")
        files = list((self.results / "multitask").glob("*.json"))
        files += self.results.glob("whisper.json")
        # What stands in a folder of its own is the more special.
        for folder in sorted(set(folders)):
            files += folder.iterdir()
        return {path.name: path for path in files}, "; ".join(faults)
