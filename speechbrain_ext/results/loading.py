"""Reading results back, the sound ones apart from the rest.

A result that cannot be trusted (failed, still running, half-written, of
another form) is kept apart with its reason: it never enters a table as a
number.

Authors
 * The speechbrain_ext authors, 2026
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from speechbrain_ext.results.run import RESULT_FILE, RunResult


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

    Example
    -------
    >>> folder = str(getfixture("tmpdir"))
    >>> _ = RunResult("base", "tiny", layers=4).save(folder)
    >>> load_run(folder).layers
    4
    """
    path = Path(folder)
    path = path / RESULT_FILE if path.suffix != ".json" else path
    try:
        content = json.loads(
            path.read_text(encoding="utf-8"), parse_constant=_refuse_constant
        )
    except ValueError as error:
        raise ValueError(f"{path}: not whole JSON ({error})") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path}: not the result of a run")
    try:
        run = RunResult(**content)
        _check_scores(run)
    except (TypeError, ValueError, AttributeError) as error:
        raise ValueError(f"{path}: not a result of ours ({error})") from error
    return run


def _check_scores(run):
    """A done run must have the scores that it was to have, as numbers."""
    wanted = run.configuration.get("test_splits", True)
    if run.status == "done" and wanted and not run.scores:
        raise ValueError("its status is done, but it has no scores")
    for name, one in run.scores.items():
        for value in [one.value, *(one.interval or [])]:
            # type() and not isinstance(): a bool is an int, but no score.
            if value is not None and type(value) not in (int, float):
                raise ValueError(f"the score of {name} is {value!r}")


def _refuse_constant(name):
    raise ValueError(f"it holds {name}, which is no JSON")


@dataclass
class LoadedRuns:
    """The results found below a folder, the sound ones apart.

    Arguments
    ---------
    done : list of RunResult
        Finished runs, the only ones whose scores count.
    unfinished : list of RunResult
        Runs whose status is failed or running.
    broken : list of (str, str)
        File (from the searched folder) and fault of what cannot be read.
    folders : dict of str to Path
        Where each sound result lies, by the run's name.

    Example
    -------
    >>> LoadedRuns([], [], [("a/result.json", "not whole JSON")]).done
    []
    """

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

    Example
    -------
    >>> folder = getfixture("tmpdir")
    >>> _ = RunResult("base", "tiny", layers=4).save(str(folder.join("base")))
    >>> [run.name for run in load_runs(str(folder)).unfinished]
    ['base']
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
