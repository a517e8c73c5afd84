"""A study: its runs, and where the files of each lie.

The graph's main process writes it to ``plan.json``; the process of each run
reads it there, which takes no time and wants no library.
"""

import dataclasses
import json
import shlex
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.runs.files import write_json

KINDS = ("data", "baseline", "table", "healed", "score")
PLAN_FILE = "plan.json"
# What makes a study's report, and the file below its results that says so.
REPORTS = {
    "paper": ("speechllm.report", "report/report.html"),
    "healing": ("speechllm.report.healing", "summary.json"),
}


@dataclass
class Run:
    """One node of the graph."""

    name: str
    kind: str
    command: list
    folder: str = "."
    needs: list = field(default_factory=list)
    made: str = ""
    trained: str = ""
    sets: list = field(default_factory=list)
    trials: dict = field(default_factory=dict)

    def typed(self):
        """The command line as it would be typed (str)."""
        return shlex.join(["python", *self.command])


class Study:
    """Runs by name, and their files."""

    def __init__(self, results, runs=None, cards=0):
        self.results = Path(results).resolve()
        self.runs = runs or {}
        self.cards = cards
        self.report = "paper"

    @classmethod
    def load(cls, file):
        """The study of a ``plan.json``."""
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        runs = {one["name"]: Run(**one) for one in content["runs"]}
        study = cls(Path(file).parent, runs, content["cards"])
        study.report = content.get("report", "paper")
        return study

    def save(self):
        """Write ``plan.json`` into the results."""
        self.results.mkdir(parents=True, exist_ok=True)
        runs = [dataclasses.asdict(run) for run in self.runs.values()]
        file = self.results / PLAN_FILE
        write_json(
            file, {"cards": self.cards, "report": self.report, "runs": runs}
        )
        return file

    def run_folder(self, name):
        """Where a run's result is (Path)."""
        return self.results / "runs" / name

    def marker(self, run):
        """The file that says how a run ended (Path)."""
        file = f"{run.name}.{run.made}.json"
        return self.results / "graph" / run.kind / file
