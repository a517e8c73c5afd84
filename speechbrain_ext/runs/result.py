"""The form of a run's result."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.runs.files import configuration_hash, of_form, write_json

RESULT_FILE = "result.json"
STATUSES = ("running", "done", "failed")


@dataclass
class SetScore:
    """The score of a run on one evaluation set."""

    metric: str
    value: float | None
    interval: list | None = None
    insertions: int | None = None
    deletions: int | None = None
    substitutions: int | None = None
    words: int | None = None
    utterances: int | None = None
    signature: str | None = None
    others: dict = field(default_factory=dict)
    language: str | None = None
    normaliser: str | None = None
    hit_limit: int | None = None
    # Different ones; None where that of some utterance is not known.
    speakers: int | None = None

    def __str__(self):
        """Metric, value and interval, such as "WER 1.58 [1.10, 2.03]"."""
        if self.value is None:
            return f"{self.metric}: none"
        said = f"{self.metric} {self.value:.2f}"
        if self.interval:
            ends = [
                "no bound" if end is None else f"{end:.2f}"
                for end in self.interval
            ]
            said += f" [{', '.join(ends)}]"
        if self.normaliser:
            said += f" ({self.language or 'no language'}, {self.normaliser})"
        if self.hit_limit is not None:
            said += f", {self.hit_limit} of {self.utterances} at token limit"
        return said

    @property
    def higher_is_better(self):
        """Whether more is better: all metrics but WER."""
        return self.metric != "WER"


@dataclass
class RunResult:
    """Everything that one run has to tell; saved as its ``result.json``."""

    name: str
    backbone: str
    family: str = ""
    encoder: str = ""
    task: str = "ASR"
    layers: int = 0
    removed: int = 0
    start: int | None = None
    kept_layers: list | None = None
    healing: str = "none"
    adapter: str | None = None
    path: dict | None = None
    seed: int | None = None
    steps: int | None = None
    trainable: dict = field(default_factory=dict)
    scores: dict = field(default_factory=dict)
    validation: dict = field(default_factory=dict)
    speed: dict = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    train_peak_memory_bytes: int | None = None
    configuration: dict = field(default_factory=dict)
    versions: dict = field(default_factory=dict)
    # What was loaded: commits, files and their hashes.
    models: dict = field(default_factory=dict)
    data: dict = field(default_factory=dict)
    status: str = "running"
    error: str | None = None
    started: str | None = None
    finished: str | None = None
    made_by: str = ""

    def __post_init__(self):
        if self.status not in STATUSES:
            raise ValueError(
                f"status: {self.status!r} is none of {', '.join(STATUSES)}"
            )
        # No model has more; all are counted up below.
        if not 0 <= self.removed <= self.layers < 10_000:
            raise ValueError(
                f"removed: {self.removed} of {self.layers} layers (layers is "
                "the depth before pruning)"
            )
        if self.kept_layers is None and self.removed == 0:
            self.kept_layers = list(range(self.layers))
        self.scores = {
            name: one if isinstance(one, SetScore) else SetScore(**one)
            for name, one in self.scores.items()
        }
        self.made_by = self.made_by or configuration_hash(self.configuration)

    @property
    def removed_layers(self):
        """Old indices of the removed layers; None before they are chosen."""
        if self.kept_layers is None:
            row = range(self.removed)
            return None if self.start is None else [self.start + i for i in row]
        kept = set(self.kept_layers)
        return [i for i in range(self.layers) if i not in kept]

    @property
    def path_from(self):
        """Where the path came from: "speech", "text", a file; or None."""
        return (self.path or {}).get("from")

    @property
    def inference_peak_bytes(self):
        """Most memory that inference held; None where it is not known."""
        # Older runs have one peak, with training in it.
        if self.steps and self.train_peak_memory_bytes is None:
            return None
        return self.peak_memory_bytes

    def save(self, folder):
        """Write ``result.json`` into a folder, whole or not at all.

        Arguments
        ---------
        folder : str or Path
            The run's folder; made where it is missing.

        Returns
        -------
        Path
            The file.
        """
        path = Path(folder) / RESULT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, dataclasses.asdict(self))
        return path


# ----------------------------------------------------------------------------
# Reading results back, the sound ones apart from the rest.
#
# A result that cannot be trusted (failed, still running, half-written, of
# another form) is kept apart with its reason: it never enters a table as a
# number.


def load_run(folder):
    """Read the result of one run.

    Arguments
    ---------
    folder : str or Path
        The run's folder, or its ``result.json``.

    Returns
    -------
    RunResult
        Whatever its status.

    Raises
    ------
    FileNotFoundError
        If there is no result.
    ValueError
        If it is not a whole result: names file and fault.
    """
    path = Path(folder)
    path = path / RESULT_FILE if path.suffix != ".json" else path
    mend = "Start its command again, or give another folder"
    with of_form(path, ": not whole JSON", mend):
        content = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse_constant
        )
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not the result of a run")
    with of_form(path, ": not a result of ours", mend):
        run = RunResult(**content)
        _check_run(run)
    return run


def _check_run(run):
    """Refuse values of other types than the reader of a table expects."""
    for where, one in [("", run), *run.scores.items()]:
        for each in dataclasses.fields(one):
            _check_type(
                f"{where} {each.name}", getattr(one, each.name), each.type
            )
    for where in ("speed", "trainable"):
        for name, value in getattr(run, where).items():
            _check_type(f"{where}.{name}", value, float | None)
    for layer in run.kept_layers or []:
        _check_type("a kept layer", layer, int)
    # A done run must have the scores that it was to have, as numbers.
    wanted = run.configuration.get("test_splits", True)
    if run.status == "done" and wanted and not run.scores:
        raise ValueError("its status is done, but it has no scores")
    for name, one in run.scores.items():
        if one.interval and len(one.interval) != 2:
            raise ValueError(f"the interval of {name} has no two ends")
        for value in one.interval or []:
            _check_type(f"the interval of {name}", value, float | None)


def _check_type(where, value, kind):
    """Refuse a value of another type; a whole number is a number as well."""
    # type() and not isinstance(): a bool is an int, but no number.
    fits = isinstance(value, kind) and type(value) is not bool
    if not fits and not (type(value) is int and isinstance(0.5, kind)):
        raise ValueError(f"{where.strip()} is {value!r:.80}")


def _refuse_constant(name):
    raise ValueError(f"it holds {name}, which is no JSON")


@dataclass
class LoadedRuns:
    """The results found below a folder, the sound ones apart."""

    done: list = field(default_factory=list)
    unfinished: list = field(default_factory=list)
    broken: list = field(default_factory=list)
    folders: dict = field(default_factory=dict)

    @property
    def all(self):
        """Done and unfinished runs together."""
        return self.done + self.unfinished


def load_runs(folder):
    """Read every ``result.json`` below a folder, in the order of their paths.

    Arguments
    ---------
    folder : str or Path
        Searched with all folders in it.

    Returns
    -------
    LoadedRuns
        The sound results, the unfinished and the broken ones apart.

    Raises
    ------
    FileNotFoundError
        If the folder does not exist.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(
            f"{folder}: no such folder of results; run a recipe first or "
            "name the folder that its runs were written to"
        )
    found = LoadedRuns()
    for path in sorted(folder.rglob(RESULT_FILE)):
        try:
            run = load_run(path)
        except (ValueError, OSError) as error:
            fault = str(error).removeprefix(f"{path}: ")
            found.broken.append((str(path.relative_to(folder)), fault))
            continue
        found.folders[run.name] = path.parent
        (found.done if run.status == "done" else found.unfinished).append(run)
    return found
