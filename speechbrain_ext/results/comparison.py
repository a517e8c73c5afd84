"""Two runs side by side, utterance by utterance.

Authors
 * The speechbrain_ext authors, 2026
"""

import os

from speechbrain_ext.results.rows import read_utterances
from speechbrain_ext.results.loading import load_run
from speechbrain_ext.scoring import (
    bleu_counts,
    bleu_from_sums,
    bootstrap_difference,
    wer_counts,
    wer_from_sums,
    word_errors,
)


def compare_runs(a, b, samples=1000):
    """Differences of two runs' scores, and whether they are chance.

    Arguments
    ---------
    a, b : str
        Run folders.
    samples : int
        Sets of utterances that are drawn.

    Returns
    -------
    dict
        a, b (names) and sets: name to metric, a, b, difference (A minus B),
        low, high (95 % interval) and p_value.

    Raises
    ------
    ValueError, FileNotFoundError
        If they have no set in common, or a set's utterances differ.
    """
    runs = [load_run(folder) for folder in (a, b)]
    sets = {}
    for name, score in runs[0].scores.items():
        other = runs[1].scores.get(name)
        if other is None or other.metric != score.metric:
            continue
        counts = [_counts(folder, name, score.metric) for folder in (a, b)]
        from_sums = wer_from_sums if score.metric == "WER" else bleu_from_sums
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


def _counts(folder, name, metric):
    """Counts of each utterance by its id (dict)."""
    path = os.path.join(folder, f"hypotheses-{name}.jsonl")
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"{path}: is not there, so {name} cannot be compared utterance by "
            "utterance: evaluate the run again"
        )
    rows = read_utterances(path)
    pairs = [(row["hypothesis"], row["reference"]) for row in rows]
    if metric == "WER":
        counts = wer_counts(word_errors(ref, hyp) for hyp, ref in pairs)
    else:
        counts = bleu_counts(*map(list, zip(*pairs)))
    return {row["id"]: one for row, one in zip(rows, counts)}
