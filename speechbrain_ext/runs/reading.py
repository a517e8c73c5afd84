"""Reading results back, the sound ones apart from the rest.

A result that cannot be trusted (failed, still running, half-written, of
another form) is kept apart with its reason: it never enters a table as a
number.
"""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.runs.files import LOSSES_FILE, of_form
from speechbrain_ext.runs.result import RESULT_FILE, load_run

TEXTS = "reference", "hypothesis"


def check_run(run):
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


def read_utterances(path):
    """Read the rows that `write_hypotheses` or `write_losses` wrote.

    Arguments
    ---------
    path : str or Path
        A ``hypotheses-<set>.jsonl`` or ``losses-valid.jsonl``.

    Returns
    -------
    list of dict
        A row per utterance.

    Raises
    ------
    ValueError
        If a line is not JSON, or lacks a text: names file and line.
    """
    rows = []
    path = Path(path)
    mend = "Evaluate the run again to write it anew"
    with of_form(path, ": not text in UTF-8", mend):
        # Split at newlines only: a text may hold other line separators.
        lines = path.read_text(encoding="utf-8").split("\n")
    for number, line in enumerate(lines, start=1):
        if line:
            with of_form(path, f", line {number}: not JSON of ours", mend):
                rows.append(_row(json.loads(line), path.name))
    return rows


def _row(row, name):
    """A row with what it must have: an id, and texts or a loss."""
    if not isinstance(row, dict):
        raise ValueError(f"it is {row!r:.40}")
    texts, numbers = ("id", *TEXTS), ()
    if name == LOSSES_FILE:
        texts, numbers = ("id",), ("loss", "tokens")
    if row.get("speaker") is not None:
        texts = (*texts, "speaker")
    for key in texts:
        if not isinstance(row[key], str):
            raise ValueError(f"its {key} is {row[key]!r:.40}, not a text")
    for key in numbers:
        # None: what JSON has for NaN.
        if type(row[key]) not in (int, float, type(None)):
            raise ValueError(f"its {key} is {row[key]!r:.40}, not a number")
    return row
