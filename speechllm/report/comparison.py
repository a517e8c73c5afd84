"""Two runs side by side, utterance by utterance."""

import os

from speechbrain_ext.runs.files import read_utterances
from speechbrain_ext.runs.result import load_run
from speechbrain_ext.scores.bootstrap import bootstrap_difference
from speechbrain_ext.scores.language import form_of
from speechbrain_ext.scores.score import STATISTICS, utterance_counts


def compare_runs(a, b, samples=1000):
    """Differences of two runs' scores, and whether they are chance."""
    runs = [load_run(folder) for folder in (a, b)]
    sets = {}
    for name, score in runs[0].scores.items():
        other = runs[1].scores.get(name)
        if other is None or other.metric != score.metric:
            continue
        _check_forms(name, (a, score), (b, other))
        counts = [_counts(folder, name, score) for folder in (a, b)]
        from_sums = STATISTICS[score.metric]
        found = bootstrap_difference(*counts, from_sums, n=samples)
        sets[name] = {
            "metric": score.metric,
            "a": score.value,
            "b": other.value,
            "difference": found.value,
            "low": found.low,
            "high": found.high,
            "p_value": found.p_value,
        }
    if not sets:
        raise ValueError(
            f"{a} and {b} have no scored set in common: evaluate both on one"
        )
    return {"a": runs[0].name, "b": runs[1].name, "sets": sets}


def _check_forms(name, *scores):
    """Refuse scores whose texts were made ready in different ways."""
    forms = [(of, form_of(one.metric, one.language)) for of, one in scores]
    if len({form for _, form in forms}) > 1:
        told = ", ".join(f"{of}: {form}" for of, form in forms)
        raise ValueError(
            f"{name} was not scored alike ({told}): evaluate both with the "
            "same language"
        )


def _counts(folder, name, score):
    """Counts of each utterance by its id (dict)."""
    path = os.path.join(folder, f"hypotheses-{name}.jsonl")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: is not there, so {name} cannot be compared utterance by "
            "utterance: evaluate the run again"
        )
    rows = read_utterances(path)
    counts = utterance_counts(rows, score.metric, score.language)
    return {row["id"]: one for row, one in zip(rows, counts)}
