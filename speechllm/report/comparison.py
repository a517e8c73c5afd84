"""Runs against one of them, speaker by speaker."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from speechbrain_ext.runs.files import of_form
from speechbrain_ext.runs.reading import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.scores.counts import (
    STATISTICS,
    speakers_of,
    utterance_counts,
)
from speechbrain_ext.scores.intervals import (
    group_sums,
    holm,
    jackknife,
    left_out,
    sign_permutation,
    t_bounds,
)
from speechbrain_ext.scores.language import form_of


def compare_runs(a: str | Path, *others: str | Path) -> dict:
    """Differences of runs' scores from the first's, and whether by chance.

    First minus other, on each common set; ``p_holm`` allows for all the tests
    of this call.
    """
    compared = [_compare(Path(a), Path(b)) for b in others]
    tests = [one for run in compared for one in run["sets"].values()]
    for one, p in zip(tests, holm([one["p_value"] for one in tests])):
        one["p_holm"] = p
    return {"a": load_run(a).name, "runs": compared}


def _compare(a, b):
    """All common sets of two runs."""
    one, other = load_run(a), load_run(b)
    names = [
        name
        for name, score in one.scores.items()
        if name in other.scores
        and other.scores[name].metric == score.metric
        and None not in (score.value, other.scores[name].value)
    ]
    if not names:
        raise ValueError(
            f"{a} and {b} have no scored set in common: evaluate both on one"
        )
    found = {}
    for name in names:
        scores = [(a, one.scores[name]), (b, other.scores[name])]
        _check_forms(name, scores)
        found[name] = _difference(name, scores)
    return {"b": other.name, "sets": found}


def _check_forms(name, scores):
    """Refuse scores whose texts were made ready in different ways."""
    forms = {}
    for folder, one in scores:
        mend = "Evaluate the run again"
        with of_form(folder, f": {name} has no score of ours", mend):
            forms[folder] = form_of(one.metric, one.language)
    if len(set(forms.values())) > 1:
        told = ", ".join(f"{k}: {form}" for k, form in forms.items())
        raise ValueError(
            f"{name} was not scored alike ({told}): evaluate both with the "
            "same language"
        )


def _rows(folder, name):
    """A run's answers by utterance."""
    path = Path(folder) / f"hypotheses-{name}.jsonl"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: is not there, so {name} cannot be compared speaker by "
            "speaker: evaluate the run again"
        )
    return {row["id"]: row for row in read_utterances(path)}


def _refuse_unlike(name, first, second):
    """Refuse two runs, folder and utterances, that do not fit together."""
    (a, one), (b, other) = first, second
    lacking = [
        f"{folder} lacks {len(gone)} ({', '.join(sorted(gone)[:3])})"
        for folder, gone in ((a, other - one), (b, one - other))
        if gone
    ]
    if lacking:
        raise ValueError(
            f"{name}: {len(one ^ other)} utterances are in only one of {a} "
            f"and {b}, which cannot be compared speaker by speaker then: "
            f"{'; '.join(lacking)}. Evaluate both again from one manifest"
        )


def _difference(name, scores):
    """First minus second, its 95 % interval and its two-sided p-value."""
    (a, one), (b, other) = scores
    found = [_rows(folder, name) for folder in (a, b)]
    _refuse_unlike(name, (a, found[0].keys()), (b, found[1].keys()))
    ids = sorted(found[0])
    tables = [[rows[i] for i in ids] for rows in found]
    statistic = STATISTICS[one.metric]
    # Older runs tell no speakers: those of the other run are the same.
    groups = min(map(speakers_of, tables), key=lambda g: len(set(g)))
    sums, values = [], []
    for rows in tables:
        counts = utterance_counts(rows, one.metric, one.language)
        sums_GK, _ = group_sums(counts, groups)
        sums.append(sums_GK)
        values.append(np.asarray(statistic(left_out(sums_GK))))
    gap = values[0] - values[1]
    known = len(gap) > 2 and bool(np.isfinite(gap).all())
    ends = t_bounds(gap[0], *jackknife([gap[1:]])) if known else (None, None)
    return {
        "metric": one.metric,
        "a": one.value,
        "b": other.value,
        "difference": float(gap[0]),
        "low": ends[0],
        "high": ends[1],
        "p_value": sign_permutation(*sums, statistic),
        "units": len(sums[0]),
        "over": "speakers" if len(groups) > len(set(groups)) else "utterances",
    }
