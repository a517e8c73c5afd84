"""The form of a run's result."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.later import later
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
            ends = (
                "no bound" if e is None else f"{e:.2f}" for e in self.interval
            )
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
# Reading results back.


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
        if reading := later("runs.reading"):
            reading.check_run(run)
    return run


def _refuse_constant(name):
    raise ValueError(f"it holds {name}, which is no JSON")
