"""A study's runs, where the files of each lie, and how far each is.

The main process writes the runs to ``plan.json``; the process of each run
reads them there, which takes no time and wants no library.
"""

from __future__ import annotations

import dataclasses
import json
import shlex
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.runs.files import write_json

ROOT = Path(__file__).resolve().parents[2]
KINDS = ("data", "baseline", "table", "healed", "score", "check", "timing")
# Of these nothing but their exit status says how they ended.
PLAIN_KINDS = ("data", "check")
PLAN_FILE = "plan.json"
# In a run's folder: which settings it was started with.
STARTED = "workflow.json"
# What makes a study's report, each with its folder beside the first, and the
# file below its results that says so.
_REPORT, _HEALING = "speechllm.report", "speechllm.report.healing"
REPORTS = {
    "paper": ({_REPORT: "."}, "report/report.html"),
    "healing": ({_HEALING: "."}, "summary.json"),
    "real": ({_HEALING: "healing", _REPORT: "."}, "report/report.html"),
    "runs": ({_REPORT: "."}, "table.md"),
    "tasks": ({_REPORT: ".", "speechllm.study.tasks": "."}, "tasks.md"),
}


@dataclass
class Run:
    """One node of the graph."""

    name: str
    kind: str
    command: list = field(default_factory=list)
    folder: str = "."
    needs: list = field(default_factory=list)
    made: str = ""
    trained: str = ""
    sets: list = field(default_factory=list)
    trials: dict = field(default_factory=dict)
    differs: dict = field(default_factory=dict)

    def typed(self) -> str:
        """The command line as it would be typed."""
        return shlex.join(["python", *self.command])


class Study:
    """Runs by name, and their files."""

    def __init__(self, results, runs=None, cards=0, report="paper", flat=False):
        self.results = Path(results).resolve()
        self.runs = runs or {}
        self.cards, self.report, self.flat = cards, report, flat

    @classmethod
    def load(cls, file) -> Study:
        """The study of a ``plan.json``."""
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        content["runs"] = {r["name"]: Run(**r) for r in content["runs"]}
        return cls(Path(file).parent, **content)

    def save(self) -> Path:
        """Write ``plan.json`` into the results."""
        self.results.mkdir(parents=True, exist_ok=True)
        runs = [dataclasses.asdict(run) for run in self.runs.values()]
        own = {key: getattr(self, key) for key in ("cards", "report", "flat")}
        file = self.results / PLAN_FILE
        write_json(file, {**own, "runs": runs})
        return file

    def begin(self, dry=False) -> None:
        """Write the plan; what failed, waited or is gone is tried again."""
        again = [name for name in self.runs if is_lost(self, name)]
        if again:
            print(f"To be tried again: {', '.join(again)}", flush=True)
        if dry:
            return
        self.save()
        for name in again:
            self.marker(self.runs[name]).unlink()
            # Snakemake makes nothing anew for a report that is there.
            self.reported.unlink(missing_ok=True)

    @property
    def runs_folder(self) -> Path:
        """Where the runs' folders are."""
        return self.results if self.flat else self.results / "runs"

    def run_folder(self, name) -> Path:
        """Where a run's result is."""
        return self.runs_folder / name

    @property
    def superseded(self) -> Path:
        """Where results of earlier settings go: no report looks there."""
        if self.flat:
            return self.results.with_name(f"{self.results.name}-superseded")
        return self.results / "superseded"

    def timing_file(self, name) -> Path:
        """Where a timing's result is."""
        return self.results / "timings" / f"{name.removeprefix('timing-')}.json"

    def awaited(self, run) -> list[str]:
        """Runs that end before this one starts, however they end.

        A timing needs the whole machine: all that is planned before it.
        """
        if run.kind != "timing":
            return run.needs
        names = list(self.runs)
        return names[: names.index(run.name)]

    def marker(self, run) -> Path:
        """The file that says how a run ended."""
        file = f"{run.name}.{run.made}.json"
        return self.results / "graph" / run.kind / file

    def cards_of(self, kind) -> int:
        """How many GPUs a run of a kind takes."""
        most = {"data": 0, "table": 1, "score": 1, "check": 1, "timing": 1}
        return min(self.cards, most.get(kind, self.cards))

    @property
    def reported(self) -> Path:
        """The file that says that the report is written."""
        return self.results / REPORTS[self.report][1]

    def report_commands(self) -> list[list[str]]:
        """What is typed after ``python`` for the report, line by line."""
        runs, top = str(self.runs_folder), self.reported.parent
        return [
            ["-m", one, runs, "--output", str(top / place)]
            for one, place in REPORTS[self.report][0].items()
        ]


def status_of(plan, name) -> str:
    """How a run ended: done, same, failed, skipped or absent."""
    return marked(plan, name).get("status", "absent")


def marked(plan, name) -> dict:
    """What is noted of how a run ended, or nothing."""
    return _content(plan.marker(plan.runs[name]))


def _content(file):
    """What a JSON file says; a broken or absent one is as good as none."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def result_of(plan, name) -> dict:
    """A run's ``result.json``, or nothing."""
    return _content(plan.run_folder(name) / "result.json")


def is_done(plan, run) -> bool:
    """Whether the files that a run leaves say that it is done."""
    ended = started(plan, run).get("ended") == 0
    if run.kind in PLAIN_KINDS:
        return ended
    if run.kind == "timing":
        return ended and bool(_content(plan.timing_file(run.name)))
    if run.kind == "table":
        base, _, kind = run.name.rpartition("-table-")
        folder = plan.run_folder(base)
        tables = list(folder.glob(f"redundancy-{kind}*.json"))
        return ended and (
            bool(tables) or (folder / f"plan-{kind}.json").is_file()
        )
    name = run.name.removesuffix("-score") if run.kind == "score" else run.name
    result = result_of(plan, name)
    if result.get("status") != "done":
        return False
    return set(run.sets) <= set(result.get("scores", {}))


def is_lost(plan, name) -> bool:
    """Whether a run has a marker, and nothing there to show for it."""
    run, status = plan.runs[name], status_of(plan, name)
    if status != "done":
        return status in ("failed", "skipped")
    # Removed by hand, or made anew since with other settings.
    return not (started(plan, run) and is_done(plan, run))


def note_file(plan, run) -> Path:
    """Where it is noted which settings a run was started with."""
    if run.kind in ("baseline", "healed"):
        return plan.run_folder(run.name) / STARTED
    return plan.results / "graph" / "started" / f"{run.name}.json"


def started(plan, run) -> dict:
    """The note of a run that was started with these very settings."""
    note = _content(note_file(plan, run))
    return note if note.get("trained") == run.trained else {}


def put_aside(plan, run) -> None:
    """Move what other settings made out of the way, where it is not lost."""
    if started(plan, run):
        return
    folder, note = plan.run_folder(run.name), note_file(plan, run)
    if run.kind == "timing":
        folder = plan.timing_file(run.name)
    if run.kind in ("baseline", "healed", "timing") and folder.exists():
        old = plan.superseded / f"{run.name}-{time.time_ns()}"
        old.parent.mkdir(exist_ok=True)
        shutil.move(folder, old)
        print(f"{folder} was made with other settings: now {old}")
    note.parent.mkdir(parents=True, exist_ok=True)
    write_json(note, {"trained": run.trained})


def twin_of(run) -> str | None:
    """The run that lacks the same layers, where this one shall differ.

    Two paths may remove the same block at a depth. Then one run tells all,
    but for one depth that is always run if they never differ.
    """
    if not run.differs:
        return None
    starts = [
        {size: start for start, size in _content(Path(table))["path"]}
        for table in run.differs["tables"]
    ]
    unlike = [
        d for d in run.differs["depths"] if len({s[d] for s in starts}) > 1
    ]
    wanted = unlike or [run.differs["at_least"]]
    return None if run.differs["depth"] in wanted else run.differs["twin"]


def with_twins(plan, run) -> Run:
    """A run whose command names the twins of runs that were not made."""
    told = {need: marked(plan, need).get("twin") for need in run.needs}
    folders = {
        str(plan.run_folder(need)): str(plan.run_folder(twin))
        for need, twin in told.items()
        if twin
    }
    command = [folders.get(word, word) for word in run.command]
    return dataclasses.replace(run, command=command)
